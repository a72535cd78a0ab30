"""Whether probabilities can be trusted: how often an answer given with 90 % is right.

An answer is one of: real (all real classes together), or one synthetic class. `answers` (N, A) below are the answers'
probabilities, `right` (N,) the index of the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.stream import ClassTable

BINS = 10
_DRAWS = 200
_LEAST = 1e-12


def answers_of(probabilities: Tensor, classes: ClassTable) -> Tensor:
    """Class probabilities (N, C) as those of the answers, (N, A): real first, then each synthetic class by id."""
    is_real = torch.tensor(classes.is_real)
    probabilities = probabilities.double()
    return torch.cat([probabilities[:, is_real].sum(1, keepdim=True), probabilities[:, ~is_real]], dim=1)


def right_answers(ids: Tensor, classes: ClassTable) -> Tensor:
    """The right answer's index for class ids (N,)."""
    synthetic = [entry.id for entry in classes.entries if not entry.is_real]
    places = [0 if entry.is_real else 1 + synthetic.index(entry.id) for entry in classes.entries]
    return torch.tensor(places)[ids]


def mean_loss(answers: Tensor, right: Tensor) -> Tensor:
    """The negative log-likelihood: the mean of -log of the probability that the right answer was given, nats."""
    return losses(answers, right).mean()


def losses(answers: Tensor, right: Tensor) -> Tensor:
    """Of each image, (B,), nats."""
    return -answers[torch.arange(len(right)), right].clamp_min(_LEAST).log()


def loss_of_any(answers: Tensor) -> Tensor:
    """The same, were each answer equally likely to be the right one."""
    return -answers.clamp_min(_LEAST).log().mean()


@dataclass(frozen=True)
class Bin:
    """A tenth of the images, by their answers' confidence: its mean, the share that was right, how many there are."""

    confidence: float
    accuracy: float
    images: int


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
