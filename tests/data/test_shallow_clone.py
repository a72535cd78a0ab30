"""Prefect's git_clone fetches the newest commit only; a landing before it is to be found nevertheless."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lorax.data import checkout
from lorax.data.repository import last_commit
from lorax.workspace import Workspace

pytestmark = pytest.mark.slow


def test_a_landing_before_the_newest_is_part_of_a_clone_of_the_newest_commit(
    shared_landed_workspace: Workspace, tmp_path: Path
) -> None:
    origin = shared_landed_workspace.root
    newest = last_commit(origin, "data.dvc")
    before = subprocess.run(
        ["git", "rev-parse", f"{newest}~1"], cwd=origin, check=True, capture_output=True, text=True
    ).stdout.strip()
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{origin}", tmp_path / "clone"], check=True)
    clone = Workspace(tmp_path / "clone")
    assert not checkout.holds(clone, before, "")
    assert checkout.bring_up_to_date(clone)
    assert checkout.holds(clone, before, "")
    assert checkout.bring_up_to_date(clone)
