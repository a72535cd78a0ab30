from __future__ import annotations

import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from lorax.data import pins, repository, versions
from lorax.data.admission import LandingOptions
from lorax.data.landing import land
from lorax.errors import DataVersionError
from lorax.workspace import Workspace
from tests.data.layouts.images import image
from tests.data.layouts.test_tables import IMAGE, write

pytestmark = pytest.mark.slow

YEARS = {f"gan-{letter}": 2030 - number for number, letter in enumerate("abcdefghijkl")}


def twelve(folder: Path) -> Path:
    """Twelve generators in one Parquet set, the newest first, their real images in common."""
    types = {"image": IMAGE, "label": pa.string(), "model": pa.string(), "release_date": pa.string()}
    for split in ("train", "test"):
        rows = [{"image": {"bytes": image()}, "label": "real"} for _ in range(120)]
        for name, year in YEARS.items():
            said = {"label": "fake", "model": name, "release_date": f"{year}-01-01"}
            rows += [{**said, "image": {"bytes": image()}} for _ in range(2)]
        write(folder / f"{split}.parquet", rows, types, group=50)
    return folder


def test_twelve_generators_in_one_parquet_set_land_in_one_commit_in_order_of_release(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, said = twelve(tmp_path / "in"), LandingOptions(source="somewhere", licence="CC-BY-4.0")
    head = repository.head(workspace.root)
    with monkeypatch.context() as patch:
        patch.setattr(pins, "write_stream", lambda *_: (_ for _ in ()).throw(DataVersionError("refused")))
        with pytest.raises(DataVersionError, match="refused"):
            land(workspace, source, options=said)
    assert not workspace.data_dir.exists()
    assert not workspace.data_dvc_path.exists()
    assert not [*(workspace.work_dir / "landing").iterdir()]

    landed = land(workspace, source, options=said)
    assert [task.name for task in landed] == sorted(YEARS, key=lambda name: YEARS[name])
    assert versions.landed(workspace) == landed
    commits = ["git", "rev-list", "--count", f"{head}..HEAD"]
    assert subprocess.run(commits, cwd=workspace.root, capture_output=True, text=True, check=True).stdout == "1\n"
    assert {(kept.source, kept.licence) for kept in pins.committed(workspace).notes.values()} == {
        ("somewhere", "CC-BY-4.0")
    }
    tasks = [versions.read_task(workspace, task.name) for task in landed]
    reals = [s.md5 for task in tasks for s in (*task.train, *task.test) if s.class_index == 0]
    assert len(reals) == len(set(reals)) == 240  # each in one task
    assert all(sum(s.class_index for s in task.train) == 2 for task in tasks)
    assert land(workspace, source) == landed  # again: nothing new
