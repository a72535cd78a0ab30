"""Whether images that are like nothing known become more, and what they have in common."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

LEAST_TOGETHER = 5
"""Images that make a cluster; fewer may be alike by chance."""

_MOST_CLUSTERS = 6
_NO_SPREAD = 1e-6
_EQUAL = 1e-4
"""Deviations as long as this, and directions that differ by so little, are those of images with equal pixels."""


def standardized(values: Tensor, usual: Tensor) -> Tensor:
    """Values (n, F) as distances from the mean of the usual ones (m, F), in their standard deviations."""
    if len(usual) < 2:
        return values - values.mean(0)
    return (values - usual.mean(0)) / (usual.std(0) + _NO_SPREAD)


def clusters(deviations: Tensor) -> list[list[int]]:
    """Rows of deviations (n, F) that point the same way: lists of row numbers, the largest first.

    Average linkage by the angle between rows, cut where the silhouette is largest. Directions are compared, since a
    generator's trace is stronger in some images than in others but of one kind. Rows in groups of fewer than
    `LEAST_TOGETHER` are in no list; false alarms, each odd in its own way, mostly end there. So are rows of zeros,
    which point nowhere; where there are no others, or all rows point exactly the same way, they are one group.
    """
    pointing = _pointing(deviations)
    rows = pointing if pointing.any() else ~pointing
    found, numbers = deviations[rows], rows.nonzero()[:, 0]
    labels = _labels(found) if len(found) and cohesion(found) < 1 - _EQUAL else torch.zeros(len(found))
    groups = [numbers[labels == label].tolist() for label in labels.unique()]
    return sorted((group for group in groups if len(group) >= LEAST_TOGETHER), key=len, reverse=True)


def cohesion(deviations: Tensor) -> float:
    """How much rows (n, F) point the same way: 1 where all do, or all are zero, near 0 where each points elsewhere."""
    if not _pointing(deviations).any():
        return 1.0
    directions = deviations / deviations.norm(dim=1, keepdim=True).clamp_min(_NO_SPREAD)
    return float(directions.mean(0).norm())


def responses(deviations: Tensor, branches: int) -> list[float]:
    """For each of K branches, how far its features lie from usual: root mean square of deviations (n, K·D)."""
    per_branch = deviations.unflatten(1, (branches, -1)).square().mean(dim=(0, 2)).sqrt()
    return [float(value) for value in per_branch]


def _labels(deviations: Tensor) -> Tensor:
    """Which cluster each row is in (n,)."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score

    rows = deviations.numpy()
    best, labels = -math.inf, np.zeros(len(rows), int)
    for count in range(2, min(_MOST_CLUSTERS, len(rows) - 1) + 1):
        found = AgglomerativeClustering(count, linkage="average", metric="cosine").fit_predict(rows)
        score = silhouette_score(rows, found, metric="cosine")
        if score > best:
            best, labels = score, found
    return torch.from_numpy(labels)


def _pointing(deviations: Tensor) -> Tensor:
    """Which rows (n, F) are not (near) zero (n,)."""
    lengths: Tensor = torch.linalg.vector_norm(deviations, dim=1)
    return lengths > _EQUAL
