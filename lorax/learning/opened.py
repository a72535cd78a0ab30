"""An episode that is opened: what its steps share, so that states are read once and the network is built once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from lorax.data.images import Progress
from lorax.errors import DataVersionError
from lorax.learning.folder import EpisodeFolder
from lorax.learning.loading import base_state, open_network
from lorax.learning.preconditions import check_learnable, check_solver
from lorax.learning.queries import FeatureQuery, Fetch
from lorax.learning.recalibration import extended_memory, hold_out
from lorax.learning.state import Branch, LearnerState
from lorax.learning.state_files import load_state
from lorax.learning.texture_head import CLEAN
from lorax.learning.trained import Trained
from lorax.learning.training import epoch_seed
from lorax.network.backbone import Backbone
from lorax.network.building import open_backbone
from lorax.network.features import FeatureCache, OnCached, Read
from lorax.network.network import Network
from lorax.network.process_group import SINGLE, ProcessGroup
from lorax.stream import ClassTable, PinnedTask, Sample, Task

ReadTask = Callable[[str], Task]
"""Finds a landed task by its name."""

ReadLearned = Callable[[PinnedTask], Task]
"""Finds a known task as it was when it was learned."""


class OpenedEpisode:
    """The base state, the task with its images held out, the parameters, the network and the feature cache.

    Args:
        folder: the episode's, with its plan.
        base: what it grows from.
        tasks: those that `base` knows, in its order, and the new one.
        fetch: finds images.
        backbone: of the base, where it was built to name it.
        group: the processes that share the work, of which this is one; if the plan asks for more, they are started.

    Raises:
        StateError: `base` knows the task already, or knows no real image and the task brings none, or was learned
            with another solver of the head.
    """

    def __init__(
        self,
        folder: EpisodeFolder,
        base: LearnerState,
        tasks: Sequence[Task],
        fetch: Fetch,
        *,
        backbone: Backbone | None = None,
        group: ProcessGroup = SINGLE,
    ) -> None:
        self.folder, self.base, self.tasks, self.fetch, self.group = folder, base, tuple(tasks), fetch, group
        self.plan = folder.plan()
        self.params = self.plan.params
        self.cache = FeatureCache(folder.features_dir)
        self._backbone = backbone
        check_learnable(base, self.tasks[-1])
        check_solver(base, self.params.head)
        self.task, self.held_out = hold_out(self.tasks[-1], base, self.params)
        torch.set_num_threads(self.params.run.threads)

    @classmethod
    def open(
        cls,
        folder: EpisodeFolder,
        read_task: ReadTask,
        fetch: Fetch,
        *,
        read_learned: ReadLearned | None = None,
        group: ProcessGroup = SINGLE,
    ) -> Self:
        """The episode that a folder's plan describes.

        Args:
            folder: the episode's.
            read_task: finds its task.
            fetch: finds images.
            read_learned: finds the tasks that its base knows; None: as they are now.
            group: see above.

        Raises:
            StateError: the base was learned on another backbone than planned; and as above.
            BackboneError: the backbone can't be built.
            DataVersionError: the task is not what was planned any more.
        """
        plan = folder.plan()
        backbone = None if plan.base_dir else open_backbone(plan.params.backbone)
        base = LearnerState(backbone.identity) if backbone else base_state(Path(plan.base_dir or ""), plan.params)
        new = read_task(plan.task.name)
        if (new.digest, new.extends) != (plan.task.digest, plan.extends):
            raise DataVersionError(
                f"task {new.name!r} changed while it was being learned: digest {new.digest[:12]} instead of "
                f"{plan.task.digest[:12]}. Run 'lorax learn' again to learn it as it is now."
            )
        read_known = read_learned or (lambda known: read_task(known.name))
        tasks = [*map(read_known, base.tasks), new]
        return cls(folder, base, tasks, fetch, backbone=backbone, group=group)

    @property
    def index(self) -> int:
        """The episode's, from 0."""
        return len(self.base.tasks)

    @cached_property
    def classes(self) -> ClassTable:
        """Those of the base, and the task's."""
        return self.base.classes.with_classes_of(self.task)

    @cached_property
    def remembered(self) -> list[Sample]:
        """The exemplars of the task's own classes, which are there if it extends another; none that it brings again."""
        own, brought = set(self.classes.ids(self.task.train)), {sample.md5 for sample in self.task.train}
        return [e.sample for e in self.base.exemplars if e.class_id in own and e.sample.md5 not in brought]

    @cached_property
    def shown_again(self) -> list[Sample]:
        """The exemplars of all other classes."""
        own = set(self.classes.ids(self.task.train))
        return [e.sample for e in self.base.exemplars if e.class_id not in own]

    @cached_property
    def state(self) -> LearnerState:
        """The next learner state, as it lies in the folder once the network is scored."""
        return load_state(self.folder.state_dir)

    @cached_property
    def network(self) -> Network:
        """The network as far as the episode has come: the next state's, the trained one, or the base's, just grown."""
        if self.folder.is_scored:
            return self._opened(self.state)
        return self._opened(self.grown) if self.folder.trained_dir.is_dir() else self.grown_network()

    def run(
        self,
        query: FeatureQuery,
        on_progress: Progress | None = None,
        what: str = "",
        *,
        with_texture: bool = False,
        read: Read | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the network's branches say of images, features (N, K·D) and textures; see `FeatureQuery.run`.

        Args:
            query: the images.
            on_progress, what: told about what the branches are asked.
            with_texture: ask for textures, too.
            read: gives the images, where they are at hand.
        """
        read, size = read or query.read_files(self.fetch, self.network.crop), self.params.run.batch_size
        on_cached = told(on_progress, what)
        return query.run(self.cache, self.network, read, size, on_cached, self.group, with_texture=with_texture)

    @property
    def is_for_more(self) -> bool:
        """Whether other processes are to do the heavy work."""
        return self.params.run.processes > self.group.size

    @property
    def reads_texture(self) -> bool:
        return self.params.head.solver == "ridge"

    @cached_property
    def trained(self) -> Trained:
        kinds = (CLEAN, *self.params.head.perturbations) if self.reads_texture else ()
        return Trained.load(self.folder.trained_dir, kinds)

    @cached_property
    def grown(self) -> LearnerState:
        """The next state as far as training has decided it: exemplars and the new accuracies are still missing."""
        trained, name, extends = self.trained, self.task.name, self.task.extends
        begun = self.base.branch_of(extends) if extends else Branch(name, {}, {}, self.params.run.seed, self.plan.start)
        branch = replace(begun, config=trained.config, weights=trained.weights)
        return replace(
            self.base,
            texture_head=None,
            statistics=trained.statistics,
            branches=(*(b for b in self.base.branches if b.task != extends), branch),
            classes=self.classes,
            calibration_memory=extended_memory(self.base.calibration_memory, self.held_out, self.classes, self.params),
            calibration=None,
            head_weight=trained.head_weight,
            head_bias=trained.head_bias,
            tasks=(*self.base.tasks, PinnedTask(name, self.task.digest)),
            extensions=dict(self.base.extensions) | ({name: extends} if extends else {}),
            revision=self.plan.revision,
            parameters=self.params.learning(),
            parent=self.plan.base,
        )

    def begin(self) -> float:
        """Now; and however many threads this one used before, from here on it uses as many as were planned."""
        torch.set_num_threads(self.params.run.threads)
        return time.perf_counter()

    def asked_of_base(self, query: FeatureQuery, features: Tensor) -> Tensor:
        """What the base's branches say of images (N, ...), of which `features` are what the network's say.

        They say the same, but for the branch of what is extended.
        """
        if not self.task.extends:
            return features
        network, size = self._opened(self.base), self.params.run.batch_size
        return query.run(self.cache, network, query.read_files(self.fetch, network.crop), size)[0]

    def _opened(self, state: LearnerState) -> Network:
        backbone, self._backbone = self._backbone, None  # which is one network's only
        mixed = self.params.training.mixed_precision
        return open_network(state, self.params.run.device, mixed_precision=mixed, backbone=backbone)

    def grown_network(self) -> Network:
        """The base's network with a branch and outputs for the task; what it extends has both: its branch comes last.

        Raises:
            BackboneError: the backbone can't learn in what lora.targets matches, or has not what calibration needs.
        """
        network, params, classes = self._opened(self.base), self.params, self.task.classes
        if self.task.extends:
            network.move_last([branch.task for branch in self.base.branches].index(self.task.extends))
            network.texture_head = None  # of fewer images
            return network
        network.grow(
            params.lora,
            len(classes),
            branch_seed=params.run.seed,
            head_seed=epoch_seed(params.run.seed, self.index, params.training.epochs + 1),
            brings_real=classes[0].is_real,
        )
        if params.calibration.per_class or self.reads_texture:
            blank = torch.zeros(1, 3, network.crop, network.crop, dtype=torch.uint8)
            network.texture(blank)  # there is one, or it says so
        if self.plan.start:
            network.backbone.start_branch(network.branches - 1, self.base.branch_of(self.plan.start).weights)
        network.texture_head = None  # the base's, of fewer classes
        return network


def told(on_progress: Progress | None, what: str = "") -> OnCached | None:
    """The same for who is told of cached features; `what` is asked about."""
    if on_progress is None:
        return None
    return lambda done, total: on_progress(done, total, f"{what}: asking the branches".removeprefix(": "))
