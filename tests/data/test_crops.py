"""Tiles lie evenly over an image, and there are never too many."""

from __future__ import annotations

import numpy as np
import pytest

from lorax.data.crops import MOST_TILES, crops_of, grid_of, tiled_of

SIDE = 16


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        *((16, 16, 0, 0), (15, 400, 0, 0), (16, 17, 1, 2), (32, 48, 2, 3), (40, 40, 3, 3), (96, 128, 6, 8)),
        *((5000, 5000, 6, 6), (16, 5000, 1, 48), (5000, 16, 48, 1), (1000, 2000, 4, 9)),
    ],
)
def test_tiles_go_from_edge_to_edge_and_cover_the_image_where_so_many_may(
    height: int, width: int, rows: int, columns: int
) -> None:
    corners = grid_of(height, width, SIDE)
    tops, lefts = (sorted({corner[axis] for corner in corners}) for axis in (0, 1))
    assert (len(tops), len(lefts)) == (rows, columns)
    assert corners == [(top, left) for top in tops for left in lefts]
    assert len(corners) <= MOST_TILES
    for places, length in ((tops, height), (lefts, width)):
        if len(places) > 1:
            assert (places[0], places[-1]) == (0, length - SIDE)
            if height * width <= MOST_TILES * SIDE**2:
                assert max(np.diff(places)) <= SIDE


def test_tiles_are_cut_where_the_grid_says_beside_the_crops_that_decide() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    found = tiled_of(pixels, SIDE)
    assert np.array_equal(found.crops, crops_of(pixels, SIDE))
    for tile, (top, left) in zip(found.tiles, grid_of(40, 56, SIDE), strict=True):
        assert np.array_equal(tile, pixels[top : top + SIDE, left : left + SIDE])
