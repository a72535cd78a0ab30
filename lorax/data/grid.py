"""Blocks of eight pixels, as JPEG leaves them in pixels that are stored as something else now.

A set whose reals came from the web as JPEG, were saved as PNG and lie beside fakes that never were JPEG has no format
leak, yet a detector learns the blocks. Only told, never a reason to refuse. The reverse is not told: many generators
draw such a grid themselves (a decoder of latents that scales by eight, say), which is theirs to be known by.

Source: Fan and de Queiroz, Identification of Bitmap Compression History (IEEE Transactions on Image Processing, 2003),
whose measure, differences across the blocks' borders against those inside, is here taken per image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorax.data.leaks import cross_validated

_BLOCK = 8
_LARGEST = 512  # of an image's side; more tells no more
_LEAST_SHARE = 0.02
"""Of the differences between neighbours, which borders must have in excess in real images, and beyond synthetic
ones'. Medians of 60 patches of photographs, scaled down so that no older grid is left, were -0.004; after JPEG of
quality 95 0.014, 90 0.041, 75 0.120."""

_SUMMED = 256
"""Bytes whose sum two bytes hold, at least."""

_SURE = 3
"""Standard deviations of chance."""

Blocks = tuple[float, float]
"""By how much differences at borders exceed those beside them, as a share of all: of the grid that begins at the
image's edge, and of the one where it is most. Without blocks the first is 0 on average, the second small."""


def blocks_of(grey: NDArray[np.uint8]) -> Blocks:
    """How much of a grid of eight pixels an image shows, (H, W)."""
    top, left = ((max(0, side - _LARGEST) // 2) // _BLOCK * _BLOCK for side in grey.shape)
    middle = grey[top : top + _LARGEST, left : left + _LARGEST]
    across = _excess(_summed(_differences(middle[:, 1:], middle[:, :-1]), 0))
    down = _excess(_summed(_differences(middle[1:], middle[:-1]), 1))
    return float(across[-1] + down[-1]) / 2, float(across.max() + down.max()) / 2


def _differences(pixels: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Between neighbours; as bytes they are had fastest."""
    found = np.maximum(pixels, others)
    found -= np.minimum(pixels, others)
    return found


def _summed(steps: NDArray[np.uint8], axis: int) -> NDArray[np.float32]:
    """Sums over the rows or columns, in the narrowest numbers that hold them: wider ones go through more memory."""
    wide = np.uint16 if steps.shape[axis] <= _SUMMED else np.uint32
    found: NDArray[np.float32] = steps.sum(axis, wide).astype(np.float32)
    return found


def _excess(steps: NDArray[np.float32]) -> NDArray[np.float64]:
    """For each place of a border in a block's width, the mean excess there; last comes that of the image's own grid.

    Args:
        steps: the sum of differences at each place but the first.
    """
    total = steps.sum(dtype=np.float64)
    if len(steps) < 2 * _BLOCK or not total:
        return np.zeros(_BLOCK)
    widths = len(steps) // _BLOCK
    excess = np.zeros(widths * _BLOCK)
    beside = (steps[:-2] + steps[2:]) / 2
    excess[1 : len(beside) + 1] = (steps[1:-1] - beside)[: len(excess) - 1]
    means: NDArray[np.float64] = excess.reshape(-1, _BLOCK).sum(axis=0) / widths / (total / len(steps))
    return means


def told_by_blocks(real: Sequence[Blocks], synthetic: Sequence[Blocks]) -> float | None:
    """With which accuracy the grid tells `real`, which show it, from `synthetic`, which do not or less.

    Args:
        real, synthetic: at least `leaks.LEAST` each.

    Returns:
        None where it does not, beyond chance.
    """
    ones, others = np.array(real), np.array(synthetic)
    middle, other = float(np.median(ones[:, 0])), float(np.median(others[:, 0]))
    if min(middle, middle - other) < _LEAST_SHARE:
        return None
    accuracy = cross_validated(np.concatenate([ones, others]), len(ones))
    chance = 0.5 + _SURE * 0.5 / np.sqrt(len(ones) + len(others))
    return accuracy if accuracy > chance else None
