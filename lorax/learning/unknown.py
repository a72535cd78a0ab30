"""What a version makes of what it has not learned: a generator just before it is learned, others' photographs.

The real images of tasks come from the sources that were learned; a user's come from anywhere. What is counted of them
is the verdict, at the stored threshold: synthetic by name or by an unknown generator. An undecided one is no false
positive. As in all figures the centre is looked at; one that hardly shows anything, which a verdict would leave
undecided, counts by its numbers here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax.data.perturbations import UNCHANGED, Perturbation, jpeg, resize, webp
from lorax.data.reals import Reals
from lorax.learning.calibration import answers_of
from lorax.learning.state import LearnerState
from lorax.stream import Sample, Task


@dataclass(frozen=True)
class Foreseen:
    """How far out of distribution the version before found the new task's test images, which it had not learned.

    Unknown means the new task's synthetic images; known means the test images of all tasks that the version knew.
    """

    auroc: float  # how well the OOD score tells unknown from known images
    detection: float  # share of the unknown images above the threshold
    detection_at_5: float  # the same above the OOD score that 5 % of the known test images exceed
    false_alarms: float  # share of the known test images above the threshold
    stated_false_alarms: float  # what the threshold was set for, on the calibration memory
    new_reals: float | None  # share of the new task's real images above the threshold; None where it brought none


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


SLICES = (UNCHANGED, jpeg(95), jpeg(75), webp(80), resize(75))
"""In which forms the photographs are looked at."""

_MORE_LIKELY_THAN_NOT = 0.5

Ask = Callable[[Sequence[Sample], Perturbation], tuple[Tensor, Tensor]]
"""Gives the textures (N, L·D) and logits (N, C) of N images under a perturbation."""


@dataclass(frozen=True)
class Slice:
    """What was said of the photographs in one form; `unknown` are those of `synthetic` by no known generator."""

    perturbation: str
    images: int
    synthetic: int
    unknown: int
    undecided: int

    @property
    def share(self) -> float:
        """Called synthetic."""
        return self.synthetic / self.images


@dataclass(frozen=True)
class FalsePositives:
    """What was said of a folder's photographs, of which at most `asked` were looked at in each slice.

    Args:
        folder, digest: the photographs.
        asked: see above.
        brought: how many were left out, since a task brought the same file.
        slices: () where none was left.
    """

    folder: str
    digest: str
    asked: int
    brought: int
    slices: Sequence[Slice]

    def of(self, perturbation: str) -> Slice | None:
        """A slice, None where nothing was looked at."""
        return next((one for one in self.slices if one.perturbation == perturbation), None)

    @property
    def clean(self) -> Slice | None:
        """That of the photographs as they are."""
        return self.of(UNCHANGED.name)

    @property
    def worst(self) -> Slice | None:
        """That of which most were called synthetic."""
        return max(self.slices, key=lambda one: one.share, default=None)


def measured(state: LearnerState, reals: Reals, tasks: Iterable[Task], asked: int, ask: Ask) -> FalsePositives:
    """Ask a version about photographs.

    Args:
        state: the version's.
        reals: the photographs.
        tasks: those that the version knows; photographs that are among their images are left out.
        asked: how many to look at: always the same ones, by their md5.
        ask: puts the question.
    """
    learned = {sample.md5 for task in tasks for sample in (*task.train, *task.test)}
    others = [sample for sample in reals.samples if sample.md5 not in learned]
    chosen = sorted(others, key=lambda sample: sample.md5)[:asked]
    slices = [_slice(state, change.name, *ask(chosen, change)) for change in SLICES if chosen]
    return FalsePositives(reals.folder, reals.digest, asked, len(reals.samples) - len(others), slices)


def _slice(state: LearnerState, perturbation: str, textures: Tensor, logits: Tensor) -> Slice:
    """Verdicts by the rule of `lorax.verdicts.predictor.decide`, for all images at once."""
    fitted = state.calibration
    probabilities = fitted.probabilities(logits) if fitted else logits.double().softmax(dim=1)
    answers = answers_of(probabilities, state.classes)
    is_ood, least = torch.zeros(len(logits), dtype=torch.bool), 0.0
    if fitted:
        is_ood = fitted.ood_score(textures).cpu() > fitted.threshold
        least = state.undecided_below
    real, fake = answers[:, 0], answers[:, 1:].sum(dim=1)
    told = fake if fitted and fitted.relatives else answers[:, 1:].max(dim=1).values
    sure = torch.maximum(real, told) >= least
    named = ~is_ood & sure & (told > real)
    unknown = is_ood & (fake >= _MORE_LIKELY_THAN_NOT)
    undecided = is_ood & ~unknown | ~is_ood & ~sure
    counts = [int(part.sum()) for part in (named | unknown, unknown, undecided)]
    return Slice(perturbation, len(logits), *counts)
