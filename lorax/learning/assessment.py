"""How far a version's verdicts can be trusted: calibration, what it makes of unknown generators, and robustness.

Nothing here decides what is learned: it looks at test images only, and its figures go to the registry beside the
learner state. Test images under a perturbation are a fixed sample, so that old branches have been asked before.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.data.images import Progress
from lorax.data.perturbations import CARD, UNCHANGED, Perturbation, jpeg
from lorax.data.reals import Reals
from lorax.errors import StateError
from lorax.learning.calibration import answers_of, mean_loss, right_answers
from lorax.learning.cascade import ask_as_served
from lorax.learning.episode import Episode, told
from lorax.learning.folder import EpisodeFolder, damage_told
from lorax.learning.queries import FeatureQuery
from lorax.learning.relatives import Named, named
from lorax.learning.state import LearnerState
from lorax.learning.unknown import FalsePositives, Foreseen, auroc, foreseen, measured
from lorax.storage import read_record, write_record
from lorax.stream import Sample, Task

ALL = "all tasks"
"""In place of a task's name, which none can be: the test images of all tasks together."""

BINS = 10
_DRAWS = 200
_ASKED_ABOUT = 25
"""Test images of each class about which all branches are asked, whoever answers them."""

_RELIABILITY = (UNCHANGED, jpeg(75))


@dataclass(frozen=True)
class Bin:
    """A tenth of the images, by their answers' confidence: its mean, the share that was right, how many there are."""

    confidence: float
    accuracy: float
    images: int


@dataclass(frozen=True)
class Reliability:
    """Whether probabilities can be trusted, on test images of all tasks under one perturbation.

    Before: as the network gives them; after: calibrated, None where the version is not.
    """

    perturbation: str
    images: int
    loss_before: float
    loss_after: float | None
    error_before: float
    error_after: float | None
    floor: float  # the error that perfect calibration would show by chance
    bins: Sequence[Bin]  # of the probabilities that are given


@dataclass(frozen=True)
class CardRow:
    """A row of the robustness card: the test sample of one task, or of all, under one perturbation."""

    perturbation: str
    task: str
    images: int
    accuracy: float
    auroc: float | None  # of telling real from synthetic by the probability of being real; None of one kind alone
    calibration_error: float
    unknown: float | None  # the share called like nothing known; None where the version is not calibrated


@dataclass(frozen=True)
class ByStudent:
    """What the student answers in the branches' place, and what that changes."""

    share: float  # of all test images that it answers
    images: int  # some of each class, about which all branches were asked: the figures below are of these
    differ: float  # share whose answer is another than that of all branches
    accuracy: float  # of the answers that are given
    accuracy_of_branches: float  # were all branches asked about every image


@dataclass(frozen=True)
class Assessment:
    """All that is known of a version's verdicts."""

    episode: int
    task: str
    calibrated: bool
    reliability: Sequence[Reliability]
    card: Sequence[CardRow]
    foreseen: Foreseen | None  # what the version before said of the new task; None where its generator was known
    per_class: int  # test images of each class that the card was asked for
    seconds: float
    false_positives: FalsePositives | None = None  # None where no other real photographs were named
    named: Named | None = None  # None where a verdict is no set of generators
    by_student: ByStudent | None = None  # None where all branches are always asked

    @classmethod
    def read(cls, path: Path) -> Assessment:
        with damage_told(path):
            return read_record(cls, path)

    def row(self, perturbation: str, task: str = ALL) -> CardRow | None:
        """A row of the card, None where there is none."""
        return next((r for r in self.card if (r.perturbation, r.task) == (perturbation, task)), None)

    @property
    def overall(self) -> list[CardRow]:
        """The card's rows on all tasks together, one for each perturbation."""
        return [row for row in self.card if row.task == ALL]

    @property
    def robustness(self) -> float | None:
        """Mean accuracy under the card's perturbations, as a share of the accuracy on the same images unperturbed."""
        clean = self.row(UNCHANGED.name)
        if clean is None or not clean.accuracy:
            return None
        changed = [row.accuracy for row in self.overall if row is not clean]
        return sum(changed) / len(changed) / clean.accuracy


@dataclass(frozen=True)
class Said:
    """What a version says of N images whose classes are known."""

    textures: Tensor  # (N, L·D), or (N, 0) where nobody asks
    logits: Tensor  # (N, C)
    ids: Tensor  # (N,)


def assess(episode: Episode, reals: Reals | None = None, on_progress: Progress | None = None) -> Assessment:
    """Measure how far the verdicts of an episode's learner can be trusted, and keep it in the episode's folder.

    Args:
        episode: scored.
        reals: photographs that no task brought, for false positives; None: there are none.
        on_progress: told what is being looked at.
    """
    if kept := kept_assessment(episode.folder, reals):
        return kept
    started = time.perf_counter()
    state, base, tasks, params = episode.state, episode.base, episode.tasks, episode.params
    with_texture = bool(state.calibration or base.calibration or state.texture_head)

    def said(samples: Sequence[Sample], change: Perturbation = UNCHANGED) -> tuple[Tensor, Tensor]:
        query = FeatureQuery.of_centers(samples, [change] * len(samples))
        on_cached = told(on_progress, change.name)
        return ask_as_served(episode.asker, query, [state], with_texture=with_texture, on_cached=on_cached)

    def ask(samples: Sequence[Sample], change: Perturbation) -> tuple[Tensor, Tensor]:
        features, textures = said(samples, change)
        return textures, state.served_logits(features, textures)

    def look(samples: Sequence[Sample], change: Perturbation) -> Said:
        return Said(*ask(samples, change), torch.tensor(state.classes.ids(samples)))

    tests = [sample for task in tasks for sample in task.test]
    features, textures = said(tests)
    clean = Said(textures, state.served_logits(features, textures), torch.tensor(state.classes.ids(tests)))
    samples_of = {task.name: sample_of(task, params.robustness.per_class) for task in tasks}
    sampled = [sample for samples in samples_of.values() for sample in samples]
    of = [name for name, samples in samples_of.items() for _ in samples]
    looks = {change.name: look(sampled, change) for change in (CARD if sampled else ())}
    assessment = Assessment(
        episode=episode.index,
        task=episode.task.name,
        calibrated=state.calibration is not None,
        reliability=[
            _reliability(state, change.name, clean if change is UNCHANGED else looks[change.name])
            for change in _RELIABILITY
            if change is UNCHANGED or sampled
        ],
        card=[row for name, said in looks.items() for row in _card_rows(state, name, said, of)],
        foreseen=foreseen(base, clean.textures, [len(task.test) for task in tasks], tasks[-1]),
        per_class=params.robustness.per_class,
        false_positives=measured(state, reals, tasks, params.reals.images, ask) if reals else None,
        named=_named(state, clean),
        by_student=_by_student(episode, textures),
        seconds=time.perf_counter() - started,
    )
    write_record(episode.folder.assessment_path, assessment)
    return assessment


def kept_assessment(folder: EpisodeFolder, reals: Reals | None = None) -> Assessment | None:
    """What was measured before, unless another card or other photographs are asked for, or it can't be understood."""
    if not folder.assessment_path.is_file():
        return None
    try:
        kept = Assessment.read(folder.assessment_path)
    except StateError:  # damaged, or left by another version of this code
        return None
    params, found = folder.plan().params, kept.false_positives
    is_understood = bool(kept.overall) == bool(kept.card)
    asked = (reals.folder, reals.digest, params.reals.images) if reals else None
    is_same = asked == ((found.folder, found.digest, found.asked) if found else None)
    return kept if is_understood and is_same and kept.per_class == params.robustness.per_class else None


def sample_of(task: Task, per_class: int) -> list[Sample]:
    """At most `per_class` test images of each class: always the same ones, by their md5."""
    chosen: list[Sample] = []
    for index in sorted({sample.class_index for sample in task.test}):
        drawn = sorted((s for s in task.test if s.class_index == index), key=_shuffled)
        chosen += drawn[:per_class]
    return chosen


def _shuffled(sample: Sample) -> bytes:
    return hashlib.blake2b(f"{sample.md5}/card".encode(), digest_size=8).digest()


def _reliability(state: LearnerState, perturbation: str, said: Said) -> Reliability:
    right = right_answers(said.ids, state.classes)
    before = answers_of(said.logits.double().softmax(dim=1), state.classes)
    after = _answers(state, said) if state.calibration else None
    given = before if after is None else after
    return Reliability(
        perturbation,
        len(right),
        float(mean_loss(before, right)),
        None if after is None else float(mean_loss(after, right)),
        calibration_error(reliability(before, right)),
        None if after is None else calibration_error(reliability(after, right)),
        sampling_floor(given),
        reliability(given, right),
    )


def _answers(state: LearnerState, said: Said) -> Tensor:
    """The probabilities that are given: calibrated where the version is."""
    logits, fitted = said.logits, state.calibration
    return answers_of(fitted.probabilities(logits) if fitted else logits.double().softmax(dim=1), state.classes)


def _named(state: LearnerState, said: Said) -> Named | None:
    fitted = state.calibration
    if fitted is None or fitted.relatives is None:
        return None
    return named(fitted.relatives, fitted.probabilities(said.logits), said.ids, state.classes, state.undecided_below)


def _by_student(episode: Episode, textures: Tensor) -> ByStudent | None:
    """Of the textures (N, F) of all test images; the branches are asked about some of each class."""
    state = episode.state
    if (answered := state.ask_student(textures)) is None:
        return None
    some = [sample for task in episode.tasks for sample in sample_of(task, _ASKED_ABOUT)]
    said = episode.asker.ask(FeatureQuery.of_centers(some), with_texture=True, asked_again=True)
    ids = torch.tensor(state.classes.ids(some))
    served, whole = (
        _answers(state, Said(said[1], logits, ids)).argmax(1)
        for logits in (state.served_logits(*said), state.logits(*said))
    )
    right = right_answers(ids, state.classes)
    shares = [float(part.double().mean()) for part in (answered[1], served != whole, served == right, whole == right)]
    return ByStudent(shares[0], len(some), *shares[1:])


def _card_rows(state: LearnerState, perturbation: str, said: Said, of: Sequence[str]) -> Iterator[CardRow]:
    """One row for each task, and one for all; `of` names the task whose test set each image is of."""
    answers, right = _answers(state, said), right_answers(said.ids, state.classes)
    is_ood = None
    if state.calibration:
        is_ood = state.calibration.ood_score(said.textures) > state.calibration.threshold
    for task in (*state.names, ALL):
        rows = torch.tensor([task in (ALL, name) for name in of])
        part, true = answers[rows], right[rows]
        yield CardRow(
            perturbation,
            task,
            len(true),
            float((part.argmax(dim=1) == true).double().mean()),
            auroc(part[true == 0, 0], part[true != 0, 0]),
            calibration_error(reliability(part, true)),
            None if is_ood is None else float(is_ood[rows].double().mean()),
        )


def reliability(answers: Tensor, right: Tensor) -> list[Bin]:
    """Images in bins of equal size, by the confidence of the likeliest answer."""
    confidence, guess = answers.max(dim=1)
    hits = (guess == right).numpy()
    return [
        Bin(float(confidence.numpy()[rows].mean()), float(hits[rows].mean()), len(rows))
        for rows in _bins(confidence.numpy())
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean over images of |confidence - accuracy| of their bin.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017); bins of equal size, not width, since most
    answers are confident (Nixon et al., Measuring Calibration in Deep Learning, CVPR workshops 2019).
    """
    return sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / sum(b.images for b in bins)


def sampling_floor(answers: Tensor) -> float:
    """The calibration error that perfectly calibrated answers of these confidences would show by chance alone."""
    confidence = np.sort(answers.max(dim=1).values.numpy())
    random, rows = np.random.default_rng(0), _bins(confidence)
    hits = random.random((_DRAWS, len(confidence))) < confidence
    gaps = [len(r) * np.abs(hits[:, r].mean(axis=1) - confidence[r].mean()) for r in rows]
    return float(np.mean(sum(gaps)) / len(confidence))


def _bins(confidence: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Rows by rising confidence, in as many parts of equal size as there are bins."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    return [part for part in parts if len(part)]
