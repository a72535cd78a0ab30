"""Pictures that look alike: 64-bit perceptual hashes of which few bits differ, found without comparing all pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

_BITS = 64
_AT_ONCE = 2**22
"""Pairs compared in one go, some 100 MB."""

_IN_CACHE = 2**17
"""The same where all are: as many as the processor's cache holds, some 1 MB."""

_SHARED = 2
"""Bands in which two hashes must be the same to be compared."""

_CHEAPER = 12
"""Times that a pair of all pairs is compared faster than one that was picked, as measured."""

_DISTANCE, _PLACE = np.uint64(32), np.uint64(2**32 - 1)
"""What is nearest is kept as one number: the distance above, the place below."""

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]


def nearest_within(hashes: Sequence[int], others: Sequence[int], bits: int) -> dict[int, int]:
    """For each of `hashes` that has one of `others` at most `bits` bits away: its index -> the nearest one's index.

    The 64 bits are dealt to `bits` + 2 bands. Where at most `bits` differ, two bands or more are the same in both, so
    only hashes that share two bands are compared (multi-index hashing); all of them, where that is faster, since most
    share some.

    Source: Norouzi, Punjani and Fleet, Fast Exact Search in Hamming Space with Multi-Index Hashing (arXiv 1307.2982).
    """
    left, of_left = np.unique(np.array(hashes, np.uint64), return_inverse=True)
    right, first = np.unique(np.array(others, np.uint64), return_index=True)
    best = np.full(len(left), np.iinfo(np.uint64).max, np.uint64)
    worth = len(left) * len(right) // _CHEAPER
    for mask in _masks(bits + _SHARED):
        order, starts, ends = _candidates(left, right, mask)
        worth -= int((ends - starts).sum())
        if worth < 0:
            _compare_all(left, right, best)
            break
        _compare(left, right[order], starts, ends, order, best)
    found = (best >> _DISTANCE) <= bits
    return {i: int(first[int(best[j] & _PLACE)]) for i, j in enumerate(of_left.tolist()) if found[j]}


def _masks(count: int) -> Iterator[np.uint64]:
    """Each two of `count` bands; a band's bits lie far apart, for neighbouring ones tell the same of a picture."""
    bands = [sum(1 << bit for bit in range(start, _BITS, count)) for start in range(count)]
    yield from (np.uint64(sum(chosen)) for chosen in combinations(bands, _SHARED))


def _candidates(left: Hashes, right: Hashes, mask: np.uint64) -> tuple[Places, Places, Places]:
    """`right` in an order, and from where to where in it the ones lie that are under the mask as each of `left` is."""
    order = np.argsort(right & mask)
    keys = (right & mask)[order]
    return order, np.searchsorted(keys, left & mask, "left"), np.searchsorted(keys, left & mask, "right")


def _compare(left: Hashes, ordered: Hashes, starts: Places, ends: Places, order: Places, best: Hashes) -> None:
    """Note in `best` what is nearer among the candidates."""
    for part in _parts(ends - starts):
        counts = ends[part] - starts[part]
        firsts = np.cumsum(counts) - counts
        within = np.arange(counts.sum()) - np.repeat(firsts - starts[part], counts)
        distances = np.bitwise_count(np.repeat(left[part], counts) ^ ordered[within])
        pairs = distances.astype(np.uint64) << _DISTANCE | order[within].astype(np.uint64)
        best[part] = np.minimum(best[part], np.minimum.reduceat(pairs, firsts))


def _compare_all(left: Hashes, right: Hashes, best: Hashes) -> None:
    step = max(1, _IN_CACHE // len(right))
    for start in range(0, len(left), step):
        distances = np.bitwise_count(left[start : start + step, None] ^ right)
        places = distances.argmin(axis=1).astype(np.uint64)
        best[start : start + step] = distances.min(axis=1).astype(np.uint64) << _DISTANCE | places


def _parts(counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The places of what has any pairs at all, in parts of so many pairs (or one place) that memory is bounded."""
    some = np.flatnonzero(counts)
    sums = np.cumsum(counts[some])
    start = 0
    while start < len(some):
        before = sums[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(sums, before + _AT_ONCE, "right")))
        yield some[start:end]
        start = end
