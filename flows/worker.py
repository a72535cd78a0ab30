"""`python -m flows.worker`: Prefect's own worker, in the environment of the workspace that it is started in.

`lorax up` has supervisord run this. It changes into `prefect worker start`, so there is no process in between.
"""

from __future__ import annotations

import os
import re
import socket
import sys

from lorax.params import load_params
from lorax.services import embedded
from lorax.workspace import Workspace

POOL = "gpu"

_SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # seconds between looks for work: a landing should not wait for ten
}


def environment(workspace: Workspace) -> dict[str, str]:
    """What the worker and its flows run in."""
    own = embedded.environment(workspace, load_params(workspace.params_path))
    here = {"LORAX_WORKSPACE": str(workspace.root), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
    return {**_SETTINGS, **os.environ, **own, **here}


def command(workspace: Workspace) -> list[str]:
    """Prefect's worker, one run at a time, under a name that it keeps from start to start."""
    name = re.sub("[/%]", "-", f"{workspace.root.name} on {socket.gethostname()}")  # Prefect refuses these two
    start = ("-m", "prefect", "worker", "start", "--type", "process", "--limit", "1")
    return [sys.executable, *start, "--pool", POOL, "--name", name]


if __name__ == "__main__":
    here = Workspace.find()
    os.execve(sys.executable, command(here), environment(here))
