"""Which images are kept: the exemplar memory, chosen by herding and shown again, and those held out for calibration."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lorax.learning.state import Exemplar, LearnerState
from lorax.params import Params
from lorax.stream import ClassTable, Sample, Task


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


_LARGEST_SHARE = 5
"""At most one image in so many of a class is held out."""


def hold_out(task: Task, base: LearnerState, params: Params) -> tuple[Task, tuple[Sample, ...]]:
    """The task without images that are for calibration, and those that it adds to them, in the order drawn.

    They are drawn for each class from (seed, md5) alone: at most `calibration.per_class`, and at most a fifth of the
    class. Tasks may share real photos: those in the calibration memory are never trained on, and exemplars are not
    drawn. Nothing is drawn on top of an uncalibrated state, which could not become calibrated by it. Of a class that is
    extended those are drawn that would have been, had all of its images come at once.

    Args:
        task: the episode's.
        base: what the episode begins with.
        params: the episode's.
    """
    older = {entry.sample.md5 for entry in base.calibration_memory}
    free = [sample for sample in task.train if sample.md5 not in older]
    held: list[Sample] = []
    if base.calibration is not None or not base.tasks:
        shown = {entry.sample.md5 for entry in base.exemplars}
        for index in sorted({sample.class_index for sample in free}):
            of_class = [sample for sample in free if sample.class_index == index]
            drawn = sorted((s for s in of_class if s.md5 not in shown), key=lambda s: _draw(s.md5, params.run.seed))
            drawn = drawn[: min(params.calibration.per_class, len(of_class) // _LARGEST_SHARE)]
            known = [e.sample for e in base.calibration_memory if _class_of(e.sample) == _class_of(of_class[0])]
            first = _drawn_first([*known, *drawn], params)
            held += [sample for sample in drawn if sample in first]
    names = {sample.md5 for sample in held}
    return replace(task, train=tuple(sample for sample in free if sample.md5 not in names)), tuple(held)


def _draw(md5: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{md5}/calibration".encode(), digest_size=8).digest()


def extended_memory(
    old: tuple[Exemplar, ...], held: tuple[Sample, ...], classes: ClassTable, params: Params
) -> tuple[Exemplar, ...]:
    """The memory with a new task's held-out images; those of other classes stay, whatever the budget of exemplars.

    Of a class that has some already so many stay as one may have, those that are drawn first.
    """
    ids = classes.ids(held)
    memory = [entry for entry in old if entry.class_id not in ids]
    for class_id in dict.fromkeys(ids):
        new = [sample for sample, of in zip(held, ids, strict=True) if of == class_id]
        known = [entry.sample for entry in old if entry.class_id == class_id]
        memory += [Exemplar(s, class_id, rank) for rank, s in enumerate(_drawn_first([*known, *new], params))]
    return tuple(memory)


def _drawn_first(samples: Sequence[Sample], params: Params) -> list[Sample]:
    """As many of a class's images as one may have, in the order drawn."""
    return sorted(samples, key=lambda s: _draw(s.md5, params.run.seed))[: params.calibration.per_class]


def _class_of(sample: Sample) -> tuple[str, int]:
    return sample.task, sample.class_index
