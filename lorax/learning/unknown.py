"""What a version makes of a generator that it has not learned: measured for free, just before it is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax.learning.state import LearnerState
from lorax.stream import Task


@dataclass(frozen=True)
class Foreseen:
    """How far out of distribution the version before found the new task's test images, which it had not learned.

    Unknown means the new task's synthetic images; known means the test images of all tasks that the version knew.

    Args:
        auroc: how well the OOD score tells unknown from known images.
        detection: share of the unknown images above the threshold.
        detection_at_5: the same above the OOD score that 5 % of the known test images exceed.
        false_alarms: share of the known test images above the threshold.
        stated_false_alarms: what the threshold was set for, on the calibration memory.
        new_reals: share of the new task's real images above the threshold; None where it brought none.
    """

    auroc: float
    detection: float
    detection_at_5: float
    false_alarms: float
    stated_false_alarms: float
    new_reals: float | None


def foreseen(base: LearnerState, textures: Tensor, counts: Sequence[int], task: Task) -> Foreseen | None:
    """What `base` says of the task learned on top of it; None where it is not calibrated, or knew the generator.

    Args:
        base: the version before.
        textures: (N, L·D) of all test images, the new task's last.
        counts: how many test images each task has.
        task: the new one.
    """
    fitted = base.calibration
    if fitted is None or task.extends:
        return None
    parts = fitted.ood_score(textures).split(list(counts))
    known, is_synthetic = torch.cat(parts[:-1]), torch.tensor([s.class_index != 0 for s in task.test])
    unknown, reals = parts[-1][is_synthetic], parts[-1][~is_synthetic]
    found = auroc(unknown, known)
    if found is None:
        return None
    return Foreseen(
        found,
        _share_above(unknown, fitted.threshold),
        _share_above(unknown, float(torch.quantile(known, 0.95))),
        _share_above(known, fitted.threshold),
        fitted.false_alarms,
        _share_above(reals, fitted.threshold) if len(reals) else None,
    )


def auroc(higher: Tensor, lower: Tensor) -> float | None:
    """The probability that one of `higher` exceeds one of `lower`, ties counting half; None where either is empty."""
    from sklearn.metrics import roc_auc_score

    if not len(higher) or not len(lower):
        return None
    is_higher = [True] * len(higher) + [False] * len(lower)
    return float(roc_auc_score(is_higher, torch.cat((higher, lower)).double().numpy()))


def _share_above(values: Tensor, threshold: float) -> float:
    return float((values > threshold).double().mean())
