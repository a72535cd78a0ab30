"""What is decided once a branch is trained: the head of the texture, how much it counts, calibration and student.

Held-out images decide how much the texture counts beside the branches: as much as leaves the right answers about as
likely as they can be. Of perturbed images it counts alone, scaled so that the calibration of clean ones holds for it.
Then held-out images are learned from, too: sums over textures take them in after everything honest was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lorax.learning.calibration import (
    LEAST_PER_CLASS,
    Calibration,
    answers_of,
    fit_probabilities,
    folds_of,
    losses,
    right_answers,
)
from lorax.learning.ood import ByKind, Residual, as_if_new
from lorax.learning.queries import Asker, FeatureQuery
from lorax.learning.state import LearnerState
from lorax.learning.student import Student, least_ahead, said_as_if_new
from lorax.learning.texture_head import CLEAN, kind_scores, perturbed
from lorax.network.network import TextureHead
from lorax.params import Params
from lorax.stream import ClassTable

_WEIGHTS = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""What the texture's scores, which lie between 0 and 1, may be multiplied by beside the branches' logits."""

_WEIGHT = 32.0
"""Where nothing was held out to choose by."""


@dataclass(frozen=True)
class _Held:
    """What is said of the calibration memory's n images."""

    logits: Tensor  # (n, C), the branches'
    textures: Mapping[str, Tensor]  # (n, F) of each kind of perturbation
    ids: Tensor  # (n,)


def settled(state: LearnerState, asker: Asker, params: Params) -> LearnerState:
    """The state with its calibration, and where params.yaml wants one, its head of the texture.

    Args:
        state: as training leaves it, its calibration memory extended.
        asker: of the network that it describes, which has no head of the texture yet.
        params: the episode's.
    """
    held = _look(state, asker)
    counts = Counter(held.ids.tolist())
    can_calibrate = all(counts[entry.id] >= LEAST_PER_CLASS for entry in state.classes.entries)
    if state.statistics:
        return _with_texture_head(state, held, can_calibrate, params)
    return replace(state, calibration=_calibration(state, held, None, None, params) if can_calibrate else None)


def _with_texture_head(state: LearnerState, held: _Held, can_calibrate: bool, params: Params) -> LearnerState:
    """Solved from the statistics; held-out images are learned from as well, once they have told all that they can.

    The kept sums go on without them.
    """
    answers, penalty = state.classes.multi_real(), params.head.penalty
    honest = {kind: sums.solve(penalty, answers) for kind, sums in state.statistics.items()}
    scores = {kind: F.linear(held.textures[kind], *solved) for kind, solved in honest.items()}
    kinds = kind_scores(state.statistics, penalty, held.textures if can_calibrate else None)
    weight, fitted = _WEIGHT, None
    if can_calibrate:
        weight = chosen_weight(held.logits, scores[CLEAN], held.ids, state.classes)
        residual = _residual(honest[CLEAN], state.classes)
        fitted = _calibration(state, held, weight * scores[CLEAN], residual, params)
    solved = []
    for kind, sums in state.statistics.items():
        matrix, bias = sums.with_images(held.textures[kind], held.ids, len(state.classes)).solve(penalty, answers)
        may = params.calibration.false_positives
        scale, shift = (weight, 0.0) if kind == CLEAN else _alike(fitted, scores[kind], held.ids, state.classes, may)
        solved.append((scale * matrix, scale * bias + shift))
    matrices, biases = (torch.stack(part).float() for part in zip(*solved, strict=True))
    head = TextureHead(matrices, biases, *kinds)
    if fitted and len(honest) > 1:
        fitted = _by_kind(fitted, honest, kinds, held, state.classes)
    return replace(state, texture_head=head, calibration=fitted)


def _alike(
    fitted: Calibration | None, scores: Tensor, ids: Tensor, classes: ClassTable, false_positives: float
) -> tuple[float, Tensor | float]:
    """Factor and summand (C,) that turn scores into logits of which the calibration of clean images holds, too.

    Where more than a share of `false_positives` of the real images would be called synthetic, real classes get more.
    """
    if fitted is None:
        return _WEIGHT, 0.0
    temperature, bias = fit_probabilities(_WEIGHT * scores, ids, classes)
    real = torch.tensor(classes.is_real)
    bias = bias + real * real_bias(_WEIGHT * scores / temperature + bias, real, ids, false_positives)
    return fitted.temperature * _WEIGHT / temperature, fitted.temperature * (bias - fitted.bias)


def real_bias(logits: Tensor, is_real: Tensor, ids: Tensor, false_positives: float) -> float:
    """What real classes' logits lack, so that of real images at most such a share is called synthetic.

    Args:
        logits: (n, C) of held-out images, whose softmax are their probabilities.
        is_real: (C,).
        ids: (n,) the images' classes.
        false_positives: the share; one image more is imagined that is called synthetic, so that new ones keep to it.
    """
    of_reals = logits[is_real[ids]]
    odds = of_reals[:, ~is_real].logsumexp(dim=1) - of_reals[:, is_real].logsumexp(dim=1)
    lacking = torch.cat([odds.clamp(min=0).sort(descending=True).values, torch.zeros(1)])
    return float(lacking[max(int(false_positives * len(lacking)) - 1, 0)])


def _residual(solved: tuple[Tensor, Tensor], classes: ClassTable) -> Residual:
    """Of a solved head, whose real classes all have one answer's row; real first, as in `right_answers`."""
    answers = sorted(set(classes.multi_real()), key=lambda k: (not classes.is_real[k], k))
    return Residual.of_head(solved[0][answers], solved[1][answers])


def _by_kind(
    fitted: Calibration,
    honest: Mapping[str, tuple[Tensor, Tensor]],
    kinds: tuple[Tensor, Tensor],
    held: _Held,
    classes: ClassTable,
) -> Calibration:
    """The calibration of clean images, and what is strange among perturbed ones: as many of each kind that is known."""
    assert isinstance(fitted.distance, Residual)
    nothing = [torch.zeros_like(part) for part in (*kinds, kinds[1])]  # clean images' kind says nothing of them
    residuals, far = [fitted.distance.beside(*nothing)], [fitted.threshold * fitted.unit]
    for kind, solved, expected in zip(honest, honest.values(), torch.eye(len(honest)), strict=True):
        if kind == CLEAN:
            continue
        fit = _residual(solved, classes).beside(*kinds, expected).measured
        told = (held.textures[kind], right_answers(held.ids, classes))
        residuals.append(fit(*told))
        far.append(float(as_if_new(*told, folds_of(held.ids), fit).quantile(1 - fitted.false_alarms)))
    return replace(fitted, distance=ByKind(tuple(residuals), torch.tensor(far) / far[0], *kinds))


def _calibration(
    state: LearnerState, held: _Held, added: Tensor | None, residual: Residual | None, params: Params
) -> Calibration:
    """Fitted to the branches' logits and what the texture adds to them (n, C); with a student, if it can be trusted."""
    settings, textures, classes = params.calibration, held.textures[CLEAN], state.classes
    of_texture = torch.zeros_like(held.logits) if added is None else added
    logits = held.logits + of_texture
    fitted = Calibration.fit(textures, logits, held.ids, classes, settings.false_alarms, settings.set_error, residual)
    students = said_as_if_new(textures, held.logits, folds_of(held.ids)) + of_texture
    ahead = least_ahead(*(answers_of(fitted.probabilities(said), classes) for said in (students, logits)))
    if ahead is None:
        return fitted
    return replace(fitted, student=replace(Student.fit(textures, held.logits), ahead=ahead))


def _look(state: LearnerState, asker: Asker) -> _Held:
    samples = [entry.sample for entry in state.calibration_memory]
    features, clean = asker.ask(FeatureQuery.of_centers(samples), with_texture=True)
    textures = {CLEAN: clean}
    for kind in list(state.statistics)[1:]:
        textures[kind] = asker.textures(perturbed(samples, kind))
    ids = torch.tensor([entry.class_id for entry in state.calibration_memory], dtype=torch.long)
    return _Held(asker.network.logits(features).cpu(), textures, ids)


def chosen_weight(logits: Tensor, scores: Tensor, ids: Tensor, classes: ClassTable) -> float:
    """How much the texture's scores count beside the branches' logits.

    The largest weight under which the right answers are about as likely as under the best one: within one standard
    error. Branches learn what their training images show, and held-out images may show the same (patches of one
    photograph): there they seem surer than they are, so in doubt they count less.

    Args:
        logits: (n, C), the branches', of held-out images.
        scores: (n, C), of a head of the texture that never saw these images.
        ids: (n,) their classes.
        classes: the class table.

    Source: the one-standard-error rule, Breiman et al., Classification and Regression Trees (1984).
    """
    found = {weight: _losses(logits + weight * scores, ids, classes) for weight in _WEIGHTS}
    best = min(found.values(), key=lambda each: float(each.mean()))
    most = float(best.mean() + best.std() / len(best) ** 0.5)
    return max(weight for weight, each in found.items() if float(each.mean()) <= most)


def _losses(logits: Tensor, ids: Tensor, classes: ClassTable) -> Tensor:
    """Of calibrated answers, (n,)."""
    temperature, bias = fit_probabilities(logits, ids, classes)
    return losses(
        answers_of((logits.double() / temperature + bias).softmax(dim=1), classes), right_answers(ids, classes)
    )
