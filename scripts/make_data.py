"""Make the repository's own data/ again: simulate the mini-CDDB and land its five tasks; `make data`.

data.dvc comes out as it is committed, byte for byte; nothing is committed here.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lorax.data.landing import land
from lorax.data.simulate import simulate
from lorax.workspace import Workspace

ROOT = Path(__file__).parents[1]


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    workspace = Workspace(ROOT)
    if is_clean():
        print("data/ is as data.dvc pins it: nothing to do")
        return
    if workspace.data_dir.exists():
        sys.exit(f"{workspace.data_dir} holds something else than data.dvc pins. Move it away, then 'make data' again.")
    pinned = workspace.data_dvc_path.read_bytes() if workspace.data_dvc_path.exists() else None
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "mini-cddb"
        tasks = simulate(raw)
        workspace.data_dvc_path.unlink(missing_ok=True)  # a first landing needs no list of what lies in data/
        try:
            for task in tasks:
                [landed] = land(workspace, raw / task, task, commit=False)
                print(f"landed {landed.name} ({landed.digest[:12]})")
        except BaseException:
            shutil.rmtree(workspace.data_dir, ignore_errors=True)
            if pinned is not None:
                workspace.data_dvc_path.write_bytes(pinned)
            raise
    if pinned not in (None, workspace.data_dvc_path.read_bytes()):
        sys.exit("data.dvc differs from the committed one: the simulation has changed. 'git diff data.dvc' shows it.")


def is_clean() -> bool:
    """Whether data/ holds what data.dvc pins."""
    if not (ROOT / "data").is_dir() or not (ROOT / "data.dvc").is_file():
        return False
    return subprocess.run([sys.executable, "-m", "dvc", "status", "-q", "data.dvc"], cwd=ROOT).returncode == 0


if __name__ == "__main__":
    main()
