"""What makes answers trustworthy: one that is given with 90 % should be right as often.

An answer is one of: real (all real classes together), or one synthetic class. `answers` (N, A) below are the answers'
probabilities, `right` (N,) the index of the right one.

The calibration memory holds a few random images of every class, which no network is ever trained on. On them are fitted
the probabilities (a temperature and a bias for each class), the threshold of the out-of-distribution (OOD) score,
beyond which an image is like nothing that was learned, and what is to be said where generators are confused.
docs/method.md says how all were chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lorax.learning.ood import ByKind, Distance, Residual, as_if_new
from lorax.learning.relatives import Relatives
from lorax.learning.student import Student
from lorax.stream import ClassTable

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


LEAST_PER_CLASS = 3
"""Each image is also looked at as if it were new, and what varies within a class takes two others to see."""

_BIAS_PENALTY = 0.01
_SCALE_PENALTY = 0.001
"""Keeps the temperature finite where logits say nothing."""

_FOLDS = 5
_TINY = 1e-12


@dataclass(frozen=True)
class Calibration:
    """What was fitted on the calibration memory."""

    temperature: float  # logits are divided by it
    bias: Tensor  # (C,) added to the divided logits
    distance: Distance | Residual | ByKind  # to the nearest class, or of the scores to the nearest answer
    scores: Tensor  # (n,) OOD scores of the calibration images, rising, each measured as if it were new
    unit: float  # the squared distance that counts as an OOD score of 1
    false_alarms: float  # the share of images of known classes that `threshold` lets pass for unknown
    # which generators are confused; None in states from before format 4, or where too few images tell
    relatives: Relatives | None = None
    # what is asked before the branches; None in states from before format 7, or where too few images tell
    student: Student | None = None

    @classmethod
    def fit(
        cls,
        textures: Tensor,
        logits: Tensor,
        ids: Tensor,
        classes: ClassTable,
        false_alarms: float,
        set_error: float,
        residual: Residual | None = None,
    ) -> Calibration:
        """Fit to the calibration images of every class.

        Args:
            textures: (n, L·D) of the images, at least LEAST_PER_CLASS of each class, as the frozen backbone gives them.
            logits: (n, C) of the images.
            ids: (n,) their classes.
            classes: the class table.
            false_alarms: see above.
            set_error: the share of synthetic images that may be by a generator that is not among those named.
            residual: of a head of the texture that never saw these images, which then gives the OOD score.
        """
        temperature, bias = fit_probabilities(logits, ids, classes)
        folds = folds_of(ids)
        relatives = Relatives.fit(_probabilities_as_if_new(logits, ids, classes, folds), ids, classes, set_error)
        kinds = right_answers(ids, classes) if residual else ids
        fit = residual.measured if residual else Distance.fit
        squared = as_if_new(textures, kinds, folds, fit)
        unit = max(float(squared.median()), _TINY)
        scores = (squared / unit).sort().values
        return cls(temperature, bias, fit(textures, kinds), scores, unit, false_alarms, relatives)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated class probabilities of logits (B, C), on the CPU."""
        return (logits.double().cpu() / self.temperature + self.bias).softmax(dim=1)

    def ood_score(self, textures: Tensor) -> Tensor:
        """How far textures (B, L·D) lie from the nearest class, (B,): the median calibration image's is 1."""
        return self.distance.squared(textures) / self.unit

    @cached_property
    def threshold(self) -> float:
        """The OOD score that a share of `false_alarms` of the calibration images exceeds."""
        return float(torch.quantile(self.scores, 1 - self.false_alarms))

    @property
    def images(self) -> int:
        """How many images it was fitted on."""
        return len(self.scores)

    def record(self) -> dict[str, Any]:
        """What is not a tensor, as JSON."""
        numbers = {"temperature": self.temperature, "unit": self.unit, "false_alarms": self.false_alarms}
        told = {"threshold": self.threshold, "images": self.images}
        told |= {"distance_base": self.distance.base} if isinstance(self.distance, Distance) else {}
        student = {"student": {"ahead": self.student.ahead}} if self.student else {}
        return numbers | told | student | {"relatives": self.relatives.record() if self.relatives else None}

    def tensors(self) -> dict[str, Tensor]:
        found = {"bias": self.bias, "scores": self.scores} | self.distance.tensors()
        found |= self.student.tensors() if self.student else {}
        return found | ({"levels": self.relatives.levels} if self.relatives else {})

    @classmethod
    def parse(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Calibration:
        """The opposite of `record` and `tensors`."""
        distance: Distance | Residual | ByKind
        if record["distance_base"] is None:
            distance = ByKind.parse(tensors) if "score_unit" in tensors else Residual.parse(tensors)
        else:
            distance = Distance(tensors["means"], tensors["axes"], tensors["gains"], record["distance_base"])
        relatives = Relatives.parse(record["relatives"], tensors["levels"]) if record["relatives"] else None
        student = None
        if record.get("student"):
            student = Student(tensors["student_weight"], tensors["student_bias"], record["student"]["ahead"])
        numbers = (record["unit"], record["false_alarms"])
        return cls(record["temperature"], tensors["bias"], distance, tensors["scores"], *numbers, relatives, student)


def fit_probabilities(logits: Tensor, ids: Tensor, classes: ClassTable) -> tuple[float, Tensor]:
    """The temperature and biases (C,) under which the right answers of these images are likeliest.

    The right answer of a real image is "real", of whichever task. Biases are held near 0 by a penalty, so that few
    images suffice, and one image more is imagined whose right answer may be any: where all n are answered rightly, an
    error in n + 1 is still to be expected.

    Source: bias-corrected temperature scaling, Alexandari et al. (ICML 2020), after Guo et al. (ICML 2017); the
    imagined image after Platt, Probabilistic Outputs for Support Vector Machines (1999).
    """
    logits, right = logits.double().cpu(), right_answers(ids, classes)
    fitted = torch.zeros(1 + logits.shape[1], dtype=torch.double, requires_grad=True)  # log of 1/temperature; biases
    search = torch.optim.LBFGS([fitted], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        answers = answers_of((logits * fitted[0].exp() + fitted[1:]).softmax(dim=1), classes)
        imagined = loss_of_any(answers) / len(right)
        held = _BIAS_PENALTY * fitted[1:].square().sum() + _SCALE_PENALTY * fitted[0].square()
        value = mean_loss(answers, right) + imagined + held
        value.backward()
        return value

    search.step(loss)
    found = fitted.detach()
    return float((-found[0]).exp()), found[1:].clone()


def folds_of(ids: Tensor) -> Tensor:
    """In which part each image (n,) is, for what is to be measured as if it were new; parts hold classes alike."""
    folds = min(_FOLDS, int(ids.bincount()[ids.unique()].min()))
    assert folds >= LEAST_PER_CLASS
    fold = torch.empty_like(ids)
    fold[torch.argsort(ids, stable=True)] = torch.arange(len(ids)) % folds
    return fold


def _probabilities_as_if_new(logits: Tensor, ids: Tensor, classes: ClassTable, folds: Tensor) -> Tensor:
    """Calibrated probabilities (n, C), each fitted to the images of the other folds."""
    logits = logits.double().cpu()
    found = torch.empty_like(logits)
    for k in folds.unique():
        new = folds == k
        temperature, bias = fit_probabilities(logits[~new], ids[~new], classes)
        found[new] = (logits[new] / temperature + bias).softmax(dim=1)
    return found
