"""Whether the parts of a learner state, each of which is whole, belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lorax.errors import StateError
from lorax.learning.record import RESTORE, CalibrationRecord
from lorax.learning.state import LearnerState
from lorax.stream import ClassTable


def check_fit(directory: Path, state: LearnerState) -> None:
    """Refuse parts that belong to different states though each file is whole."""
    episodes, branches, classes = len(state.tasks), len(state.branches), len(state.classes)
    learned = {branch.task for branch in state.branches}
    fits = (
        episodes == branches + len(state.extensions)
        and {task.name for task in state.tasks} == learned | state.extensions.keys()
        and learned.issuperset(state.extensions.values())
        and learned.issuperset(entry.task for entry in state.classes.entries)
        and [len(row) for row in state.accuracy] == list(range(1, episodes + 1))
        and state.head_weight.ndim == 2
        and state.head_bias.ndim == 1
        and state.head_weight.shape[0] == state.head_bias.shape[0] == classes
        and [e.id for e in state.classes.entries] == list(range(classes))
        and (branches == 0 or state.head_weight.shape[1] % branches == 0)
    )
    if not fits:
        raise StateError(
            f"{directory}: {branches} branches, {episodes} tasks, {classes} classes, an accuracy matrix of "
            f"{len(state.accuracy)} rows and a head of shape {tuple(state.head_weight.shape)} don't belong together. "
            + RESTORE
        )


def check_textures(directory: Path, state: LearnerState) -> None:
    """Refuse statistics and a head of the texture that belong to different states."""
    assert state.texture_head
    kinds, classes = len(state.statistics), len(state.classes)
    sizes = {tuple(sums.means.shape) for sums in state.statistics.values()}
    width = state.texture_head.weight.shape[-1]
    expected = [(kinds, classes, width), (kinds, classes), (kinds, width), (kinds,)]
    found = [tuple(part.shape) for part in state.texture_head.tensors().values()]
    if found != expected or sizes != {(classes, width)}:
        raise StateError(
            f"{directory}: statistics of {sorted(sizes)} numbers for {kinds} kinds, {classes} classes and a head of "
            f"the texture of {found} don't belong together. {RESTORE}"
        )


def check_calibration(
    directory: Path, fitted: CalibrationRecord, tensors: Mapping[str, Tensor], classes: ClassTable
) -> None:
    """Refuse a calibration whose parts belong to different states."""
    fits = (
        tensors["bias"].shape == (len(classes),)
        and tensors["scores"].ndim == 1
        and len(tensors["scores"]) > 0
        and (_is_distance(tensors) if fitted.distance_base is not None else _is_residual(tensors))
        and _are_relatives(fitted, tensors, classes)
    )
    if not fits:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise StateError(f"{directory}: the calibration's tensors {shapes} don't belong together. {RESTORE}")


def _is_distance(tensors: Mapping[str, Tensor]) -> bool:
    means, axes = tensors["means"], tensors["axes"]
    matrices = means.ndim == axes.ndim == 2 and len(means) > 0
    return matrices and means.shape[1] == axes.shape[1] and tensors["gains"].shape == axes.shape[:1]


def _is_residual(tensors: Mapping[str, Tensor]) -> bool:
    weight, bias = tensors["score_weight"], tensors["score_bias"]
    shapes = [weight.shape[:-1] == bias.shape and bias.numel() > 0 and weight.ndim == 2]
    if "score_answers" in tensors:  # not in the first states of format 4
        answers = tensors["score_answers"].shape
        shapes.append(len(answers) == weight.ndim and answers[:-2] == bias.shape[:-1] and answers[-1] == bias.shape[-1])
    if "score_unit" in tensors:  # there are kinds of perturbation
        kinds = tensors["score_unit"].shape
        scores = (tensors["score_kind_weight"].shape, tensors["score_kind_bias"].shape)
        shapes[0] = weight.ndim == 3 and weight.shape[:-1] == bias.shape and bias.numel() > 0
        shapes.append(bias.shape[:1] == kinds and scores == ((*kinds, weight.shape[-1]), kinds))
    return all(shapes)


def _are_relatives(fitted: CalibrationRecord, tensors: Mapping[str, Tensor], classes: ClassTable) -> bool:
    """Whether the groups of relatives, if there are any, are of synthetic classes, and each has its level."""
    if fitted.relatives is None:
        return True
    synthetic = {entry.id for entry in classes.entries if not entry.is_real}
    return tensors["levels"].shape == (len(classes),) and all(synthetic.issuperset(g) for g in fitted.relatives.groups)
