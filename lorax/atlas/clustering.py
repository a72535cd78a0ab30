"""Families among adapters: clusters by the angle between their vectors, and whether there are any at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lorax.atlas.space import LEAST_FITTED, similarity

Floats = NDArray[np.floating]
Numbers = NDArray[np.int64]

MOST_CLUSTERED = 1000
"""Entries that are clustered at most, drawn evenly; the others join the cluster that they are most similar to."""

_EVERY, _SOME = 50, 20
"""Every number of clusters is tried up to the first; beyond, so many in equal ratios."""

_DRAWS = {200: 20, MOST_CLUSTERED: 5}
"""Up to so many entries -> how many clouds without families are drawn."""

_QUANTILE = 0.95


@dataclass(frozen=True)
class Tree:
    """What joins what, the most alike first.

    Args:
        joins: (N - 1, 2); a number below N is an entry, N + i is what the i-th join made.
        heights: (N - 1,), the mean cosine distance of the two.
    """

    joins: Numbers
    heights: Floats

    @classmethod
    def grow(cls, vectors: Floats) -> Tree:
        """Average linkage by cosine distance over vectors (N, d)."""
        from sklearn.cluster import AgglomerativeClustering

        if len(vectors) < 2:
            return cls(np.empty((0, 2), np.int64), np.empty(0))
        found = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=0)
        found.fit(_distances(vectors))
        return cls(found.children_, found.distances_)

    def cut(self, count: int) -> Numbers:
        """The cluster of each entry (N,), for `count` clusters; the largest is 0."""
        total = len(self.joins) + 1
        found = np.arange(total)
        made = dict(enumerate(np.arange(total)[:, None]))
        for number, (one, other) in enumerate(self.joins[: total - count], total):
            made[number] = np.concatenate([made.pop(int(one)), made.pop(int(other))])
            found[made[number]] = number
        names, sizes = np.unique(found, return_counts=True)
        rank = {name: i for i, name in enumerate(names[np.argsort(-sizes, kind="stable")])}
        return np.array([rank[name] for name in found])

    def order(self) -> list[int]:
        """The entries in an order in which joined ones lie side by side."""
        made: dict[int, list[int]] = {number: [number] for number in range(len(self.joins) + 1)}
        for number, (one, other) in enumerate(self.joins, len(self.joins) + 1):
            made[number] = made.pop(int(one)) + made.pop(int(other))
        [order] = made.values()
        return order


@dataclass(frozen=True)
class Families:
    """What was found.

    Args:
        members: the cluster of each entry (N,), the largest is 0.
        count: of clusters.
        curve: number of clusters -> mean silhouette, in [-1, 1].
        chance: the best silhouette that one entry cloud without families in twenty exceeds; None if not asked for.
    """

    members: Numbers
    count: int
    curve: Mapping[int, float] = field(default_factory=dict)
    chance: float | None = None

    @property
    def silhouette(self) -> float | None:
        """Of this number of clusters."""
        return self.curve.get(self.count)

    @property
    def best(self) -> list[tuple[int, float]]:
        """The numbers of clusters with the largest silhouettes, best first."""
        return sorted(self.curve.items(), key=lambda item: -item[1])[:3]


def find_families(vectors: Floats, count: int | None = None, seed: int = 0) -> Families:
    """Cluster vectors (N, d).

    Without `count`, the number of clusters is the one with the best silhouette; but one cluster, if a single cloud of
    the same spread in every direction reaches it, too: normal draws with the vectors' own covariance. To shuffle each
    column would not do: of raw descriptors it calls every smooth change families, of principal components it keeps
    two families apart.

    Args:
        vectors: of N entries; fewer than `LEAST_FITTED` are one cluster, unless `count` is given.
        count: of clusters, at most `most_clusters(N)`.
        seed: of the draws.

    Source: silhouettes: Rousseeuw (1987); one normal cloud of the same covariance as the null: Liu, Hayes, Nobel and
    Marron, Statistical significance of clustering (Journal of the American Statistical Association, 2008).
    """
    chosen = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_CLUSTERED)).astype(int))
    sample = np.asarray(vectors[chosen], np.float32)
    tree = Tree.grow(sample)
    enough = len(sample) >= LEAST_FITTED
    curve = silhouettes(sample, tree) if enough else {}
    if count is not None:
        return Families(_all(vectors, chosen, tree.cut(count)), count, curve)
    if not enough:
        return Families(np.zeros(len(vectors), np.int64), 1)
    best, reached = max(curve.items(), key=lambda item: item[1])
    chance = _chance(sample, np.random.default_rng(seed))
    found = best if reached > chance else 1
    return Families(_all(vectors, chosen, tree.cut(found)), found, curve, chance)


def most_clusters(entries: int) -> int:
    """How many clusters of so many entries there can be at most."""
    return min(entries, MOST_CLUSTERED)


def agreement(members: Numbers, labels: Sequence[str]) -> tuple[float, float] | None:
    """NMI and ARI of clusters with the labels of those entries that have one.

    None where there are fewer than two clusters or two different labels, which would agree with anything.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = [i for i, label in enumerate(labels) if label]
    if len(set(members)) < 2 or len({labels[i] for i in known}) < 2:
        return None
    ours, theirs = members[known], [labels[i] for i in known]
    return float(normalized_mutual_info_score(theirs, ours)), float(adjusted_rand_score(theirs, ours))


def silhouettes(vectors: Floats, tree: Tree) -> dict[int, float]:
    """Number of clusters, from 2 on -> mean silhouette of vectors (N, d); a cluster has two members or more on average.

    An entry's silhouette says how much nearer it lies to its own cluster than to the next one.
    """
    from sklearn.metrics import silhouette_score

    distances, most = _distances(vectors), max(2, len(vectors) // 2)
    counts = [*range(2, min(most, _EVERY) + 1), *np.geomspace(_EVERY, most, _SOME).astype(int)[1:]]
    tried = [n for n in dict.fromkeys(counts) if n <= most]
    return {int(n): float(silhouette_score(distances, tree.cut(n), metric="precomputed")) for n in tried}


def _chance(vectors: Floats, random: np.random.Generator) -> float:
    """The best silhouette that one cloud without families in twenty exceeds."""
    mean, total = vectors.mean(0), len(vectors)
    draws = next(draws for most, draws in _DRAWS.items() if total <= most)
    found = []
    for _ in range(draws):
        mix = random.standard_normal((total, total)) / np.sqrt(total)
        cloud = mix @ (vectors - mean) + mean
        found.append(max(silhouettes(cloud, Tree.grow(cloud)).values()))
    return float(np.quantile(found, _QUANTILE))


def _all(vectors: Floats, chosen: Numbers, members: Numbers) -> Numbers:
    """Clusters of the chosen -> of all entries: others join the one whose members they are most similar to on average.

    Args:
        vectors: of N entries (N, d).
        chosen: numbers of those that were clustered (n,).
        members: their clusters (n,).
    """
    if len(chosen) == len(vectors):
        return members
    sample = np.asarray(vectors[chosen], np.float32)
    lengths = np.linalg.norm(sample, axis=1, keepdims=True)
    units = sample / np.maximum(lengths, np.finfo(np.float32).tiny)
    middles = np.stack([units[members == number].mean(0) for number in range(members.max() + 1)])
    found = np.asarray(np.argmax(vectors @ middles.T, axis=1))
    found[chosen] = members
    return found


def _distances(vectors: Floats) -> Floats:
    distances = 1 - similarity(vectors, vectors).astype(np.float64)
    np.fill_diagonal(distances, 0)
    return np.maximum((distances + distances.T) / 2, 0)
