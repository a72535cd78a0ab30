"""What some proofs about verdicts share: a workspace in which the demo's stream has been learned, made once."""

from __future__ import annotations

import json
from pathlib import Path

from lorax.data.simulate import DEMO_TASKS
from proofs.bench import lorax, new_workspace

HOME = Path("work/proofs/verdicts").resolve()


def learned_workspace() -> Path:
    """The workspace whose champion knows the demo's five tasks; its servers are down."""
    root = HOME / "demo"
    if _knows_all(root):
        return root
    raw = HOME / "mini-cddb"
    HOME.mkdir(parents=True, exist_ok=True)
    if not raw.exists():
        lorax("simulate", str(raw), cwd=HOME)
    new_workspace(HOME, root.name, tiny=False)
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
