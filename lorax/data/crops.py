"""Where a verdict looks: the centre of an image, and of a large one the centres of its quarters, too.

And whether there is anything to see: what is nearly all one colour, or a few pixels wide, shows no trace of what made
it, yet a network has an answer to everything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lorax.data.images import pad
from lorax.data.pixels import Pixels

_LARGE = 2
"""Crops that must fit side by side into the smaller side: from there on the four quarters share no pixel."""


def crops_of(pixels: Pixels, side: int) -> Pixels:
    """The squares of an image that are looked at, (n, side, side, 3).

    One, the centre, as evaluation has it, unless the smaller side is at least twice `side`: then five, of which the
    others lie around the centres of the four quarters. So an even sky in the centre does not decide alone, and a 4K
    image costs no more than five small ones.

    Args:
        pixels: (H, W, 3); what is smaller than the crop is continued by reflection.
        side: of the crop, pixels.
    """
    if min(pixels.shape[:2]) < side:
        pixels = pad(_middle(pixels, side), side)  # cut first: of one long row, padding would make many
    height, width = pixels.shape[:2]
    places = [(height - side, width - side)]
    if min(height, width) >= _LARGE * side:
        rows = (height // 2 - side, 2 * height - height // 2 - side)
        columns = (width // 2 - side, 2 * width - width // 2 - side)
        places += [(row, column) for row in rows for column in columns]
    return np.stack([pixels[top // 2 : top // 2 + side, left // 2 : left // 2 + side] for top, left in places])


MOST_TILES = 48
"""Of an image: they cost about as much as so many small images."""


@dataclass(frozen=True)
class Tiled:
    """An image's crops (n, side, side, 3), and its tiles (rows x columns, side, side, 3), row by row; see `grid_of`."""

    crops: Pixels
    tiles: Pixels
    height: int
    width: int


def grid_of(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """The corners (top, left) of squares spread evenly over an image, row by row, from edge to edge.

    They cover it where `MOST_TILES` are enough, overlapping if need be; else there are gaps between them. None where
    not two of them differ: then the crop says all.
    """
    if min(height, width) < side:
        return []
    rows, columns = (math.ceil(length / side) for length in (height, width))
    if rows * columns > MOST_TILES:
        share = math.sqrt(MOST_TILES / (rows * columns))
        rows = min(MOST_TILES, max(1, int(rows * share)))
        columns = min(MOST_TILES // rows, max(1, int(columns * share)))
    if rows * columns == 1:
        return []
    return [(top, left) for top in _spread(height - side, rows) for left in _spread(width - side, columns)]


def tiled_of(pixels: Pixels, side: int) -> Tiled:
    """The crops that decide on an image (H, W, 3), and the tiles that show which part of it says what."""
    height, width = pixels.shape[:2]
    tiles = [pixels[top : top + side, left : left + side] for top, left in grid_of(height, width, side)]
    return Tiled(
        crops_of(pixels, side), np.stack(tiles) if tiles else np.empty((0, side, side, 3), np.uint8), height, width
    )


def _spread(room: int, count: int) -> list[int]:
    return [room // 2] if count == 1 else [room * i // (count - 1) for i in range(count)]


LEAST_LINES = 16
"""Rows, and columns, of a crop that differ from each other; fewer are a strip, a few pixels, or one colour."""

LEAST_TEXTURE = 1.0
"""Levels of 256 by which neighbouring pixels of a crop differ on average."""


def is_telling(crops: Pixels) -> bool:
    """Whether any of an image's crops (n, side, side, 3) shows enough for a verdict, as docs/log.md measured it."""
    return any(_has_lines(crop) and _texture(crop) >= LEAST_TEXTURE for crop in crops)


def _has_lines(crop: Pixels) -> bool:
    """Whether enough rows and columns differ from each other; after so many no more are looked at."""
    return all(_differ(lines, min(LEAST_LINES, len(crop))) for lines in (crop, crop.transpose(1, 0, 2)))


def _differ(lines: Pixels, least: int) -> bool:
    found: set[bytes] = set()
    for line in lines:
        found.add(line.tobytes())
        if len(found) >= least:
            return True
    return False


def _texture(crop: Pixels) -> float:
    pairs = ((crop[1:], crop[:-1]), (crop[:, 1:], crop[:, :-1]))
    return sum(float((np.maximum(a, b) - np.minimum(a, b)).mean()) for a, b in pairs) / 2


def _middle(pixels: Pixels, side: int) -> Pixels:
    """What lies in the middle of an image, of either axis at most `side`."""
    top, left = (max(0, length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]
