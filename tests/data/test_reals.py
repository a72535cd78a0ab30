"""Real photographs of a folder that DVC tracks beside data/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorax.data import versions
from lorax.data.reals import read_reals
from lorax.errors import DataVersionError, ParamsError
from lorax.params import RealsParams, load_params
from lorax.workspace import Workspace

ASKED = RealsParams(path="photographs/")


def run(root: Path, *command: str) -> None:
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def add_photographs(workspace: Workspace, count: int = 3) -> Path:
    """Photographs that DVC tracks and git has committed, as a person would do it."""
    folder = workspace.root / "photographs"
    (folder / "holidays").mkdir(parents=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "holidays" / f"{number}.png")
    shutil.copyfile(folder / "holidays" / "0.png", folder / "again.png")
    (folder / ".DS_Store").write_bytes(b"not a photograph")
    (folder / "notes.txt").write_text("nor is this")
    run(workspace.root, sys.executable, "-m", "dvc", "add", "photographs")
    run(workspace.root, "git", "add", "photographs.dvc", ".gitignore")
    run(workspace.root, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "Photographs")
    return folder


def test_a_clone_has_the_photographs_by_their_md5(landed_workspace: Workspace, tmp_path: Path) -> None:
    folder = add_photographs(landed_workspace)
    remote = str(tmp_path / "remote")
    run(landed_workspace.root, sys.executable, "-m", "dvc", "remote", "add", "-d", "shared", remote)
    run(landed_workspace.root, sys.executable, "-m", "dvc", "push", "photographs.dvc")
    run(tmp_path, "git", "clone", "-q", str(landed_workspace.root), "clone")
    shutil.copyfile(landed_workspace.root / ".dvc" / "config", tmp_path / "clone" / ".dvc" / "config")
    clone = Workspace(tmp_path / "clone")
    found = read_reals(clone, ASKED)
    assert found is not None
    assert sorted({s.path for s in found.samples} - {"photographs/again.png", "photographs/holidays/0.png"}) == [
        "photographs/holidays/1.png",
        "photographs/holidays/2.png",
    ]
    assert len(found.samples) == 3  # the copy is the same photograph, and the others are none
    assert {(s.task, s.class_index) for s in found.samples} == {("", 0)}
    pictures = {path.read_bytes() for path in folder.rglob("*.png")}
    assert {path.read_bytes() for path in versions.fetch(clone, found.samples).values()} == pictures


def test_photographs_that_nobody_shared_are_told_with_what_to_do(landed_workspace: Workspace, tmp_path: Path) -> None:
    add_photographs(landed_workspace)
    found = read_reals(landed_workspace, ASKED)
    shutil.rmtree(landed_workspace.root / ".dvc" / "cache" / "files")
    with pytest.raises(DataVersionError, match="'dvc push' shares them") as error:
        versions.fetch(landed_workspace, found.samples)
    assert "relearn" not in str(error.value)


def test_without_a_folder_there_are_none(shared_landed_workspace: Workspace) -> None:
    assert read_reals(shared_landed_workspace, RealsParams()) is None


def test_a_folder_that_nothing_pins_is_told(shared_landed_workspace: Workspace) -> None:
    with pytest.raises(DataVersionError, match=r"no photographs.dvc. 'dvc add photographs', commit"):
        read_reals(shared_landed_workspace, ASKED)


@pytest.mark.parametrize("path", ["data", "data/alpha", "work/x", "/tmp", "../photographs", "."])
def test_only_a_folder_of_its_own_may_be_named(path: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(f"reals: {{path: {path}}}\n")
    with pytest.raises(ParamsError, match=r"reals.path: .*expected a folder of the workspace"):
        load_params(file)
    file.write_text("gate: {false_positives: 0.02}\n")
    with pytest.raises(ParamsError, match=r"name their folder in reals\.path"):
        load_params(file)
