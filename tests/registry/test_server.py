"""MLflow's embedded server: its database is whole or not there."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorax.registry.server import make_database

pytestmark = pytest.mark.slow

_MAKE = "from lorax.registry.server import make_database; make_database()"


def test_a_first_start_that_was_killed_leaves_no_half_made_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "50% of a name?"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path, draft = folder / "mlflow.db", folder / ".mlflow.db.draft"
    first = subprocess.Popen([sys.executable, "-c", _MAKE], stderr=subprocess.DEVNULL)
    while not (draft.is_file() and draft.stat().st_size > 2**15) and first.poll() is None:
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -9
    assert draft.is_file() and not path.exists()
    make_database()
    assert [file.name for file in folder.iterdir()] == ["mlflow.db"]
    with sqlite3.connect(path) as database:
        locations = database.execute("SELECT artifact_location FROM experiments").fetchall()
    assert locations == [("mlflow-artifacts:/0",)]
    before = path.read_bytes()
    make_database()
    assert path.read_bytes() == before
