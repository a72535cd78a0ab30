"""Prefect's own server and worker, as `lorax up` has supervisord run them.

`python -m flows.processes server PORT`: the server on loopback, closed to everybody but the workspace in whose folder
it is started. Prefect alone answers every origin, every host name and anybody, and who may ask it can have its worker
run commands. Here a request needs the workspace's auth string, and no page but Prefect's own gets as far as being asked
for it.

`python -m flows.processes worker`: the worker, in the environment of the workspace that it is started in.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

from flows.deployment import POOL
from lorax.origins import OwnOriginsOnly
from lorax.params import load_params
from lorax.services import servers
from lorax.workspace import Workspace

_SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "PREFECT_WORKER_QUERY_SECONDS": "2",  # seconds between looks for work: a landing should not wait for ten
}


def serve(port: int, folder: Path) -> None:
    """Serve until told to stop."""
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = servers.auth_string(folder)
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    uvicorn.run(
        OwnOriginsOnly(create_app(final=True)),
        host=servers.HOST,
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        log_level=settings.logging_level.lower(),
    )


def work(workspace: Workspace) -> None:
    """Become Prefect's worker, one run at a time, under a name that it keeps from start to start."""
    name = re.sub("[/%]", "-", f"{workspace.root.name} on {socket.gethostname()}")  # Prefect refuses these two
    start = ("-m", "prefect", "worker", "start", "--type", "process", "--limit", "1")
    own = servers.environment(workspace, load_params(workspace.params_path))
    here = {"LORAX_WORKSPACE": str(workspace.root), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
    command = [sys.executable, *start, "--pool", POOL, "--name", name]
    os.execve(sys.executable, command, {**_SETTINGS, **os.environ, **own, **here})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["server", port]:
            serve(int(port), Path.cwd())
        case ["worker"]:
            work(Workspace.find())
