"""From what a person types to the bytes that DVC pins: one data set of each kind."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from lorax.cli import app
from lorax.data import pins, repository, versions
from lorax.data.images import decode
from lorax.workspace import Workspace
from tests.data.layouts import test_lists, test_tables, test_tars
from tests.data.layouts.images import image, write_tree
from tests.data.layouts.plans import Plan, both, counts

Lorax = Callable[..., str]
Places = dict[str, set[str]]
"""Split and class -> md5s of the images' bytes."""


@pytest.fixture
def lorax(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Lorax:
    """What `lorax land` says in an empty workspace, once it has landed something."""
    monkeypatch.chdir(workspace.root)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")

    def type_in(source: Path, *options: str) -> str:
        done = CliRunner().invoke(app, ["land", str(source), *options])
        assert done.exit_code == 0, done.output
        return done.output

    return type_in


def landed(workspace: Workspace) -> dict[str, Places]:
    """What is committed, by task in their order; data/ holds the same."""
    assert repository.is_committed(workspace.root, "data.dvc")
    found: dict[str, Places] = {}
    for entry in versions.landed(workspace):
        task = versions.read_task(workspace, entry.name)
        found[task.name] = defaultdict(set)
        assert [(one.index, one.name) for one in task.classes] == [(0, "real"), (1, task.name)]
        for split, samples in (("train", task.train), ("val", task.test)):
            for sample in samples:
                assert md5((workspace.data_dir / sample.path).read_bytes()) == sample.md5
                found[task.name][f"{split} {sample.class_index}"].add(sample.md5)
    return {name: dict(places) for name, places in found.items()}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def md5s_in(root: Path, places: Mapping[str, str]) -> Places:
    """Of the files in the folder of each place."""
    return {place: {md5(path.read_bytes()) for path in (root / folder).iterdir()} for place, folder in places.items()}


@pytest.mark.slow
def test_a_tree_of_two_generators(workspace: Workspace, lorax: Lorax, tmp_path: Path) -> None:
    """GenImage's folders."""
    roots = {"adm": "ADM/imagenet_ai_0508_adm", "biggan": "BigGAN/imagenet_ai_0419_biggan"}
    folders = {"train 0": "train/nature", "train 1": "train/ai", "val 0": "val/nature", "val 1": "val/ai"}
    for root in roots.values():
        write_tree(tmp_path / "in" / root, dict(zip(folders.values(), (4, 3, 2, 1), strict=True)))
    said = lorax(tmp_path / "in")
    assert "taken for a tree of class folders (ai, nature) below each generator's" in said
    assert landed(workspace) == {name: md5s_in(tmp_path / "in" / root, folders) for name, root in roots.items()}


@pytest.mark.slow
def test_a_list_of_files_in_the_order_of_its_dates(workspace: Workspace, lorax: Lorax, tmp_path: Path) -> None:
    published = {"new": "2024-01-31", "old": "2021-05-01", "": ""}
    rows: list[dict[str, Any]] = []
    for name in ("new", "old", "", "", ""):
        for split in ("train", "test"):
            folder = f"{name or 'photographs'}/{split}"
            write_tree(tmp_path / "in", {folder: 2}, begin=len(rows))
            said = {"label": "fake" if name else "real", "by": name, "split": split, "published": published[name]}
            rows += [{"path": f"{folder}/{number:03d}.png", **said} for number in (len(rows), len(rows) + 1)]
    test_lists.write(tmp_path / "in/list.csv", rows)
    options = ("--generator-column", "by", "--date-column", "published", "--order", "release")
    assert "date: column published" in lorax(tmp_path / "in/list.csv", *options)
    found = landed(workspace)
    assert list(found) == ["old", "new"]
    for name, places in found.items():
        expected = md5s_in(tmp_path / "in" / name, {"train 1": "train", "val 1": "test"})
        assert {place: md5s for place, md5s in places.items() if place[-1] == "1"} == expected
    reals = [md5s for places in found.values() for place, md5s in places.items() if place[-1] == "0"]
    assert sum(len(one) for one in reals) == len(set.union(*reals)) == 12


@pytest.mark.slow
def test_tars_become_files_of_the_bytes_that_they_hold(workspace: Workspace, lorax: Lorax, tmp_path: Path) -> None:
    expected: Places = defaultdict(set)
    for split, place in (("train", "train"), ("test", "val")):
        samples = []
        for number in range(6):
            kind, label = ("png", "jpg", "webp")[number % 3], number % 2
            samples.append({"__key__": f"a/{number}", kind: image(kind), "cls": label})
            expected[f"{place} {label}"].add(md5(samples[-1][kind]))
        test_tars.shards(tmp_path / "in" / split, "part-%d.tar", samples, most=4)
    said = lorax(tmp_path / "in", "--task", "dalle", "--label", "0=real,1=fake")
    assert "taken for 4 WebDataset tar files" in said
    assert landed(workspace) == {"dalle": dict(expected)}
    assert {path.suffix for path in workspace.data_dir.rglob("*.*")} == {".png", ".jpg", ".webp"}


@pytest.mark.slow
def test_a_leak_of_formats_is_cured_by_encoding_both_classes_anew(
    workspace: Workspace, lorax: Lorax, tmp_path: Path
) -> None:
    """GenImage's real images are JPEG, the others PNG."""
    for split in ("train", "val"):
        write_tree(tmp_path / "in" / split, {"nature": 20}, "jpg")
        write_tree(tmp_path / "in" / split, {"ai": 20})
    done = CliRunner().invoke(app, ["land", str(tmp_path / "in"), "--task", "adm"])
    assert done.exit_code == 1
    assert "--recode jpeg:90" in " ".join(done.output.split())
    lorax(tmp_path / "in", "--task", "adm", "--recode", "jpeg:90")
    assert {place: len(md5s) for place, md5s in landed(workspace)["adm"].items()} == {
        "train 0": 20, "train 1": 20, "val 0": 20, "val 1": 20
    }  # fmt: skip
    assert [kept.recoded for kept in pins.committed(workspace).notes.values()] == ["jpeg:90"]
    for path in workspace.data_dir.rglob("*.*"):
        folder = {"0_real": "nature", "1_fake": "ai"}[path.parent.name]
        place = tmp_path / "in" / path.parent.parent.name / folder
        pixels = decode(place / path.name.removesuffix(".jpg") if folder == "ai" else place / path.name)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        assert path.read_bytes() == file.getvalue()


def test_of_two_columns_of_images_the_one_that_is_named_is_taken(plan: Plan, tmp_path: Path) -> None:
    features = {"generated": "image", "mask": "image", "label": ("real", "fake")}
    rows = [{"generated": test_tables.struct(), "mask": test_tables.struct(), "label": n % 2} for n in range(8)]
    splits = {"train": rows[:4], "test": rows[4:]}
    test_tables.shared(tmp_path / "in", splits, features)
    test_tables.shared(tmp_path / "alone", splits, {name: features[name] for name in ("generated", "label")})
    assert "columns generated, mask all hold bytes" in plan("--task", "x")
    named = plan("--task", "x", "--image-column", "generated")
    assert counts(named) == {"x": both(2, 2)}
    assert named["digest"] == plan("--task", "x", path="alone")["digest"]
