"""The simulated mini-CDDB: its layout, its bytes, and where its pixels come from."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorax.data.generators import GENERATORS
from lorax.data.simulate import DEMO_TASKS, PHOTOS, cut_patches, open_photo, simulate, train_region, val_region
from lorax.errors import LayoutError

SMALL = {"train_per_class": 4, "val_per_class": 2}
TREE = "7bab9d7a98baeeb5877a1b767cea7e89823306f408d1cd213c9cfc25d4727ec6"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simulated") / "raw"
    assert simulate(root, **SMALL) == list(DEMO_TASKS)
    return root


def tree_digest(root: Path) -> str:
    """sha256 over the sorted (path, sha256 of the bytes) of every file."""
    lines = [
        f"{path.relative_to(root).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_layout_is_cddbs_and_every_class_has_its_count(root: Path) -> None:
    found = Counter(path.parent.relative_to(root).as_posix() for path in root.rglob("*.bmp"))
    wanted = {
        f"{task}/{split}/{name}": count
        for task in DEMO_TASKS
        for split, count in (("train", 4), ("val", 2))
        for name in ("0_real", "1_fake")
    }
    assert found == wanted
    assert len(list(root.iterdir())) == len(DEMO_TASKS) == 5


def test_every_image_has_one_size_mode_and_format(root: Path) -> None:
    seen = set()
    for path in root.rglob("*.bmp"):
        with Image.open(path) as image:
            seen.add((image.size, image.mode, image.format, path.stat().st_size))
    assert len(seen) == 1
    assert seen.pop()[:3] == ((64, 64), "RGB", "BMP")


def test_the_bytes_are_the_recorded_ones(root: Path) -> None:
    assert tree_digest(root) == TREE


def test_another_seed_cuts_other_patches(root: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "other", seed=1, **SMALL)
    ours = {path.read_bytes() for path in root.rglob("*.bmp")}
    assert not ours & {path.read_bytes() for path in (tmp_path / "other").rglob("*.bmp")}


def test_no_image_occurs_twice(root: Path) -> None:
    images = [path.read_bytes() for path in root.rglob("*.bmp")]
    assert len(set(images)) == len(images)


def test_train_and_val_regions_share_no_pixel() -> None:
    for name in PHOTOS:
        photo = open_photo(name)
        columns = np.broadcast_to(np.arange(photo.shape[1])[:, None], photo.shape)
        train, val = set(np.unique(train_region(columns))), set(np.unique(val_region(columns)))
        assert not train & val
        assert len(train | val) == photo.shape[1]


@pytest.mark.parametrize(("split", "least", "most"), [("train", 0, 99), ("val", 100, 199)])
def test_patches_come_from_their_own_region(split: str, least: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (100, 200, 3))
    monkeypatch.setattr("lorax.data.simulate.open_photo", lambda name: columns)
    patches = np.stack(list(islice(cut_patches(split, 0), 20)))
    assert patches.min() >= least
    assert patches.max() <= most


@pytest.mark.parametrize("name", DEMO_TASKS)
def test_a_generator_leaves_a_faint_trace_and_keeps_integers(name: str) -> None:
    patch = next(cut_patches("train", 0)).astype(np.int64)
    made = GENERATORS[name](patch)
    assert made.dtype == np.int64
    assert made.shape == patch.shape
    assert 0.5 < np.abs(made - patch).mean() < 8


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LayoutError, match="not empty"):
        simulate(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "raw", progress=stop, **SMALL)
    assert list(tmp_path.iterdir()) == []
