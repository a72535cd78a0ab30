"""The exemplar memory: which images of old tasks are shown again, chosen by herding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lorax.learning.folder import damage_told
from lorax.learning.state import Exemplar
from lorax.storage import canonical_json, write_whole
from lorax.stream import ClassTable, Sample


def herd(features: Tensor, count: int, weights: Tensor | None = None) -> list[int]:
    """Choose images whose running mean stays nearest to their class's mean, best first.

    Args:
        features: (n, F) concatenated features of one class's images.
        count: how many to choose; all n if that is fewer.
        weights: (n,) how many images each stands for; None: itself alone.

    Returns:
        Indices in the order chosen, so that a shorter memory keeps a prefix. Equal distances go to the first image.

    Source: Rebuffi et al., iCaRL (CVPR 2017), algorithm 4, on L2-normalised features.
    """
    unit = F.normalize(features.detach().double().cpu(), dim=1)  # (n, F)
    mean = unit.mean(dim=0) if weights is None else weights.double() @ unit / weights.sum()
    total = torch.zeros_like(mean)
    free = torch.ones(len(unit), dtype=torch.bool)
    chosen: list[int] = []
    for k in range(1, min(count, len(unit)) + 1):
        distance = ((total + unit) / k - mean).square().sum(dim=1).masked_fill(~free, torch.inf)
        best = int(distance.argmin())
        chosen.append(best)
        free[best] = False
        total += unit[best]
    return chosen


def updated_memory(
    old: Sequence[Exemplar],
    samples: Sequence[Sample],
    features: Tensor,
    classes: ClassTable,
    budget: int,
    weights: Tensor | None = None,
) -> tuple[Exemplar, ...]:
    """The memory after a task: every class seen keeps at most budget // C images.

    Args:
        old: the memory before; each class that `samples` have none of keeps its best-ranked images.
        samples: the N images that the others are chosen from.
        features: (N, K·D) what all branches say of them.
        classes: the table with the new task's classes in it.
        budget: images in all.
        weights: (N,) how many images each stands for; None: itself alone.
    """
    per_class = budget // len(classes)
    ids = torch.tensor(classes.ids(samples))
    chosen_anew = sorted(set(ids.tolist()))
    memory = [e for e in old if e.rank < per_class and e.class_id not in chosen_anew]
    for class_id in chosen_anew:
        rows = torch.nonzero(ids == class_id).flatten().tolist()
        ranked = herd(features[rows], per_class, None if weights is None else weights[rows])
        memory += [Exemplar(samples[rows[i]], class_id, rank) for rank, i in enumerate(ranked)]
    return tuple(memory)


def write_memory(path: Path, memory: Sequence[Exemplar], seconds: float) -> None:
    """Keep a memory, and how long herding took."""
    write_whole(path, canonical_json({"exemplars": [asdict(entry) for entry in memory], "seconds": seconds}))


def read_memory(path: Path) -> tuple[tuple[Exemplar, ...], float]:
    """The opposite.

    Raises:
        StateError: the file is missing or damaged.
    """
    with damage_told(path):
        record = json.loads(path.read_bytes())
        memory = [Exemplar(Sample(**e["sample"]), e["class_id"], e["rank"]) for e in record["exemplars"]]
        return tuple(memory), record["seconds"]
