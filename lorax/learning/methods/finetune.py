"""Fine-tuning: one branch, fitted to task after task, and a head that grows.

Only the exemplars hold on to what was learned before. The feature stays (B, D), however many tasks there are, and the
head is (C, D).

Source: the "Fine-tuning" of LoRAX's table (arXiv 2504.08149), which fits the whole backbone where this fits one branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorax.learning.methods.lessons import Lesson, Taught, Teach, learn_in_turn
from lorax.learning.queries import Fetch
from lorax.learning.training import OnEpoch
from lorax.network.building import open_backbone
from lorax.network.network import Network
from lorax.params import Params
from lorax.stream import Task


def learn(
    tasks: Sequence[Task], fetch: Fetch, params: Params, home: Path, on_epoch: OnEpoch | None = None
) -> list[tuple[float, ...]]:
    """Learn tasks in order with one branch: a `Method`."""
    return learn_in_turn(*begin(params), tasks, fetch, params, home, on_epoch)


def begin(params: Params) -> tuple[Network, Teach]:
    """A network that knows nothing, and how it takes in a task."""
    backbone = open_backbone(params.backbone)
    return Network.empty(backbone, mixed_precision=params.training.mixed_precision), _teach


def _teach(lesson: Lesson) -> Taught:
    if lesson.network.branches:
        lesson.grow_head(0)
    else:
        lesson.grow_branch(lesson.network)
    return lesson.rehearse()
