from __future__ import annotations

import numpy as np
import pytest

from lorax.data.perturbations import CARD, KINDS, UNCHANGED, Perturbation, drawn, jpeg, of_kind
from lorax.data.pixels import Pixels

MD5 = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def photo() -> Pixels:
    rows, columns = np.mgrid[:40, :56]
    smooth = np.stack([rows * 3 + columns, 255 - rows * 2, columns * 4], axis=2)
    return (smooth + np.random.default_rng(0).integers(0, 30, (40, 56, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [c for c in CARD if not c.name.startswith("crop")], ids=lambda c: c.name)
def test_a_perturbation_keeps_size_and_type(change: Perturbation, photo: Pixels) -> None:
    changed = change.apply(photo)
    assert (changed.shape, changed.dtype) == (photo.shape, np.uint8)
    assert (changed == photo).all() == (change.name in {"clean", "png"})
    assert np.abs(changed.astype(int) - photo).mean() < 30


def test_a_crop_cuts_top_and_left(photo: Pixels) -> None:
    [crop] = [c for c in CARD if c.name == "crop-10"]
    np.testing.assert_array_equal(crop.apply(photo), photo[4:, 5:])


def test_a_lower_quality_changes_more(photo: Pixels) -> None:
    lost = [np.abs(jpeg(q).apply(photo).astype(int) - photo).mean() for q in (95, 75, 50)]
    assert lost == sorted(lost)


def test_a_perturbed_image_has_a_name_of_its_own() -> None:
    names = {change.renamed(MD5) for change in CARD}
    assert len(names) == len(CARD)
    assert UNCHANGED.renamed(MD5) == MD5
    assert all(len(bytes.fromhex(name)) == 16 for name in names)


def test_what_training_shows_is_drawn_from_image_view_and_seed_alone() -> None:
    assert drawn(MD5, 3, 0, 0.5).name == drawn(MD5, 3, 0, 0.5).name
    shown = [drawn(MD5, view, 0, 0.5).name for view in range(200)]
    assert 60 < shown.count("clean") < 140
    assert {name.split("-")[0] for name in shown} == {"clean", "jpeg", "resize", "blur", "webp"}
    assert {drawn(MD5, view, 0, 0.0) for view in range(50)} == {UNCHANGED}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kinds_strength_is_drawn_from_the_image_alone_over_its_whole_range(kind: str, photo: Pixels) -> None:
    make, least, most = KINDS[kind]
    shown = {of_kind(kind, f"{number:032x}").name for number in range(2000)}
    assert shown == {f"{make(strength).name}-middle" for strength in range(least, most + 1)}
    strength = int(of_kind(kind, MD5).name.split("-")[-2])
    np.testing.assert_array_equal(of_kind(kind, MD5).apply(photo), make(strength).apply(photo))


def test_of_a_large_image_the_middle_is_perturbed_wherever_blocks_fall(photo: Pixels) -> None:
    large = np.tile(photo, (15, 11, 1))  # 600 x 616
    ways = {md5: of_kind("jpeg-low", md5).apply(large) for md5 in (f"{number:032x}" for number in range(40))}
    assert {way.shape for way in ways.values()} == {(512, 512, 3)}
    for way in ways.values():
        assert np.abs(way.astype(int) - large[44:556, 52:564]).mean() < 30, "lies where the image's middle lies"
    edges = {int(np.abs(np.diff(way.astype(int).sum(2), axis=0)).mean(1)[:504].reshape(-1, 8).mean(0).argmax())
             for way in ways.values()}  # fmt: skip
    assert len(edges) > 1, "blocks begin in rows that differ"
