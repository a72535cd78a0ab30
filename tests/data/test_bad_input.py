"""What a person may point `lorax land` at by mistake: one clear error, and nothing is changed."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from lorax.cli import app
from lorax.workspace import Workspace
from tests.conftest import write_task_files

pytestmark = pytest.mark.slow

Made = Callable[[Path], object]


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def described(number: int) -> dict[str, str]:
    split = ("train", "test")[number // 2 % 2]
    return {"label": ("real", "fake")[number % 2], "model": ("none", "gen")[number % 2], "split": split}


def parquet(folder: Path, change: Callable[[int], dict[str, Any]] = lambda number: {}) -> Path:
    rows = [{"image": {"bytes": png(n), "path": f"{n}.png"}} | described(n) | change(n) for n in range(8)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet", row_group_size=4)
    return folder / "data.parquet"


def damaged(folder: Path, keep: int | None = None) -> None:
    """With a row group that can't be read, or cut off."""
    path = parquet(folder)
    data = bytearray(path.read_bytes())
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    at = group.dictionary_page_offset or group.data_page_offset
    data[at : at + 400] = bytes(400)
    path.write_bytes(bytes(data)[:keep])


def listed(folder: Path, *lines: str) -> None:
    for number in range(8):
        (folder / f"{number}.png").write_bytes(png(number))
    rows = [",".join([f"{n}.png", *described(n).values()]) for n in range(8)]
    (folder / "list.csv").write_text("\n".join(["path,label,model,split", *rows, *lines]))


def archive(folder: Path, name: Callable[[int], str], keep: int | None = None) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(8):
            for ending, data in (("png", png(number)), ("json", json.dumps(described(number)).encode())):
                member = tarfile.TarInfo(f"{name(number)}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (folder / "train-000.tar").write_bytes(file.getvalue()[:keep])


def empty_image(folder: Path) -> None:
    write_task_files(folder, {"0_real": 3, "1_fake": 3})
    (folder / "train" / "0_real" / "0.png").write_bytes(b"")


CASES: dict[str, tuple[Made, str]] = {
    "a broken row group": (damaged, "data.parquet is damaged: row group 2 of 2 can't be read"),
    "a Parquet file cut off": (lambda folder: damaged(folder, 900), "data.parquet is damaged: it can't be read"),
    "unknown labels": (
        lambda folder: parquet(folder, lambda n: {"label": "AB"[n % 2]}),
        "which labels are real and which synthetic is not told by their names: A, B. Say so, such as --label A=real",
    ),
    "no images": (
        lambda folder: pq.write_table(pa.table({"label": ["real"]}), folder / "data.parquet"),
        "data.parquet: no column holds bytes of images. It has label; --image-column names the one.",
    ),
    "two images under one name": (lambda folder: archive(folder, lambda n: "same"), "has two members called same.png"),
    "a name that leads out": (
        lambda folder: archive(folder, lambda n: f"../{n}" if n == 3 else str(n)),
        "train-000.tar has a member called '../3.png', which leads out of it; it is not read.",
    ),
    "a tar cut off": (
        lambda folder: archive(folder, str, 5000),
        "train-000.tar is damaged: it can't be read to its end",
    ),
    "a tar cut off between two members": (
        lambda folder: archive(folder, str, 4096),
        "train-000.tar has no end, as if it was cut off behind a member. Fetch it again.",
    ),
    "missing files": (
        lambda folder: listed(folder, "8.png,real,none,train", "9.png,fake,gen,train"),
        "nor beside the list: 8.png, 9.png. Fetch them",
    ),
    "labels in conflict": (
        lambda folder: listed(folder, "1.png,real,none,train"),
        "1.png is listed twice, with labels in conflict",
    ),
    "an empty list": (lambda folder: (folder / "list.csv").write_text(""), "list.csv lists nothing"),
    "a list of nothing": (lambda folder: (folder / "list.csv").write_text("path,label\n"), "list.csv lists nothing"),
    "a list without a header": (
        lambda folder: (folder / "list.csv").write_text("0.png,real\n1.png,fake\n"),
        "2 files of list.csv are neither below",
    ),
    "an empty image": (empty_image, "train/0_real/0.png can't be decoded: it is empty. Copy or fetch it again."),
    "nothing": (lambda folder: None, "no image was found in"),
}


def state_of(workspace: Workspace) -> tuple[object, ...]:
    status = subprocess.run(["git", "status", "--porcelain"], cwd=workspace.root, check=True, capture_output=True)
    files = {str(path) for path in workspace.root.rglob("*") if not {".git", "tmp"} & set(path.parts[3:])}
    return status.stdout, workspace.data_dvc_path.read_bytes(), {path for path in files if "lock" not in path}


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_in_one_line_and_changes_nothing(
    shared_landed_workspace: Workspace, tmp_path: Path, case: str
) -> None:
    make, message = CASES[case]
    (folder := tmp_path / "in").mkdir()
    make(folder)
    source = folder / "list.csv" if (folder / "list.csv").exists() else folder
    before = state_of(shared_landed_workspace)
    with chdir(shared_landed_workspace.root):
        done = CliRunner().invoke(app, ["land", str(source), "--json"])
    assert (done.exit_code, done.stderr.count("lorax: error: ")) == (1, 1)
    assert message in done.output
    assert state_of(shared_landed_workspace) == before
