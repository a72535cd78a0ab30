"""What must hold of the state that an episode begins with, and the network that a state describes."""

from __future__ import annotations

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from lorax.errors import StateError
from lorax.learning.state import LearnerState
from lorax.network.backbone import Backbone
from lorax.network.building import reopen_backbone
from lorax.network.network import Network, fresh_head
from lorax.params import HeadParams, Params
from lorax.stream import Task


def check_backbone(base: LearnerState, params: Params) -> None:
    """See that the branches of `base` fit the backbone that params.yaml names.

    Raises:
        StateError: its tasks were learned on another.
    """
    wanted, found = params.learning()["backbone"], base.parameters.get("backbone")
    if base.tasks and wanted != found:
        tasks = ", ".join(task.name for task in base.tasks)
        raise StateError(
            f"params.yaml names backbone {wanted}, but the learner state of {tasks} was learned on {found}. "
            "Branches fit one backbone only: restore the backbone section, or begin a new registry.model."
        )


def check_learnable(base: LearnerState, task: Task) -> None:
    """See that a task is new, that what it extends is known, and that there are real images to tell others from.

    Raises:
        StateError: one of these does not hold.
    """
    if task.name in {t.name for t in base.tasks}:
        raise StateError(f"task {task.name!r} is in the learner state already; an episode learns a new task.")
    if task.extends:
        _check_extends(base, task)
    if not any(c.is_real for c in task.classes) and not any(e.is_real for e in base.classes.entries):
        raise StateError(
            f"task {task.name!r} brings no real images and no earlier task did: there is nothing to tell its images "
            "from. Land a task with a 0_real folder first."
        )


def check_solver(base: LearnerState, head: HeadParams) -> None:
    """See that what params.yaml wants of the head can be had on top of `base`.

    Raises:
        StateError: the base's tasks were learned with the other solver, or for other kinds of perturbation.
    """
    if not base.tasks:
        return
    tasks = ", ".join(task.name for task in base.tasks)
    before = "ridge" if base.statistics else "gradient"
    if before != head.solver:
        why = "kept no sums of its images" if head.solver == "ridge" else "has a head that the other can't go on with"
        raise StateError(
            f"head.solver is {head.solver}, but the learner state of {tasks} was learned with head.solver {before} and "
            f"{why}. Set head.solver: {before}, or learn its tasks anew under another registry.model."
        )
    kept, wanted = list(base.statistics)[1:], list(head.perturbations)
    if base.statistics and kept != wanted:
        raise StateError(
            f"head.perturbations is {wanted}, but the learner state of {tasks} kept sums of images perturbed by "
            f"{kept}. Set head.perturbations: {json.dumps(kept)}, or learn its tasks anew under another registry.model."
        )


def _check_extends(base: LearnerState, task: Task) -> None:
    known = {(entry.task, entry.index) for entry in base.classes.entries}
    if any((task.extends, one.index) not in known for one in task.classes):
        tasks = ", ".join(entry.name for entry in base.tasks) or "none"
        raise StateError(
            f"task {task.name!r} brings more images of {task.extends!r}, whose classes the champion does not know (it "
            f"knows {tasks}). If {task.extends} is held, 'lorax release {task.extends}' has it learned first; then "
            f"'lorax release {task.name}', where this is held, too."
        )


def open_network(
    state: LearnerState, device: str = "auto", *, mixed_precision: bool = False, backbone: Backbone | None = None
) -> Network:
    """The network that a learner state describes, ready to predict.

    Args:
        state: the state.
        device: see `device_of`.
        mixed_precision: see `Network`.
        backbone: the state's, without branches, where it is at hand.

    Raises:
        BackboneError: its backbone can't be built here, or has other weights than the state names.
    """
    network = Network.empty(backbone or reopen_backbone(state.backbone), mixed_precision=mixed_precision)
    for branch in state.branches:
        network.backbone.load_branch(branch.config, branch.weights)
    classes, width = state.head_weight.shape
    network.head = fresh_head(width, classes, torch.Generator())
    network.head.load_state_dict({"weight": state.head_weight, "bias": state.head_bias})
    network.texture_head = state.texture_head
    return network.requires_grad_(False).to(device_of(device))


def answers_of(state: LearnerState, features: Tensor, textures: Tensor) -> Tensor:
    """The classes (N,) that a state gives to images whose features (N, K·D) are known, as are further branches'."""
    logits = F.linear(features[:, : state.head_weight.shape[1]], state.head_weight, state.head_bias)
    if state.texture_head:
        logits = state.texture_head.beside(logits, textures)
    return logits.argmax(dim=1)


def device_of(name: str) -> torch.device:
    """The device that `run.device` names; "auto" is a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
