"""One process of a group: does its part of a job, and ends when who started it does. Run by `accelerate launch`."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorax.errors import LoraxError
from lorax.learning.episode import Episode
from lorax.learning.folder import EpisodeFolder
from lorax.learning.launch import Job
from lorax.learning.training import EpochRow
from lorax.network.network import device_of
from lorax.network.process_group import LaunchedGroup
from lorax.storage import read_record
from lorax.stream import Sample


def main(path: Path) -> None:
    """Do a part of the job in the file."""
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    try:
        job = read_record(Job, path)
        run = EpisodeFolder(Path(job.folder)).plan().params.run
        group = LaunchedGroup(cpu=device_of(run.device).type == "cpu")
        assert group.size == run.processes
        _work(job, group)
    except Exception as error:
        message = str(error) if isinstance(error, LoraxError) else traceback.format_exc()
        _say({"error": type(error).__name__, "message": message})
        sys.exit(1)


def _work(job: Job, group: LaunchedGroup) -> None:
    def on_epoch(row: EpochRow, epochs: int) -> None:
        _say({"epoch": asdict(row), "of": epochs})

    def on_progress(done: int, total: int, what: str) -> None:
        if group.is_main:
            _say({"done": done, "total": total, "what": what})

    def fetch(samples: Iterable[Sample]) -> dict[str, Path]:
        return {sample.md5: Path(job.paths[sample.md5]) for sample in samples}

    tasks = {task.name: task for task in job.tasks}
    episode = Episode.open(EpisodeFolder(Path(job.folder)), tasks.__getitem__, fetch, group=group)
    if job.work == "fit":
        episode.fit(on_epoch, on_progress)
    else:
        episode.look_at_tests(on_progress)
    group.barrier()


def _say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def _end_with_the_launcher() -> None:
    """Nothing is ever written to the standard input: it ends when the other side is gone."""
    os.read(sys.stdin.fileno(), 1)  # sys.stdin itself would hold a lock that the interpreter's end needs
    os._exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
