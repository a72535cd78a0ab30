"""Servers that outlived their supervisor or their parent: found by a mark in their environment, and stopped.

MLflow's server may have web workers below it. When it is killed they live on and keep the port, so the next start
would fail; the same is true of every server when the supervisor itself is killed. Therefore the supervisor runs this
file in front of each server: it stops what is left of that server, then becomes the server.
No process is ever chosen by its name, and none that does not carry this workspace's mark.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

FOLDER_VARIABLE = "LORAX_SERVICES_DIR"
"""Every process that `up` starts, and all below it, carry the services folder in this environment variable."""

WORKSPACE_VARIABLE = "LORAX_FIRST_COMMIT"
"""What they also carry: the workspace's first commit, which all of its checkouts share."""

SERVICE_VARIABLE = "LORAX_SERVICE"
"""Which server a process belongs to."""


def find(folder: str, service: str | None = None) -> list[psutil.Process]:
    """Processes marked with `folder` (and `service`), without this one and those that it descends from."""
    return [
        process
        for process, marks in _marked()
        if marks[FOLDER_VARIABLE] == folder and service in (None, marks.get(SERVICE_VARIABLE))
    ]


def carried(folder: str, service: str, variable: str) -> set[str]:
    """What the processes marked with `folder` and `service` have in another variable of their environment."""
    of_service = (
        marks for _, marks in _marked() if (marks[FOLDER_VARIABLE], marks.get(SERVICE_VARIABLE)) == (folder, service)
    )
    return {marks[variable] for marks in of_service if variable in marks}


def folders(first_commit: str) -> set[str]:
    """The services folders for which processes of the workspace with this first commit run."""
    return {marks[FOLDER_VARIABLE] for _, marks in _marked() if marks.get(WORKSPACE_VARIABLE) == first_commit}


def holders(path: Path) -> list[psutil.Process]:
    """Processes that have a file open, such as a lock that they hold or wait for; without this one."""
    holding = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or gone meanwhile
            if process.pid != os.getpid() and any(file.path == str(path) for file in process.open_files()):
                holding.append(process)
    return holding


def stop(processes: list[psutil.Process], patience_s: float = 10.0) -> None:
    """Ask `processes` to end, wait `patience_s` seconds, then end those that have not."""
    left = processes
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with suppress(psutil.NoSuchProcess):
                end(process)
        _, left = psutil.wait_procs(left, timeout=patience_s)


def stop_all(folder: str, service: str | None = None, patience_s: float = 10.0) -> None:
    """Stop every marked process; looks again until none is left, since a server may start others while it stops."""
    deadline = time.monotonic() + 2 * patience_s
    while (left := find(folder, service)) and time.monotonic() < deadline:
        stop(left, patience_s)


def _marked() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """The processes that `up` started in any workspace and what they carry, without this one and its ancestors."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            marks = {} if process.pid in own else process.environ()
        except (psutil.Error, OSError):  # another user's, or gone meanwhile
            continue
        if FOLDER_VARIABLE in marks:
            yield process, marks


if __name__ == "__main__":
    stop_all(os.environ[FOLDER_VARIABLE], os.environ[SERVICE_VARIABLE], patience_s=5.0)
    os.execv(sys.argv[1], sys.argv[1:])
