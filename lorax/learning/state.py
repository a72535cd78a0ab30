"""The learner state: all that the next episode needs; `state_files.py` has it as a directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch

from lorax.errors import StateError
from lorax.learning.calibration import Calibration
from lorax.learning.texture_head import Statistics
from lorax.network.backbone import BackboneIdentity
from lorax.network.network import TextureHead
from lorax.storage import canonical_json
from lorax.stream import ClassTable, DataRevision, PinnedTask, Sample


@dataclass(frozen=True)
class Branch:
    """One task's LoRA: PEFT's configuration and weights, and what its training started from."""

    task: str
    config: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]
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
    head_weight: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    head_bias: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
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


def tensor_file(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file of some tensors, the same bytes every time."""
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return bytes(safetensors.torch.save(ready, metadata={"format": "pt"}))
