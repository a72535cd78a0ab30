"""What the proofs of `lorax serve` share: a workspace with two model versions, and a server that runs in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lorax.data.simulate import DEMO_TASKS
from lorax.params import load_params
from lorax.workspace import Workspace
from proofs.bench import (
    OPEN_GATE,
    change_params,
    environment,
    free_port,
    lorax,
    new_workspace,
    start_lorax,
    versions,
    wait_for,
)

HOME = Path("work/proofs/verdicts").resolve()
PATIENCE_S = 300.0

_QUICK = {
    "training": {"epochs": 1},
    "gate": OPEN_GATE,  # how good the versions are is of no matter here
    "serving": {"poll_s": 0.5},
}


@dataclass(frozen=True)
class Running:
    """A `lorax serve` that answers."""

    address: str
    process: subprocess.Popen[str]
    log: Path

    def get(self, path: str) -> Any:
        """What a GET answers: JSON, or text where it is none."""
        with urllib.request.urlopen(f"{self.address}{path}", timeout=60) as answer:
            body = answer.read().decode()
        return json.loads(body) if answer.headers["content-type"] == "application/json" else body

    @property
    def rss_mb(self) -> float:
        """Resident memory of the server's process."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    @property
    def peak_mb(self) -> float:
        """The most resident memory of the server's process so far."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def workspace_of_two(root: Path | None = None) -> Path:
    """A workspace whose model has two versions or more: the one given, that of an earlier run, or a new one.

    MLflow's server runs when this returns.
    """
    root = root or HOME / "serve"
    if not (root / "params.yaml").is_file() or len(versions(root)) < 2:
        raw = HOME / "mini-cddb"
        HOME.mkdir(parents=True, exist_ok=True)
        if not raw.is_dir():
            lorax("simulate", str(raw), cwd=HOME)
        root = new_workspace(HOME, root.name, tiny=False)
        change_params(root, _QUICK)
        for task in DEMO_TASKS[:2]:
            lorax("land", str(raw / task), "--task", task, cwd=root)
        lorax("learn", cwd=root)
    lorax("up", "--no-worker", cwd=root)
    return root


def images_of(root: Path, count: int) -> list[Path]:
    """Test images of the first two tasks, as many of each."""
    data = Workspace(root).data_dir
    each = [sorted((data / task / "val").rglob("*.*")) for task in DEMO_TASKS[:2]]
    return [files[i * len(files) // (count // 2)] for files in each for i in range(count // 2)]


def model_of(root: Path) -> str:
    return load_params(root / "params.yaml").registry.model


@contextmanager
def serving(root: Path, *options: str) -> Iterator[Running]:
    """`lorax serve` in a workspace, from its first answer until it has stopped at SIGTERM."""
    port, log = free_port(), HOME / "serve.log"
    process = start_lorax(
        "serve", "--port", str(port), *options, cwd=root, log=log, env=environment({"PYTHONUNBUFFERED": "1"})
    )
    found = Running(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_for(lambda: _answers(found), PATIENCE_S, "lorax serve did not answer")
        yield found
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        print(f"stopped at SIGTERM after {time.monotonic() - began:.1f} s")


def _answers(running: Running) -> bool:
    if running.process.poll() is not None:
        raise SystemExit(f"lorax serve ended: {running.log.read_text()}")
    try:
        return bool(running.get("/health")["ready"])
    except (urllib.error.URLError, ConnectionError):
        return False
