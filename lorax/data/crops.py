"""Where a verdict looks: the centre of an image, and of a large one the centres of its quarters, too."""

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


def _middle(pixels: Pixels, side: int) -> Pixels:
    """What lies in the middle of an image, of either axis at most `side`."""
    top, left = (max(0, length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]
