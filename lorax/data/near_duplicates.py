"""Near duplicates: pairs of perceptual hashes that differ in few bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_AT_ONCE = 2**22  # pairs compared in one go, 32 MB each of differences and counts


def nearest_within(hashes: Sequence[int], others: Sequence[int], bits: int) -> dict[int, int]:
    """For each of `hashes` that has one of `others` at most `bits` bits away: its index -> the nearest one's index."""
    if not hashes or not others:
        return {}
    left, right = np.array(hashes, np.uint64), np.array(others, np.uint64)
    step = max(1, _AT_ONCE // len(right))
    found: dict[int, int] = {}
    for start in range(0, len(left), step):
        distances = np.bitwise_count(left[start : start + step, None] ^ right[None, :])
        for row in np.flatnonzero(distances.min(axis=1) <= bits):
            found[start + int(row)] = int(distances[row].argmin())
    return found
