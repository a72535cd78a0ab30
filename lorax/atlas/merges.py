"""Which of an atlas's adapters make up another one: a merge by weights, a copy, or one that was trained on.

A merge by weights adds up products B A, and rows of `product` are linear in those. So its weights are what non-negative
least squares find, among the entries that say most of what is not told yet.

Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23; entries are chosen as orthogonal matching
pursuit does (Pati et al., 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lorax.atlas.adapter import Adapter
from lorax.atlas.adding import untrained
from lorax.atlas.comparing import Sketched
from lorax.atlas.index import Atlas
from lorax.atlas.space import Rows

_AT_ONCE, _ROUNDS = 24, 4
_NONE = 1e-30
_TOLD = 1e-4
"""What a round must tell more, as a share of the squared length."""

LEAST_SHARE = 0.01
"""Of the squared length; what adapters of one base model have in common, and the sketch, give others less."""


@dataclass(frozen=True)
class Part:
    """An entry that a merge holds: with which weight, and what share of the merge's squared length it makes up.

    The share is negative where the entry takes back what others hold too much of.
    """

    name: str
    label: str
    weight: float
    share: float


@dataclass(frozen=True)
class Parts:
    """The parts of an adapter, the largest first; `told` is the share of its squared length that they give together."""

    parts: list[Part]
    told: float


def parts_of(atlas: Atlas, query: str | Adapter) -> Parts:
    """Which entries make up an adapter.

    Args:
        atlas: whose entries.
        query: an entry's name, which is no part of itself; or an adapter of the atlas's layers.

    Raises:
        AtlasError: the atlas is empty or damaged, or has no such entry.
        AdapterError: the adapter is damaged or untrained, or has other layers.
    """
    if isinstance(query, Adapter):
        own, row = -1, Sketched.of(query, atlas.describer).product
        if not row.any():
            raise untrained(query)
    else:
        own, row = atlas.number(query), atlas.row(query)
    numbers, weights, told = weights_of(atlas, row.astype(np.float64), own)
    whole = float(row.astype(np.float64) @ row)
    found = []
    for number, weight, inner in zip(numbers, weights, told, strict=True):
        entry = atlas.entries[number]
        found.append(Part(entry.name, entry.label, float(weight), float(weight * inner / whole)))
    kept = sorted((part for part in found if abs(part.share) >= LEAST_SHARE), key=lambda part: -part.share)
    return Parts(kept, min(1.0, sum(part.share for part in kept)))  # small negative ones are left out


def weights_of(atlas: Atlas, row: np.ndarray, own: int = -1) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The entries that were considered, with their weights in a product row (F,) and inner products with it.

    Args:
        own: the number of the entry that is left out.
    """
    from scipy.optimize import nnls

    numbers, rows = list[int](), np.empty((0, len(row)))
    weights, rest, left = np.empty(0), row, 1.0
    for _ in range(_ROUNDS):
        near = _nearest(atlas, rest, {own, *numbers})
        if not near:
            break
        numbers += [number for number, _ in near]
        rows = np.concatenate([rows, *(found[None] for _, found in near)])
        base, triangle = np.linalg.qr(rows.T)  # as few numbers as there are entries, with the same inner products
        weights = nnls(triangle, base.T @ row)[0]
        rest = row - weights @ rows
        before, left = left, float(rest @ rest) / float(row @ row)
        if before - left < _TOLD:
            break
    return numbers, weights, rows @ row


def _nearest(atlas: Atlas, rest: np.ndarray, without: set[int]) -> list[tuple[int, Rows]]:
    """The entries that say most of a row (F,): their numbers and rows."""
    first, best = 0, list[tuple[float, int, Rows]]()
    for block in atlas.rows():
        said = block @ rest.astype(np.float32) / np.maximum(np.linalg.norm(block, axis=1), _NONE)
        said[[number - first for number in without if first <= number < first + len(block)]] = 0
        top = np.argsort(-said, kind="stable")[:_AT_ONCE]
        best += [(float(said[i]), first + int(i), block[i].copy()) for i in top if said[i] > 0]
        best = sorted(best, key=lambda one: (-one[0], one[1]))[:_AT_ONCE]
        first += len(block)
    return [(number, row) for _, number, row in best]
