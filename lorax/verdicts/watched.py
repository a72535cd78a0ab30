"""A stream of verdicts to be watched: on the images that come into a folder, or those of `lorax predict --json`."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorax.data.walk import Found, files_named
from lorax.errors import StateError
from lorax.verdicts.answers import Answer, answers
from lorax.verdicts.predictor import TOO_LITTLE, Judged, Predictor

POLL_S = 2.0

OnBad = Callable[[str], None]
"""Told what is wrong with a file or a line, which is then left out."""


@dataclass(frozen=True)
class WatchedVerdict:
    """A verdict in the stream. `judged` has what it was made from, where it was made here."""

    file: str
    sha256: str
    verdict: str
    is_ood: bool
    version: int
    judged: Judged | None = None


class Inbox:
    """The images in and below a folder, each judged once: again only if it changes, and not while it is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._judged: dict[str, tuple[int, int]] = {}
        self._seen: dict[str, tuple[int, int]] = {}

    def new(self, *, settled: bool = False) -> list[Found]:
        """What has come since the last call, oldest first.

        Args:
            settled: take all that is there; else only what has not changed since the call before.
        """
        now = dict(self._listed())
        before, self._seen = self._seen, now
        self._judged = {name: state for name, state in self._judged.items() if name in now}
        new = [
            (state, name)
            for name, state in now.items()
            if self._judged.get(name) != state and (settled or before.get(name) == state)
        ]
        self._judged.update({name: state for state, name in new})
        return [Found(Path(name)) for _, name in sorted(new)]

    def _listed(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for file in files_named([str(self.folder)], patterns=False):
            status = _status(file.path)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                yield str(file.path), (status.st_mtime_ns, status.st_size)


def from_folder(
    folder: Path, opened: Callable[[], tuple[Predictor, int]], on_bad: OnBad, *, once: bool
) -> Iterator[list[WatchedVerdict]]:
    """Verdicts on the images in a folder, in lists; an empty one when nothing new has come.

    Args:
        folder: where images come in.
        opened: the predictor to use now, and its version's number.
        on_bad: see `OnBad`.
        once: end when what is there has been judged.
    """
    inbox = Inbox(folder)
    while True:
        predictor, version = opened()
        for batch in answers(predictor, inbox.new(settled=once)):
            yield [s for answer in batch for s in _judged(answer, version, on_bad)]
        if once:
            return
        yield []
        time.sleep(POLL_S)


def from_lines(lines: Iterable[bytes | None], on_bad: OnBad) -> Iterator[list[WatchedVerdict]]:
    """Verdicts as `lorax predict --json` wrote them, in lists; an empty one for None, that is when no more are there.

    Raises:
        StateError: a version that is not calibrated made them, which can't tell what is unknown.
    """
    number = 0
    for line in lines:
        if line is None:
            yield []
            continue
        number += 1
        try:
            record = json.loads(line)
            yield [] if "error" in record else [_parsed(record)]
        except StateError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            on_bad(
                f"line {number} is left out: it is none of 'lorax predict PATH --json' "
                f"({type(error).__name__}: {error})."
            )


def followed(path: Path, *, once: bool) -> Iterator[bytes | None]:
    """The lines of a file, then those that are written to it, as `tail -F` has them; None when there are none just now.

    A file that has become shorter, or another under the same name, is read from its beginning.
    """
    file = path.open("rb")
    rest = b""
    try:
        while True:
            while data := file.readline():
                rest += data
                if rest.endswith(b"\n"):
                    yield rest
                    rest = b""
            if once:
                break
            yield None
            time.sleep(POLL_S)
            if _is_another(path, file.fileno(), file.tell()):
                file.close()
                file, rest = path.open("rb"), b""
        if rest:
            yield rest
    finally:
        file.close()


def _status(path: Path) -> os.stat_result | None:
    """Of a file; of the link itself where it can't be followed, which reading it will say; None if it is gone again."""
    for follow in (True, False):
        try:
            return path.stat(follow_symlinks=follow)
        except OSError:
            continue
    return None


def _judged(answer: Answer, version: int, on_bad: OnBad) -> list[WatchedVerdict]:
    reading = answer.reading
    if answer.judged is None:
        on_bad(reading.error)
        return []
    verdict = answer.judged.verdict
    return [WatchedVerdict(reading.name, reading.sha256, verdict.verdict, verdict.is_ood, version, answer.judged)]


def _parsed(record: Mapping[str, Any]) -> WatchedVerdict:
    version = int(record["version"])
    if not record["calibrated"]:
        raise not_calibrated(version)
    verdict = str(record["verdict"])
    is_ood = verdict != TOO_LITTLE and float(record["strangeness"]) > float(record["threshold"])
    return WatchedVerdict(str(record["file"]), str(record["sha256"]), verdict, is_ood, version)


def _is_another(path: Path, opened: int, read: int) -> bool:
    try:
        now = path.stat()
    except OSError:
        return False
    return now.st_size < read or now.st_ino != os.fstat(opened).st_ino


def not_calibrated(version: int) -> StateError:
    """The error for a version that can't tell what is unknown."""
    return StateError(
        f"version {version} is not calibrated, so it can't tell what is like nothing known: there is nothing to watch. "
        "Name another --version. To have calibrated ones: set calibration.per_class and a new registry.model in "
        "params.yaml, then 'lorax learn': every class needs images that were never trained on."
    )
