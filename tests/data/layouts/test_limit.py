from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lorax.data.incoming import read_incoming
from lorax.data.layouts.items import Reading
from tests.data.layouts import test_tables, test_tars
from tests.data.layouts.images import image, pack

Images = dict[tuple[str, str], list[bytes]]
"""Split and label -> images."""


def tree(root: Path, images: Images, folders: tuple[str, str] = ("real", "fake")) -> None:
    for (split, label), several in images.items():
        place = root / split / folders[label == "fake"]
        place.mkdir(parents=True)
        for number, data in enumerate(several):
            (place / f"{number}.png").write_bytes(data)


def cddb(root: Path, images: Images) -> None:
    tree(root, images, ("0_real", "1_fake"))


def table(root: Path, images: Images) -> None:
    features = {"image": "image", "label": "string"}
    splits: dict[str, list[dict[str, object]]] = {}
    for (split, label), several in images.items():
        splits.setdefault(split, []).extend({"image": {"bytes": data}, "label": label} for data in several)
    test_tables.shared(root, splits, features)


def tars(root: Path, images: Images) -> None:
    for (split, label), several in images.items():
        samples = [{"__key__": f"{label}{number}", "png": data, "txt": label} for number, data in enumerate(several)]
        test_tars.shards(root, f"{split}-{label}-%d.tar", samples)


def zips(root: Path, images: Images) -> None:
    tree(root / "apart", images)
    for split in ("train", "val"):
        pack(root / "apart" / split, root / f"{split}.zip")
    (root / "apart").rmdir()


@pytest.mark.parametrize("recode", [None, 90])
def test_a_limit_draws_the_same_images_from_every_layout_and_writes_no_others(
    tmp_path: Path, recode: int | None
) -> None:
    images = {(s, label): [image() for _ in range(7)] for s in ("train", "val") for label in ("real", "fake")}
    writers: tuple[Callable[[Path, Images], None], ...] = (tree, cddb, table, tars, zips)
    drawn = {}
    for write in writers:
        source, scratch = tmp_path / write.__name__, tmp_path / f"{write.__name__}-apart"
        write(source, images)
        scratch.mkdir()
        _, [incoming] = read_incoming(source, "x", Reading(limit=2, recode=recode), scratch)
        places = [tuple(path.split("/")[:2]) for path in incoming.files]
        assert sorted(places) == sorted((s, k) for s in ("train", "val") for k in ("0_real", "1_fake") for _ in "12")
        assert not any(seen.problem for seen in incoming.files.values())
        drawn[write.__name__] = set(incoming.md5s.values())
        written = sum(path.is_file() for path in scratch.rglob("*"))
        assert written == (8 if recode or write in (table, tars, zips) else 0)
    assert len(set.union(*drawn.values())) == 8
