"""`lorax` in processes forked from one that has imported what commands import, which is most of a short one's seconds.

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
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

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


@cache
def _server() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-m", __name__], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def _ask(request: dict[str, Any]) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def _serve(questions: IO[str]) -> None:
    """Answer until the tests end; returns in each process that is to be a command, too."""
    for line in questions:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif not (answer := os.fork()):
            _become(request)
            runpy.run_module("lorax", run_name="__main__", alter_sys=True)
            return
        print(json.dumps(answer), flush=True)


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
    _serve(sys.stdin)
