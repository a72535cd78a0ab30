"""Which known generator a probe is most like: the paper's search, among probes of one context.

All started alike, so what training changed is compared number by number: rows are the factors less where they started,
less the mean over the known generators, which is what all probes learn alike: to tell real from synthetic.

Source: the factors as descriptor, and attribution by the nearest of them: Liu et al. (arXiv 2412.12048).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
"""Factors by name."""


@dataclass(frozen=True)
class Match:
    """A known generator and how alike it is; `similarity` is a mean cosine, in [-1, 1]."""

    label: str
    similarity: float


def rank(probe: Weights, start: Weights, known: Mapping[str, Sequence[Weights]]) -> list[Match]:
    """The known generators, the most similar first.

    Args:
        probe: what the unknown images taught.
        start: what all probes started from.
        known: label -> the generator's probes, at least one.
    """
    rows = {label: torch.stack([_moved(each, start) for each in probes]) for label, probes in known.items()}
    usual = torch.stack([row.mean(0) for row in rows.values()]).mean(0) if len(rows) > 1 else 0.0
    query = _moved(probe, start) - usual
    cosines = {label: F.cosine_similarity(query, row - usual, dim=1).mean() for label, row in rows.items()}
    return sorted((Match(label, float(cosine)) for label, cosine in cosines.items()), key=lambda m: -m.similarity)


def _moved(weights: Weights, start: Weights) -> Tensor:
    return torch.cat([(weights[name] - start[name]).flatten() for name in sorted(start)]).double()
