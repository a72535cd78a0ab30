"""What is found by bands is what comparing all pairs finds."""

from __future__ import annotations

import numpy as np
import pytest

from lorax.data.alike import nearest_within


def hashes(count: int, seed: int, fixed: int) -> np.ndarray:
    """Random ones, of which the first bits are nearly always the same."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (count, 64), dtype=np.uint8)
    bits[:, :fixed] *= random.random((count, fixed)) < 0.1
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


@pytest.mark.parametrize("bits", [0, 4, 16])
@pytest.mark.parametrize("fixed", [0, 56])  # with most bits the same, all pairs are compared
def test_each_is_given_one_of_the_nearest_within_reach(bits: int, fixed: int) -> None:
    ones, others = hashes(300, 1, fixed), hashes(400, 2, fixed)
    ones[::3] = others[:100]
    for i, flipped in enumerate(np.random.default_rng(3).integers(0, 64, (100, bits + 2))):
        for bit in flipped[: i % (bits + 3)].tolist():
            ones[3 * i] ^= np.uint64(1 << bit)
    distances = np.bitwise_count(ones[:, None] ^ others)
    found = nearest_within(ones.tolist(), others.tolist(), bits)
    assert {i: int(distances[i, j]) for i, j in found.items()} == {
        i: least for i, least in enumerate(distances.min(axis=1).tolist()) if least <= bits
    }
    assert 0 < len(found) < len(ones) or fixed


def test_of_nothing_nothing_is_near() -> None:
    assert nearest_within([], [1], 4) == nearest_within([1], [], 4) == {}
