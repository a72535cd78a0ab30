from __future__ import annotations

import numpy as np
import pytest

from lorax.data.perturbations import CARD, UNCHANGED, Perturbation, drawn, jpeg
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
