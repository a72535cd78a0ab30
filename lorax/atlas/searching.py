"""Which entries of an atlas are most similar to a query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lorax.atlas.adapter import Adapter
from lorax.atlas.adding import check_base, rows_of, untrained
from lorax.atlas.descriptor import SINGULAR_VALUES, pooled_spectrum
from lorax.atlas.index import Atlas
from lorax.atlas.segments import AtlasEntry
from lorax.atlas.space import Rows
from lorax.atlas.view import POOLED, View

_AT_ONCE = 512


@dataclass(frozen=True)
class Neighbour:
    """An entry near a query; for `kind` see `AtlasEntry`, `similarity` is a cosine in [-1, 1]."""

    name: str
    label: str
    kind: str
    similarity: float


@dataclass(frozen=True)
class SearchResult:
    """What a search found."""

    neighbours: list[Neighbour]  # the nearest first
    described: str  # by what the query was compared, in words
    # the share of the query that lies outside the view's basis, in [0, 1]; None without a limit, and of an entry that
    # the basis was fitted on
    residual: float | None
    limit: float | None  # see `View.limit`.


def search(
    atlas: Atlas, query: str | Adapter, k: int = 5, descriptor: str = "product", group: str = "all"
) -> SearchResult:
    """The k entries most similar to the query.

    Args:
        atlas: to be searched.
        query: an entry's name, which is left out of the answer; or an adapter, which need not be in the atlas.
        k: neighbours at most.
        descriptor: one that the atlas keeps; or "pooled", by which adapters of any base model can be compared.
        group: of modules.

    Raises:
        AtlasError: the atlas is empty or damaged, or has no such entry or descriptor.
        AdapterError: the adapter is damaged, or can't be compared by this descriptor.
    """
    view = atlas.view(descriptor, group)
    if isinstance(query, Adapter):
        own, (vector, outside) = None, view.place(_row(atlas, query, descriptor))
        residual = None if view.limit is None else outside
    else:
        own = atlas.number(query)
        vector, residual = view.vectors[own], view.residual_of(own)
    similarities = view.similarities(vector[None])[0]
    if own is not None:
        similarities[own] = -np.inf
    count = min(k, len(atlas) - (own is not None))
    best = np.flatnonzero(similarities >= np.partition(similarities, -count)[-count])  # to sort all takes far longer
    nearest = best[np.argsort(-similarities[best], kind="stable")][:count]
    entries = [(atlas.entries[i], float(similarities[i])) for i in nearest]
    neighbours = [Neighbour(entry.name, entry.label, entry.kind, cosine) for entry, cosine in entries]
    return SearchResult(neighbours, view.described, residual, view.limit)


def nearest_others(
    atlas: Atlas, view: View, numbers: Sequence[int], k: int
) -> Iterator[list[tuple[AtlasEntry, float]]]:
    """Of each of some entries the k most similar others, the nearest first, with their cosines; none of them derived.

    Args:
        k: others at most.
    """
    derived = [i for i, entry in enumerate(atlas.entries) if entry.is_derived]
    for start in range(0, len(numbers), _AT_ONCE):
        some = numbers[start : start + _AT_ONCE]
        similarities = view.similarities(view.vectors[some])
        similarities[np.arange(len(some)), some] = -np.inf
        similarities[:, derived] = -np.inf
        for row in similarities:
            best = np.argpartition(-row, range(min(k, len(row))))[:k]
            yield [(atlas.entries[i], float(row[i])) for i in best if np.isfinite(row[i])]


def _row(atlas: Atlas, adapter: Adapter, descriptor: str) -> Rows:
    """The adapter's descriptor (F,)."""
    ours = atlas.describer
    if descriptor != POOLED:
        ours.check(adapter, [descriptor])
        check_base(atlas.base, adapter)
    (row,) = rows_of(adapter, ours, ["spectrum" if descriptor == POOLED else descriptor]).values()
    if descriptor == POOLED:
        row = pooled_spectrum(adapter.layers, row)
    shares = row.reshape(-1, 1 + SINGULAR_VALUES)[:, 1:] if descriptor in (POOLED, "spectrum") else row
    if not shares.any():  # a spectrum's norms are logarithms, which are never zero
        raise untrained(adapter)
    return row
