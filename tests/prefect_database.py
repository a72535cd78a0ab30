"""A database as Prefect makes it at a server's first start, which takes seconds; once for all processes of a test run.

A server that finds it has nothing to make. That one makes it is tested in tests/services/test_embedded.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lorax.services.databases import VARIABLES
from lorax.storage import locked
from lorax.workspace import Workspace


def give(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Put one into a workspace where no server has been started yet."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prefect"
    made = folder / "prefect.db"
    with locked(folder / "lock"):
        if not made.exists():
            _make(folder / "draft.db")
            (folder / "draft.db").rename(made)
    place = workspace.services_dir / "prefect" / "prefect.db"
    place.parent.mkdir(parents=True)
    shutil.copyfile(made, place)


def _make(path: Path) -> None:
    own = {VARIABLES["prefect"]: f"sqlite+aiosqlite:///{path}", "PREFECT_HOME": str(path.parent / "home")}
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    subprocess.run(command, env={**os.environ, **own}, check=True, capture_output=True)
