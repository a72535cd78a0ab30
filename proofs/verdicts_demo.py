"""What some proofs about verdicts share: a workspace in which the demo's stream has been learned, made once."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from lorax.data.simulate import DEMO_TASKS

HOME = Path("work/proofs/verdicts").resolve()
LORAX = [sys.executable, "-m", "lorax"]


def lorax(*arguments: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the `lorax` command as a user would."""
    done = subprocess.run([*LORAX, *arguments], cwd=cwd, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"lorax {' '.join(arguments)} failed with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def learned_workspace() -> Path:
    """The workspace whose champion knows the demo's five tasks; its servers are down."""
    root = HOME / "demo"
    if _knows_all(root):
        return root
    shutil.rmtree(root, ignore_errors=True)
    raw = HOME / "mini-cddb"
    HOME.mkdir(parents=True, exist_ok=True)
    if not raw.exists():
        lorax("simulate", str(raw), cwd=HOME)
    ports = ("--prefect-port", str(_free_port()), "--mlflow-port", str(_free_port()))
    lorax("init", str(root), *ports, cwd=HOME)
    for task in DEMO_TASKS:
        lorax("land", str(raw / task), "--task", task, cwd=root)
    try:
        lorax("learn", cwd=root)
    finally:
        lorax("down", cwd=root)
    if not _knows_all(root):
        raise SystemExit(f"the demo's stream was not learned in {root}: see 'lorax history' there")
    return root


def _knows_all(root: Path) -> bool:
    if not (root / "params.yaml").exists():
        return False
    status = json.loads(lorax("status", "--json", cwd=root).stdout)
    return bool(status["known"] == list(DEMO_TASKS))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
