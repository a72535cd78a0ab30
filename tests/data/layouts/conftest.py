"""A workspace that plans can be asked for in; nothing lands in it, so it needs neither git nor DVC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lorax.cli import app
from tests.conftest import SMALL_CONTRACT
from tests.data.layouts import images
from tests.data.layouts.plans import Plan


@pytest.fixture(autouse=True)
def _images_of_its_own() -> None:
    images.begin_anew()


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A dry run on `tmp_path / path`."""
    root = tmp_path / "workspace"
    (root / ".dvc").mkdir(parents=True)
    (root / "params.yaml").write_text(SMALL_CONTRACT)
    monkeypatch.chdir(root)

    def ask(*options: str, path: str = "in") -> Any:
        done = CliRunner().invoke(app, ["land", str(tmp_path / path), "--dry-run", "--json", *options])
        return json.loads(done.stdout) if done.stdout else done.stderr

    return ask
