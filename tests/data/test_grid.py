"""Pixels that were JPEG once are told from those that never were, and from nothing else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lorax.data.grid import Blocks, blocks_of, told_by_blocks

COUNT, SIDE = 24, 96


def shots(seed: int, quality: int | None, corner: int = 0) -> list[Blocks]:
    """What blocks noisy pictures show, after JPEG of a quality or none, cut off at a corner."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(COUNT):
        coarse = Image.fromarray(random.integers(0, 256, (7, 7), dtype=np.uint8)).resize((SIDE, SIDE))
        noisy = np.asarray(coarse) + random.normal(0, 4, (SIDE, SIDE))
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        if quality:
            data = io.BytesIO()
            image.save(data, "JPEG", quality=quality)
            image = Image.open(data)
        found.append(blocks_of(np.asarray(image)[corner:, corner:]))
    return found


@pytest.mark.parametrize("quality", [50, 75])
def test_reals_that_were_jpeg_are_told_from_what_never_was(quality: int) -> None:
    told = told_by_blocks(shots(1, quality), shots(2, None))
    assert told is not None
    assert told > 0.9


def test_where_both_or_neither_were_jpeg_or_the_synthetic_ones_nothing_is_told() -> None:
    assert told_by_blocks(shots(1, None), shots(2, 50)) is None
    assert told_by_blocks(shots(1, 75), shots(2, 75)) is None
    assert told_by_blocks(shots(1, None), shots(2, None)) is None


def test_a_grid_that_begins_elsewhere_shows_as_the_most_and_too_small_an_image_shows_none() -> None:
    own, most = np.median(shots(1, 50, corner=3), axis=0)
    assert abs(own) < 0.02 < most
    assert blocks_of(np.zeros((9, 9), np.uint8)) == (0, 0)
