"""A real MLflow server on SQLite, one for all processes of a test run: the first that needs it starts it.

It ends when the run's first process has ended, however that came about.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import pytest
import requests

from lorax.storage import locked

START_S = 240
FOLDERS: dict[str, Path] = {}
"""Of the server that tests were given, by its address."""


@dataclass(frozen=True)
class Server:
    """A running MLflow server."""

    uri: str
    folder: Path

    @property
    def database_uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    base = tmp_path_factory.getbasetemp()
    is_one_of_several = "PYTEST_XDIST_WORKER" in os.environ
    folder = (base.parent if is_one_of_several else base) / "mlflow"
    address = folder / "address"
    with locked(folder / "lock"):
        if not address.exists():
            found = Server(f"http://127.0.0.1:{free_port()}", folder)
            _start(found, os.getppid() if is_one_of_several else os.getpid())
            address.write_text(found.uri)
    FOLDERS[uri := address.read_text()] = folder
    return Server(uri, folder)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@cache  # which keeps the process's object for as long as this process lives
def _start(server: Server, pid: int) -> subprocess.Popen[bytes]:
    """Start it until process `pid` ends, and wait until it answers."""
    command = ["lorax.registry.server", server.uri.split(":")[-1]]
    environment = os.environ | {
        "DO_NOT_TRACK": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": "artifacts",
        "MLFLOW_WORKERS": "1",
    }
    with (server.folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, str(pid), *command],
            stdout=log, stderr=log, start_new_session=True, cwd=server.folder, env=environment,
        )  # fmt: skip
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            requests.get(f"{server.uri}/health", timeout=10)
            return process
        except requests.RequestException:
            time.sleep(0.3)
    raise AssertionError((server.folder / "log").read_text())


def _keep(pid: int, command: Sequence[str]) -> None:
    """Run a command, in the process group that this process leads, until process `pid` has ended."""
    process = subprocess.Popen([sys.executable, "-m", *command])
    while psutil.pid_exists(pid) and process.poll() is None:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    _keep(int(sys.argv[1]), sys.argv[2:])
