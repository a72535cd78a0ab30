"""`lorax` in processes forked from one that has imported what commands import, which is most of a short one's seconds;
one for all processes of a test run.

Each is a process of its own, with its own folder, environment, signals, output and exit code, and ends as Python ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from lorax.storage import locked

ROOT = Path(__file__).parents[1]
IMPORTED = (
    *("torch._dynamo", "peft.tuners.lora", "pandas", "dvc.repo", "mlflow.tracking", "mlflow.pyfunc"),
    *("mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.store.model_registry.sqlalchemy_workspace_store"),
    *("lorax.cli", "lorax.reconcile", "lorax.data.landing", "lorax.learning.episode", "lorax.learning.assessment"),
    *("lorax.atlas.layer_similarity", "lorax.atlas.drawing", "lorax.registry.registration", "lorax.registry.figures"),
    *("sklearn.manifold", "scipy.cluster.hierarchy", "matplotlib.pyplot"),
    *("httpx", "pydantic_settings", "pendulum", "pydantic_extra_types.pendulum_dt", "jsonschema", "griffe", "toml"),
    *("prometheus_client", "websockets.asyncio.client", "amplitude", "humanize", "coolname", "asgi_lifespan"),
)
"""Of Prefect only what it imports: itself it reads the environment as it is imported."""


class Process:
    """A command that was started, as subprocess has them; what it writes goes to files, so that it never waits."""

    def __init__(self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="lorax-"))
        self._paths = [self._folder / name for name in ("output", "errors")]
        self.pid: int = _ask({
            "arguments": list(arguments),
            "cwd": str(cwd),
            "environment": dict(environment),
            "paths": [str(path) for path in self._paths],
        })  # fmt: skip
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative the signal's number, or None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for its end; returns what it wrote to standard output and to standard error."""
        while self.poll() is None:
            time.sleep(0.02)
        output, errors = (path.read_text() for path in self._paths)
        shutil.rmtree(self._folder)
        return output, errors


def _ask(request: dict[str, Any]) -> Any:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(_server()[0]))
        with connection.makefile("rw") as lines:
            print(json.dumps(request), file=lines, flush=True)
            return json.loads(lines.readline())


@cache  # which keeps the process's object for as long as this process lives
def _server() -> tuple[Path, subprocess.Popen[bytes] | None]:
    """Where it listens, and the process, if this one started it: the first of a test run that needs one does for all.

    It ends when the run's first process has ended, however that came about.
    """
    is_one_of_several = "PYTEST_XDIST_WORKER" in os.environ
    run, pid = (os.environ["PYTEST_XDIST_TESTRUNUID"], os.getppid()) if is_one_of_several else ("", os.getpid())
    folder = Path(tempfile.gettempdir(), f"lorax-forked-{run or pid}")
    address = folder / "socket"
    with locked(folder / "lock"), socket.socket(socket.AF_UNIX) as listener:
        if address.exists():
            return address, None
        listener.bind(str(address))
        listener.listen()
        number, null = listener.fileno(), subprocess.DEVNULL
        command = [sys.executable, "-m", __name__, str(number), str(pid), str(folder)]
        return address, subprocess.Popen(command, cwd=ROOT, stdin=null, stdout=null, pass_fds=[number])


def _asked(listener: socket.socket, pid: int) -> dict[str, Any] | None:
    """Answer until process `pid` ends, with None; returns in each process that is to be a command, too: which."""
    listener.settimeout(1.0)
    while psutil.pid_exists(pid):
        with suppress(TimeoutError):
            connection, _ = listener.accept()
            with connection, connection.makefile("rw") as lines:
                request: dict[str, Any] = json.loads(lines.readline())
                if "poll" in request:
                    ended, status = os.waitpid(request["poll"], os.WNOHANG)
                    answer = os.waitstatus_to_exitcode(status) if ended else None
                elif not (answer := os.fork()):
                    return request
                print(json.dumps(answer), file=lines, flush=True)
    return None


def _become(request: dict[str, Any]) -> None:
    for number, path in enumerate([os.devnull, *request["paths"]]):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what was started in the background
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["lorax", *request["arguments"]]


if __name__ == "__main__":
    importlib.import_module("lorax.network.building").import_timm()  # before PEFT, whose torchvision it mends
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # what all share is not looked through in each
    with socket.socket(fileno=int(sys.argv[1])) as asking:
        asked = _asked(asking, int(sys.argv[2]))
    if asked is None:
        shutil.rmtree(sys.argv[3])
    else:
        _become(asked)
        runpy.run_module("lorax", run_name="__main__", alter_sys=True)
