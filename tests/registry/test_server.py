"""MLflow's embedded server: its database is whole or not there."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from lorax.registry.server import make_database

_MAKE = "import sys, pathlib, lorax.registry.server as s; s.make_database(pathlib.Path(sys.argv[1]))"


def test_a_first_start_that_was_killed_leaves_no_half_made_database(tmp_path: Path) -> None:
    path, draft = tmp_path / "mlflow.db", tmp_path / ".mlflow.db.draft"
    first = subprocess.Popen([sys.executable, "-c", _MAKE, str(path)], stderr=subprocess.DEVNULL)
    while not (draft.is_file() and draft.stat().st_size > 2**15) and first.poll() is None:
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -9
    assert draft.is_file() and not path.exists()
    make_database(path)
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]
    with sqlite3.connect(path) as database:
        locations = database.execute("SELECT artifact_location FROM experiments").fetchall()
    assert locations == [("mlflow-artifacts:/0",)]
    before = path.read_bytes()
    make_database(path)
    assert path.read_bytes() == before
