"""An episode's heavy steps in several processes: `accelerate launch` starts `lorax.learning.rank` for each GPU.

What the ranks need goes to them as one JSON file; what they have to tell comes back as lines of JSON. They end when
this process does, however it ends.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import torch

from lorax import errors
from lorax.data.images import Progress
from lorax.errors import LoraxError, ParamsError
from lorax.learning.folder import EpisodeFolder
from lorax.learning.queries import Fetch
from lorax.learning.training import EpochRow, OnEpoch
from lorax.network.network import device_of
from lorax.storage import write_record
from lorax.stream import Sample, Task

Work = Literal["fit", "look"]
"""`Episode.fit`, or `Episode.look_at_tests`, which comes after `Episode.calibrate`."""

_PATIENCE_S = 30


@dataclass(frozen=True)
class Job:
    """What the ranks are to do, of the episode in `folder`; `tasks` end with its own."""

    work: Work
    folder: str
    tasks: tuple[Task, ...]
    paths: Mapping[str, str]


def launch(
    work: Work,
    folder: EpisodeFolder,
    tasks: Sequence[Task],
    samples: Sequence[Sample],
    fetch: Fetch,
    on_epoch: OnEpoch | None,
    on_progress: Progress | None,
) -> None:
    """Have as many processes as an episode's plan asks for do a part of its work, and return when it is done.

    Args:
        work: which part.
        folder: the episode's.
        tasks: those that its base knows, and its own.
        samples: the images that are looked at.
        fetch: finds them.

    Raises:
        ParamsError: there are fewer GPUs.
        LoraxError: what a rank raised.
        RuntimeError: a rank ended otherwise.
    """
    run = folder.plan().params.run
    _check_gpus(run.processes, device_of(run.device).type == "cpu")
    home = folder.root / "launch"
    shutil.rmtree(home, ignore_errors=True)  # of a run that was killed
    paths = {md5: str(path) for md5, path in fetch(samples).items()}
    write_record(home / "job.json", Job(work, str(folder.root), tuple(tasks), paths))
    failed: list[Mapping[str, Any]] = []
    with _ranks(home, run.processes) as (process, lines):
        for said in filter(None, map(_said, lines)):
            _tell(said, on_epoch, on_progress)
            failed += [said] if "error" in said else []
        if process.wait() != 0:
            raise _error(failed, home / "log.txt")
    shutil.rmtree(home)


def launch_command(processes: int) -> list[str]:
    """What starts a program in so many processes on this machine; its name and arguments follow."""
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ]


@contextmanager
def _ranks(home: Path, processes: int) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """The launcher and what the ranks print; they end with the block."""
    command = [*launch_command(processes), "-m", "lorax.learning.rank", str(home / "job.json")]
    pipe = subprocess.PIPE
    with (
        (home / "log.txt").open("w") as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True) as process,
    ):
        assert process.stdin
        assert process.stdout
        try:
            yield process, process.stdout
        finally:
            process.stdin.close()  # at which the ranks end
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _tell(said: Mapping[str, Any], on_epoch: OnEpoch | None, on_progress: Progress | None) -> None:
    if "epoch" in said and on_epoch:
        on_epoch(EpochRow(**said["epoch"]), said["of"])
    if "done" in said and on_progress:
        on_progress(said["done"], said["total"], said["what"])


def _said(line: str) -> dict[str, Any] | None:
    """What a rank tells; its libraries may print, too."""
    with suppress(ValueError):
        record = json.loads(line)
        return record if isinstance(record, dict) else None
    return None


def _error(told: Sequence[Mapping[str, Any]], log: Path) -> Exception:
    """The first error that the user can mend, else the first one."""
    for said in told:
        kind = getattr(errors, said["error"], None)
        if kind is not None:
            raised: LoraxError = kind(said["message"])
            return raised
    why = told[0]["message"] if told else "it said nothing of why"
    return RuntimeError(f"a process of the group ended before its work was done: {why}\nIts log: {log}")


def _check_gpus(processes: int, on_cpu: bool) -> None:
    found = torch.cuda.device_count()
    if not on_cpu and processes > found:
        raise ParamsError(
            f"run.processes is {processes}, but this machine has {found} GPU{'s' * (found != 1)}; each process needs "
            "one of its own. Lower run.processes in params.yaml."
        )
