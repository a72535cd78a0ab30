"""The learner state: all that the next episode needs, when one can begin with it, and the network that it describes.

`state_files.py` has it as a directory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from lorax.errors import StateError
from lorax.learning.calibration import Calibration, answers_of
from lorax.learning.student import Student
from lorax.learning.texture_head import Statistics
from lorax.network.backbone import Backbone, BackboneIdentity
from lorax.network.building import reopen_backbone
from lorax.network.network import Network, TextureHead, device_of, fresh_head
from lorax.params import HeadParams, Params
from lorax.storage import canonical_json
from lorax.stream import ClassTable, DataRevision, PinnedTask, Sample, Task


@dataclass(frozen=True)
class Branch:
    """One task's LoRA: PEFT's configuration and weights, and what its training started from."""

    task: str
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    seed: int  # of the A factors that it started from
    # the task whose branch it started from; None where it started fresh, "" where that was before format 3: then the
    # head started otherwise in every episode, so that its weights can't be compared with others'
    start: str | None = None

    def files(self) -> dict[str, bytes]:
        """The branch in PEFT's format, the same bytes every time (PEFT's own writer orders a set by hash)."""
        return {
            "adapter_config.json": canonical_json(dict(self.config)).encode(),
            "adapter_model.safetensors": tensor_file(self.weights),
        }


@dataclass(frozen=True)
class Exemplar:
    """A reference to one image of the exemplar memory, or of the calibration memory; `rank` 0 was chosen first."""

    sample: Sample
    class_id: int
    rank: int


@dataclass(frozen=True)
class LearnerState:
    """What was learned so far; immutable."""

    backbone: BackboneIdentity
    branches: tuple[Branch, ...] = ()
    classes: ClassTable = field(default_factory=ClassTable)
    head_weight: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    head_bias: Tensor = field(default_factory=lambda: torch.zeros(0))
    texture_head: TextureHead | None = None
    # of each kind of perturbation, CLEAN first; none where no head reads the texture
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    exemplars: tuple[Exemplar, ...] = ()
    calibration_memory: tuple[Exemplar, ...] = ()
    calibration: Calibration | None = None
    tasks: tuple[PinnedTask, ...] = ()
    # task -> the older one of which it brought more images: its episode fitted that one's branch on, which came last
    extensions: Mapping[str, str] = field(default_factory=dict)
    accuracy: tuple[tuple[float, ...], ...] = ()  # [j][i]: on task i after episode j
    revision: DataRevision = field(default_factory=lambda: DataRevision("", None))
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    cut: tuple[PinnedTask, ...] = ()  # known once and cut out (`cutting`); later ones were learned beside them

    @property
    def names(self) -> list[str]:
        """Of the tasks known, in the order of learning."""
        return [task.name for task in self.tasks]

    @property
    def undecided_below(self) -> float:
        """How likely an answer must be to be given."""
        return float(self.parameters.get("calibration", {}).get("undecided_below", 0.5))

    @property
    def student(self) -> Student | None:
        """What answers in the branches' place where it is sure."""
        return self.calibration.student if self.calibration else None

    def logits(self, features: Tensor, textures: Tensor) -> Tensor:
        """Of each class (N, C), all branches asked.

        Args:
            features: (N, K·D) what branches say of the images; those of further branches may follow.
            textures: (N, F) of them.
        """
        logits = F.linear(features[:, : self.head_weight.shape[1]], self.head_weight, self.head_bias)
        return self.texture_head.beside(logits, textures) if self.texture_head else logits

    def ask_student(self, textures: Tensor) -> tuple[Tensor, Tensor] | None:
        """The student's logits (N, C), and whether they are to be given (N,); None where there is none.

        Args:
            textures: (N, F) of the images.
        """
        if self.calibration is None or self.student is None:
            return None
        told, nothing_to_add = self.student.answer(textures, self.texture_head)
        is_sure = self.student.is_sure(answers_of(self.calibration.probabilities(told), self.classes))
        return told, is_sure | nothing_to_add

    def served_logits(self, features: Tensor, textures: Tensor) -> Tensor:
        """Of each class (N, C) as verdicts have them: the student's where it is sure; arguments as above."""
        logits = self.logits(features, textures)
        if (asked := self.ask_student(textures)) is None:
            return logits
        told, is_given = asked
        return torch.where(is_given[:, None], told, logits)

    def classes_of(self, features: Tensor, textures: Tensor) -> Tensor:
        """What it calls images, as class ids (N,); arguments as above."""
        return self.served_logits(features, textures).argmax(dim=1)

    def branch_of(self, task: str) -> Branch:
        """The branch of a task, for another to start from.

        Raises:
            StateError: there is none.
        """
        for branch in self.branches:
            if branch.task == task:
                return branch
        known = ", ".join(branch.task for branch in self.branches) or "none"
        raise StateError(
            f"a branch can't start from that of task {task!r}: the learner state has {known}. Plan it anew."
        )


def tensor_file(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of some tensors, the same bytes every time."""
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return bytes(safetensors.torch.save(ready, metadata={"format": "pt"}))


def check_learnable(base: LearnerState, task: Task, params: Params) -> None:
    """See that an episode can learn a task on top of a state.

    Raises:
        StateError: the task is known already, or extends one that is not; no real image is there to tell others from;
            or what was learned before was learned on another backbone than params.yaml names, with another solver of
            the head, or for other kinds of perturbation.
    """
    _check_task(base, task)
    if base.tasks:
        _check_backbone(base, params)
        _check_head(base, params.head)


def _check_task(base: LearnerState, task: Task) -> None:
    if task.name in {t.name for t in base.tasks}:
        raise StateError(f"task {task.name!r} is in the learner state already; an episode learns a new task.")
    if task.extends:
        _check_extends(base, task)
    if not any(c.is_real for c in task.classes) and not any(e.is_real for e in base.classes.entries):
        raise StateError(
            f"task {task.name!r} brings no real images and no earlier task did: there is nothing to tell its images "
            "from. Land a task with a 0_real folder first."
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


def _check_backbone(base: LearnerState, params: Params) -> None:
    wanted, found = params.learning()["backbone"], base.parameters.get("backbone")
    if wanted != found:
        tasks = ", ".join(task.name for task in base.tasks)
        raise StateError(
            f"params.yaml names backbone {wanted}, but the learner state of {tasks} was learned on {found}. "
            "Branches fit one backbone only: restore the backbone section, or begin a new registry.model."
        )


def _check_head(base: LearnerState, head: HeadParams) -> None:
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
