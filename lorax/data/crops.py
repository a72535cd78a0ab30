"""Where a verdict looks: the centre of an image, and of a large one the centres of its quarters, too.

And whether there is anything to see: what is nearly all one colour, or a few pixels wide, shows no trace of what made
it, yet a network has an answer to everything.
"""

from __future__ import annotations

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
