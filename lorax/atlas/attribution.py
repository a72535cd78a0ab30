"""Which known branch a probe is most like: the paper's search, where everything started alike.

Branches and probes of one seed start from the same A, and from the same head between them and their classes. So what
training changed can be compared number by number: rows are the factors less where they started.

Source: the factors as descriptor, and attribution by the nearest of them: Liu et al. (arXiv 2412.12048).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
"""Factors by name."""


@dataclass(frozen=True)
class Match:
    """A known task's branch and how alike it is; `similarity` is a cosine in [-1, 1]."""

    task: str
    similarity: float


def rank(probe: Weights, start: Weights, known: Mapping[str, Weights]) -> list[Match]:
    """The known branches, the most similar first.

    Args:
        probe: what the unknown images taught.
        start: what all of them started from.
        known: task -> its branch's factors, of the same names and shapes as the probe's.
    """
    moved = _moved(probe, start)
    cosines = {task: float(torch.cosine_similarity(moved, _moved(w, start), dim=0)) for task, w in known.items()}
    return sorted((Match(task, cosine) for task, cosine in cosines.items()), key=lambda m: -m.similarity)


def fits(weights: Weights, start: Weights) -> bool:
    """Whether factors are over the same layers and of the same rank."""
    return {n: w.shape for n, w in weights.items()} == {n: w.shape for n, w in start.items()}


def _moved(weights: Weights, start: Weights) -> Tensor:
    return torch.cat([(weights[name] - start[name]).flatten() for name in sorted(start)]).double()
