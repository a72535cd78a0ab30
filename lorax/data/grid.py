"""Blocks of eight pixels, as JPEG leaves them in pixels that are stored as something else now.

A set whose reals came from the web as JPEG, were saved as PNG and lie beside fakes that never were JPEG has no format
leak, yet a detector learns the blocks. Only told, never a reason to refuse: some generators draw such a grid.

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
"""Of the differences between neighbours, which borders must have in excess in one kind of images, and beyond the
other's. Medians of photographs that were never JPEG lie within 0.01, after JPEG of quality 95 at 0.02 to 0.04."""

_SURE = 3
"""Standard deviations of chance."""

Blocks = tuple[float, float]
"""By how much differences at borders exceed those beside them, as a share of all: of the grid that begins at the
image's edge, and of the one where it is most. Without blocks the first is 0 on average, the second small."""


def blocks_of(grey: NDArray[np.uint8]) -> Blocks:
    """How much of a grid of eight pixels an image shows, (H, W)."""
    top, left = ((max(0, side - _LARGEST) // 2) // _BLOCK * _BLOCK for side in grey.shape)
    middle = grey[top : top + _LARGEST, left : left + _LARGEST].astype(np.int16)
    across, down = _excess(middle), _excess(middle.T)
    return float(across[-1] + down[-1]) / 2, float(across.max() + down.max()) / 2


def _excess(pixels: NDArray[np.int16]) -> NDArray[np.float64]:
    """For each place of a border in a block's width, the mean excess there; last comes that of the image's own grid."""
    steps = np.abs(np.diff(pixels, axis=1)).sum(axis=0, dtype=np.int64)
    if len(steps) < 2 * _BLOCK or not steps.any():
        return np.zeros(_BLOCK)
    excess = np.zeros(len(steps) // _BLOCK * _BLOCK)
    beside = (steps[:-2] + steps[2:]) / 2
    excess[1 : len(beside) + 1] = (steps[1:-1] - beside)[: len(excess) - 1]
    means: NDArray[np.float64] = excess.reshape(-1, _BLOCK).mean(axis=0) / steps.mean()
    return means


def told_by_blocks(real: Sequence[Blocks], synthetic: Sequence[Blocks]) -> tuple[float, bool] | None:
    """Whether the grid tells `real` from `synthetic`: with which accuracy, and whether it is real ones that show it.

    Args:
        real, synthetic: at least `leaks.LEAST` each.

    Returns:
        None where it does not, beyond chance.
    """
    ones, others = np.array(real), np.array(synthetic)
    middle, other = float(np.median(ones[:, 0])), float(np.median(others[:, 0]))
    if max(middle, other) < _LEAST_SHARE or abs(middle - other) < _LEAST_SHARE:
        return None
    accuracy = cross_validated(np.concatenate([ones, others]), len(ones))
    chance = 0.5 + _SURE * 0.5 / np.sqrt(len(ones) + len(others))
    return (accuracy, middle > other) if accuracy > chance else None
