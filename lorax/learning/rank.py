"""One process of a group: does its part of a job, and ends when who started it does. Run by `accelerate launch`."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorax.errors import LoraxError
from lorax.learning import episode
from lorax.learning.folder import EpisodeFolder
from lorax.learning.launch import Job
from lorax.learning.loading import device_of
from lorax.learning.state import load_state
from lorax.learning.training import EpochRow
from lorax.network.process_group import LaunchedGroup
from lorax.params import Params
from lorax.stream import Sample


def main(path: Path) -> None:
    """Do a part of the job in the file."""
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    try:
        job = Job.read(path)
        params = Params.model_validate(job.params)
        group = LaunchedGroup(cpu=device_of(params.run.device).type == "cpu")
        assert group.size == params.run.processes
        _work(job, params, group)
    except Exception as error:
        message = str(error) if isinstance(error, LoraxError) else traceback.format_exc()
        _say({"error": type(error).__name__, "message": message})
        sys.exit(1)


def _work(job: Job, params: Params, group: LaunchedGroup) -> None:
    def on_epoch(row: EpochRow, epochs: int) -> None:
        _say({"epoch": asdict(row), "of": epochs})

    def on_progress(done: int, total: int, what: str) -> None:
        if group.is_main:
            _say({"done": done, "total": total, "what": what})

    def fetch(samples: Any) -> dict[str, Path]:
        wanted: list[Sample] = list(samples)
        return {sample.md5: Path(job.paths[sample.md5]) for sample in wanted}

    folder, base = EpisodeFolder(Path(job.folder)), load_state(Path(job.base))
    if job.work == "train":
        episode.train_branch(folder, base, job.tasks[0], fetch, params, on_epoch, on_progress, group)
    else:
        episode.look_at_tests(folder, base, job.tasks, fetch, params, on_progress, group)
    group.barrier()


def _say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


def _end_with_the_launcher() -> None:
    """Nothing is ever written to the standard input: it ends when the other side is gone."""
    os.read(sys.stdin.fileno(), 1)  # sys.stdin itself would hold a lock that the interpreter's end needs
    os._exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
