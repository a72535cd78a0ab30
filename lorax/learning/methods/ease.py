"""EASE-like: an adapter for each task, and classes told by their prototypes in every adapter's subspace; no exemplars.

An adapter is a branch, fitted with a throw-away head to its task's images alone. Then it is frozen, and what it says is
scaled to unit length. A class's *prototype* in a subspace is the mean of what that adapter says of the class's images.
Of classes whose images are gone, the prototype in a newer subspace is put together from those of the new classes,
as alike as they are in the subspace of the old class's own task. An image is of the class whose prototypes point most
where its features do: the sum of cosines over subspaces, of which that of the class's own task counts fully and the
K - 1 others share a tenth. So the head (C, K·D) is solved, never trained.

Source: Zhou et al., Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning (CVPR 2024),
sections 4.1 (adapters), 4.2 (semantic mapping) and 4.3 (the ensemble); shares of others as in its released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorax.learning.methods.lessons import Lesson, Taught, Teach, learn_in_turn
from lorax.learning.queries import FeatureQuery, Fetch
from lorax.learning.training import OnEpoch
from lorax.network.backbone import Backbone
from lorax.network.building import open_as, open_backbone
from lorax.network.network import Network
from lorax.params import Params
from lorax.stream import ClassTable, Task

_OTHERS = 0.1
"""What all subspaces but that of a class's own task count together."""

_SCALE = 32.0
"""Logits of a cosine of 1: softmax and the texture's scores are to have something to weigh against."""


def learn(
    tasks: Sequence[Task], fetch: Fetch, params: Params, home: Path, on_epoch: OnEpoch | None = None
) -> list[tuple[float, ...]]:
    """Learn tasks in order, each with an adapter and prototypes: a `Method`."""
    return learn_in_turn(*begin(params), tasks, fetch, params, home, on_epoch)


def begin(params: Params) -> tuple[Network, Teach]:
    """A network that knows nothing, and how it takes in a task."""
    prototypes = Prototypes()

    def teach(lesson: Lesson) -> Taught:
        nonlocal prototypes
        textures = _fit_adapter(lesson)
        network, ids = lesson.network, torch.tensor(lesson.classes.ids(lesson.task.train))
        features, _ = lesson.asker.ask(FeatureQuery.of_centers(lesson.task.train))
        said = features.unflatten(1, (network.branches, -1))
        new = torch.stack([said[ids == id].mean(dim=0) for id in lesson.classes.of_task(lesson.task.name)])
        prototypes = prototypes.with_task(new)
        network.head = prototypes.head().to(network.device)
        return Taught(textures)

    backbone = open_as(Subspaces, params.backbone)
    return Network.empty(backbone, mixed_precision=params.training.mixed_precision), teach


def _fit_adapter(lesson: Lesson) -> Tensor:
    """Fit a branch to the task's images alone and add it to the network; returns their textures (n, F)."""
    network, task, backbone = lesson.network, lesson.task, open_backbone(lesson.params.backbone)
    alone = Network.empty(backbone, mixed_precision=network.mixed_precision).to(network.device)
    lesson.grow_branch(alone)
    asker = replace(lesson.asker, network=alone)
    _, textures = lesson.fit(asker, task.train, ClassTable().with_classes_of(task))
    adapter = alone.backbone.branch(0)
    network.backbone.load_branch(adapter.config, adapter.weights)
    return textures


class Subspaces(Backbone):
    """A backbone whose branches say unit vectors."""

    def digest_of(self, k: int) -> str:
        return f"{super().digest_of(k)}, of unit length"

    def _pass(self, tokens: Tensor, branches: range) -> Tensor:
        said = super()._pass(tokens, branches).float().unflatten(1, (len(branches), -1))
        return F.normalize(said, dim=2).flatten(1)


class Prototypes:
    """Of every class in every subspace.

    Args:
        means: (C, K, D).
        tasks: (C,) number of each class's task, which is that of its own subspace.
    """

    def __init__(self, means: Tensor | None = None, tasks: Tensor | None = None) -> None:
        self.means = torch.zeros(0, 0, 0) if means is None else means
        self.tasks = torch.zeros(0, dtype=torch.long) if tasks is None else tasks

    def with_task(self, new: Tensor) -> Prototypes:
        """Those with a task's n classes, of which `new` (n, K + 1, D) are, in all subspaces and its own."""
        old = [torch.cat([means, _mapped(means[k], new[:, k], new[:, -1])[None]]) for means, k in self._by_class()]
        tasks = torch.cat([self.tasks, torch.full((len(new),), new.shape[1] - 1)])
        return Prototypes(torch.stack([*old, *new]), tasks)

    def head(self) -> nn.Linear:
        """Sums of cosines (C, K·D), of unit vectors."""
        classes, subspaces, width = self.means.shape
        is_own = F.one_hot(self.tasks, subspaces).bool()
        counts = torch.where(is_own, 1.0, _OTHERS / max(1, subspaces - 1))
        head = nn.Linear(subspaces * width, classes)
        weight = _SCALE * counts[:, :, None] * F.normalize(self.means, dim=2)
        head.load_state_dict({"weight": weight.flatten(1), "bias": torch.zeros(classes)})
        return head.requires_grad_(False)

    def _by_class(self) -> list[tuple[Tensor, int]]:
        return list(zip(self.means, self.tasks.tolist(), strict=True))


def _mapped(old: Tensor, new: Tensor, wanted: Tensor) -> Tensor:
    """A class's prototype (D,) in a subspace that it was not seen in.

    Args:
        old: (D,) in its own subspace.
        new: (n, D) those of classes seen in both, in that subspace.
        wanted: (n, D) those in the other.
    """
    return F.cosine_similarity(old[None], new, dim=1).softmax(dim=0) @ wanted
