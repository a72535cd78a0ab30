"""Many files examined by processes: half of an examination holds Python's lock, so threads leave the cores idle.

Each process runs this file as a program. It reads one line of JSON after the other, pairs of name and path, answers
each with what it saw, and ends with its input, so none outlives whoever asked.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from lorax.data.examine import Container, Examined, examine
from lorax.data.images import Progress, in_threads

_AT_ONCE = 64  # files in a line
_MOST = 8  # processes; as many as there are threads to ask them

Items = Sequence[tuple[str, Path]]


def examine_in_processes(items: Items, progress: Progress | None, what: str) -> list[Examined]:
    """`examine` of each (name, path), in order; what it says doesn't depend on where it runs.

    Args:
        items: name to report, and file.
        progress: told after each few files, under the name `what`.
    """
    parts = [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]

    def told(done: int, total: int, what: str) -> None:
        if progress is not None:
            progress(min(done * _AT_ONCE, len(items)), len(items), what)

    with _workers(min(_MOST, os.cpu_count() or 1, len(parts))) as idle:

        def examine_part(part: Items) -> list[Examined]:
            worker = idle.get()
            try:
                return _asked(worker, part)
            except (OSError, ValueError):  # it died, of lack of memory for instance
                return [examine(path, name) for name, path in part]
            finally:
                idle.put(worker)

        return [one for part in in_threads(examine_part, parts, told, what) for one in part]


@contextmanager
def _workers(count: int) -> Iterator[queue.SimpleQueue[subprocess.Popen[str]]]:
    """Processes that wait for lines; Ctrl-C in the terminal is for us alone, who then end them."""
    idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
    workers: list[subprocess.Popen[str]] = []
    try:
        for _ in range(count):
            workers.append(_worker())
            idle.put(workers[-1])
        yield idle
    finally:
        for worker in workers:
            worker.kill()  # it only reads
            worker.communicate()


def _worker() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "lorax.data.examiner"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="ascii",
        process_group=0,  # Ctrl-C is for us; in our session still, as its priority goes by that
    )


def _asked(worker: subprocess.Popen[str], part: Items) -> list[Examined]:
    """What the worker says of these files; ValueError if it doesn't say."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps([(name, str(path)) for name, path in part]) + "\n")
    worker.stdin.flush()
    return [_read(fields) for fields in json.loads(worker.stdout.readline())]


def _read(fields: Any) -> Examined:
    md5, (kind, mode, width, height, tables), fingerprint, problem = fields
    return Examined(md5, Container(kind, mode, width, height, tuple(tables)), fingerprint, problem)


def _answer() -> None:
    for line in sys.stdin:
        found = [astuple(examine(Path(path), name)) for name, path in json.loads(line)]
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _answer()
