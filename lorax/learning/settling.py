"""What is decided once a branch is trained: the head of the texture, how much it counts, and the calibration.

Held-out images decide how much the texture counts beside the branches: the weight under which calibrated answers are
likeliest. Then they are learned from, too: sums over textures take them in after everything honest was measured.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lorax.errors import StateError
from lorax.learning.asking import Fetch, Question
from lorax.learning.calibration import LEAST_PER_CLASS, Calibration, fit_probabilities
from lorax.learning.reliability import answers_of, mean_loss, right_answers
from lorax.learning.state import LearnerState
from lorax.learning.strangeness import Residual
from lorax.network.features import FeatureStore
from lorax.network.network import Network
from lorax.params import Params
from lorax.stream import ClassTable

_WEIGHTS = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""What the texture's scores, which lie between 0 and 1, may be multiplied by beside the branches' logits."""

_WEIGHT = 32.0
"""Where nothing was held out to choose by."""


def check_solver(base: LearnerState, solver: str) -> None:
    """See that what params.yaml wants of the head can be had on top of `base`.

    Raises:
        StateError: the base's tasks were learned with the other solver.
    """
    before = "ridge" if base.statistics else "gradient"
    if not base.tasks or before == solver:
        return
    why = "kept no sums of its images" if solver == "ridge" else "has a head that the other can't go on with"
    raise StateError(
        f"head.solver is {solver}, but the learner state of {', '.join(t.name for t in base.tasks)} was learned with "
        f"head.solver {before} and {why}. Set head.solver: {before}, or learn its tasks anew under another "
        "registry.model."
    )


@dataclass(frozen=True)
class _Held:
    """What is said of the calibration memory's n images."""

    logits: Tensor  # (n, C), the branches'
    textures: Tensor  # (n, F)
    ids: Tensor  # (n,)


def settled(state: LearnerState, network: Network, store: FeatureStore, fetch: Fetch, params: Params) -> LearnerState:
    """The state with its calibration, and where params.yaml wants one, its head of the texture.

    Args:
        state: as training leaves it, its calibration memory extended.
        network: the one that it describes; it has no head of the texture yet.
        store: what branches have said already.
        fetch: finds the images.
        params: the episode's.
    """
    held = _look(state, network, store, fetch, params)
    counts = Counter(held.ids.tolist())
    can_calibrate = all(counts[entry.id] >= LEAST_PER_CLASS for entry in state.classes.entries)
    logits, weight, residual = held.logits, _WEIGHT, None
    if state.statistics:
        matrix, bias = state.statistics.solve(params.head.penalty, state.classes)
        honest, residual = F.linear(held.textures, matrix, bias), _residual(matrix, bias, state.classes)
        if can_calibrate:
            weight = min(_WEIGHTS, key=lambda w: _loss(held.logits + w * honest, held.ids, state))
        logits = logits + weight * honest
        state = _with_texture_head(state, held, weight, params)
    if not can_calibrate:
        return replace(state, calibration=None)
    settings = params.calibration
    told = (held.textures, logits, held.ids, state.classes)
    return replace(state, calibration=Calibration.fit(*told, settings.false_alarms, settings.set_error, residual))


def _with_texture_head(state: LearnerState, held: _Held, weight: float, params: Params) -> LearnerState:
    """Solved from the statistics, and the held-out images as well, which they go on without."""
    assert state.statistics
    everything = state.statistics.with_images(held.textures, held.ids, len(state.classes))
    matrix, bias = everything.solve(params.head.penalty, state.classes)
    return replace(state, texture_weight=weight * matrix, texture_bias=weight * bias)


def _residual(matrix: Tensor, bias: Tensor, classes: ClassTable) -> Residual:
    """Of a solved head, whose real classes all have one answer's row; real first, as in `right_answers`."""
    answers = sorted(set(classes.multi_real()), key=lambda k: (not classes.is_real[k], k))
    return Residual.of_head(matrix[answers], bias[answers])


def _look(state: LearnerState, network: Network, store: FeatureStore, fetch: Fetch, params: Params) -> _Held:
    samples = [entry.sample for entry in state.calibration_memory]
    question = Question.of_centers(samples)
    read = question.read_files(fetch, network.crop)
    features, textures = question.ask(store, network, read, params.run.batch_size, with_texture=True)
    ids = torch.tensor([entry.class_id for entry in state.calibration_memory], dtype=torch.long)
    return _Held(network.logits(features).cpu(), textures, ids)


def _loss(logits: Tensor, ids: Tensor, state: LearnerState) -> float:
    """Mean loss of calibrated answers."""
    temperature, bias = fit_probabilities(logits, ids, state.classes)
    answers = answers_of((logits.double() / temperature + bias).softmax(dim=1), state.classes)
    return float(mean_loss(answers, right_answers(ids, state.classes)))
