"""False positives: how many real photographs that no task brought a version calls synthetic.

The real images of tasks come from the sources that were learned; a user's come from anywhere. What is counted is the
verdict, at the stored threshold: synthetic by name or by an unknown generator. An undecided one is no false positive.
As in all figures the centre is looked at; one that hardly shows anything, which a verdict would leave undecided, counts
by its numbers here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorax.data.perturbations import UNCHANGED, Perturbation, jpeg, resize, webp
from lorax.data.reals import Reals
from lorax.learning.reliability import answers_of
from lorax.learning.state import LearnerState
from lorax.stream import Sample, Task

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
