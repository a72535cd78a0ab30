"""Families among adapters: clusters by the angle between their vectors, and whether there are any at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lorax.atlas.space import LEAST_FITTED, Floats, directions, similarity

Numbers = NDArray[np.int64]

MOST_CLUSTERED = 1000
"""Entries that are clustered at most, drawn evenly; the others join the cluster that they are most similar to."""

_EVERY, _SOME = 50, 20
"""Every number of clusters is tried up to the first; beyond, so many in equal ratios."""

_DRAWS = {200: 20, MOST_CLUSTERED: 5}
"""Up to so many entries -> how many clouds without families are drawn."""

_QUANTILE = 0.95


def grow_tree(vectors: Floats) -> Floats:
    """Average linkage by cosine distance over vectors (N, d), N at least 2, as scipy gives it: (N - 1, 4)."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    return np.asarray(linkage(squareform(_distances(vectors), checks=False), "average"))


def cut(tree: Floats, count: int) -> Numbers:
    """The cluster of each of a tree's N entries (N,), for `count` clusters; the largest is 0."""
    from scipy.cluster.hierarchy import fcluster, leaders

    joins = tree.copy()
    joins[:, 2] = np.arange(len(tree))  # with heights, of which some may be equal, scipy would give fewer clusters
    flat = fcluster(joins, len(tree) - count, "distance")
    nodes, names = leaders(joins, flat)
    rank = np.empty(count + 1, np.int64)
    rank[names[np.lexsort((nodes, -np.bincount(flat)[names]))]] = np.arange(count)
    return np.asarray(rank[flat])


@dataclass(frozen=True)
class Families:
    """What was found."""

    members: Numbers  # the cluster of each entry (N,), the largest is 0
    count: int  # of clusters
    curve: Mapping[int, float] = field(default_factory=dict)  # number of clusters -> mean silhouette, in [-1, 1]
    # the best silhouette that one entry cloud without families in twenty exceeds; None if not asked for
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
    tree = grow_tree(sample) if len(sample) > 1 else np.empty((0, 4))
    enough = len(sample) >= LEAST_FITTED
    curve = silhouettes(sample, tree) if enough else {}
    if count is not None:
        return Families(_all(vectors, chosen, cut(tree, count)), count, curve)
    if not enough:
        return Families(np.zeros(len(vectors), np.int64), 1)
    best, reached = max(curve.items(), key=lambda item: item[1])
    chance = _chance(sample, np.random.default_rng(seed))
    clusters = best if reached > chance else 1
    return Families(_all(vectors, chosen, cut(tree, clusters)), clusters, curve, chance)


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


def silhouettes(vectors: Floats, tree: Floats) -> dict[int, float]:
    """Number of clusters, from 2 on -> mean silhouette of vectors (N, d); a cluster has two members or more on average.

    An entry's silhouette says how much nearer it lies to its own cluster than to the next one.
    """
    from sklearn.metrics import silhouette_score

    distances, most = _distances(vectors), max(2, len(vectors) // 2)
    counts = [*range(2, min(most, _EVERY) + 1), *np.geomspace(_EVERY, most, _SOME).astype(int)[1:]]
    tried = [n for n in dict.fromkeys(counts) if n <= most]
    return {int(n): float(silhouette_score(distances, cut(tree, n), metric="precomputed")) for n in tried}


def _chance(vectors: Floats, random: np.random.Generator) -> float:
    """The best silhouette that one cloud without families in twenty exceeds."""
    mean, total = vectors.mean(0), len(vectors)
    draws = next(draws for most, draws in _DRAWS.items() if total <= most)
    reached = []
    for _ in range(draws):
        mix = random.standard_normal((total, total)) / np.sqrt(total)
        cloud = mix @ (vectors - mean) + mean
        reached.append(max(silhouettes(cloud, grow_tree(cloud)).values()))
    return float(np.quantile(reached, _QUANTILE))


def _all(vectors: Floats, chosen: Numbers, members: Numbers) -> Numbers:
    """Clusters of the chosen -> of all entries: others join the one whose members they are most similar to on average.

    Args:
        vectors: of N entries (N, d).
        chosen: numbers of those that were clustered (n,).
        members: their clusters (n,).
    """
    if len(chosen) == len(vectors):
        return members
    units = directions(vectors[chosen])
    middles = np.stack([units[members == number].mean(0) for number in range(members.max() + 1)])
    joined = np.asarray(np.argmax(vectors @ middles.T, axis=1))
    joined[chosen] = members
    return joined


def _distances(vectors: Floats) -> Floats:
    distances = 1 - similarity(vectors, vectors).astype(np.float64)
    np.fill_diagonal(distances, 0)
    return (distances + distances.T) / 2
