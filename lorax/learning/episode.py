"""An episode: learn one task on top of a learner state. The method, on one screen, is `learn_episode`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from lorax.data.images import Progress
from lorax.errors import DataVersionError
from lorax.learning.batches import TrainingSet
from lorax.learning.cascade import ask_as_served
from lorax.learning.exemplars import extended_memory, hold_out, updated_memory
from lorax.learning.folder import EpisodeFolder, Herded, Report, Trained
from lorax.learning.launch import launch
from lorax.learning.metrics import score
from lorax.learning.queries import Asker, FeatureQuery, Fetch
from lorax.learning.settling import settled
from lorax.learning.state import Branch, LearnerState, check_learnable, open_network
from lorax.learning.state_files import load_state, save_state
from lorax.learning.texture_head import CLEAN, with_textures
from lorax.learning.training import Fit, OnEpoch, epoch_seed
from lorax.network.backbone import Backbone
from lorax.network.building import open_backbone
from lorax.network.features import FeatureCache, OnCached
from lorax.network.network import Network
from lorax.network.process_group import SINGLE, ProcessGroup
from lorax.storage import write_record
from lorax.stream import ClassTable, PinnedTask, Sample, Task

ReadTask = Callable[[str], Task]
"""Finds a landed task by its name."""

ReadLearned = Callable[[PinnedTask], Task]
"""Finds a known task as it was when it was learned."""


def learn_episode(
    episode: Episode, on_epoch: OnEpoch | None = None, on_progress: Progress | None = None
) -> LearnerState:
    """Learn a task on top of a learner state, and return the next one; the flow runs the same calls, one step each.

    A pure function of (base, the tasks' bytes, params): run in one process or resumed in many, on the same kind of CPU
    it gives byte for byte the same state.

    Source: LoRAX (arXiv 2504.08149), the incremental training procedure.
    """
    episode.grow()
    episode.fit(on_epoch, on_progress)
    episode.herd()
    episode.calibrate()
    episode.score(on_progress)
    return episode.state


class Episode:
    """One task learned on top of a learner state: `grow` to `score`, in this order, are the method.

    Each leaves its output in the folder whole or not at all and does nothing where that is there; so after a kill an
    episode that is opened anew goes on with the first unfinished one. Calibration comes before scoring, since it
    decides how much the texture counts in the answers that are scored. States are read once for all of them, and the
    network is built once.

    Args:
        folder: the episode's, with its plan.
        base: what it grows from.
        tasks: those that `base` knows, in its order, and the new one.
        fetch: finds images.
        backbone: of the base, where it was built to name it.
        group: the processes that share the work, of which this is one; if the plan asks for more, they are started.

    Raises:
        StateError: `base` knows the task already, or knows no real image and the task brings none, or was learned
            on another backbone than planned, or with another solver of the head.
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
        self.index = len(base.tasks)  # the episode's, from 0
        self.is_for_more = self.params.run.processes > group.size  # whether other processes are to do the heavy work
        self.reads_texture = self.params.head.solver == "ridge"
        self.cache = FeatureCache(folder.features_dir)
        self._backbone, self._calibration_s = backbone, 0.0
        check_learnable(base, self.tasks[-1], self.params)
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
        base: LearnerState | None = None,
        group: ProcessGroup = SINGLE,
    ) -> Episode:
        """The episode that a folder's plan describes.

        Args:
            folder: the episode's.
            read_task: finds its task.
            fetch: finds images.
            read_learned: finds the tasks that its base knows; None: as they are now.
            base: what it grows from, where that was read already.
            group: see above.

        Raises:
            StateError: the base is damaged; and as above.
            BackboneError: the backbone can't be built.
            DataVersionError: the task is not what was planned any more.
        """
        plan = folder.plan()
        backbone = None if plan.base_dir else open_backbone(plan.params.backbone)
        base = LearnerState(backbone.identity) if backbone else base or load_state(Path(plan.base_dir or ""))
        new = read_task(plan.task.name)
        if (new.digest, new.extends) != (plan.task.digest, plan.extends):
            raise DataVersionError(
                f"task {new.name!r} changed while it was being learned: digest {new.digest[:12]} instead of "
                f"{plan.task.digest[:12]}. Run 'lorax learn' again to learn it as it is now."
            )
        read_known = read_learned or (lambda known: read_task(known.name))
        tasks = [*map(read_known, base.tasks), new]
        return cls(folder, base, tasks, fetch, backbone=backbone, group=group)

    def grow(self) -> None:
        """Grow the network by a branch that knows nothing yet, and by outputs for the task's classes.

        Raises:
            BackboneError: the backbone can't learn in what lora.targets matches, or has not what calibration needs.
        """
        if not self.folder.trained_dir.is_dir() and not self.is_for_more:
            self.network = self.grown_network()

    def fit(self, on_epoch: OnEpoch | None = None, on_progress: Progress | None = None) -> None:
        """Fit the new branch and the head to the task's images and the exemplars.

        Raises:
            ParamsError: params.yaml asks for more processes than there are GPUs.
        """
        if self.folder.trained_dir.is_dir():
            return
        if self.is_for_more:
            samples = [*self.tasks[-1].train, *(e.sample for e in self.base.exemplars)]
            launch("fit", self.folder, self.tasks, samples, self.fetch, on_epoch, on_progress)
            return
        started = self.begin()
        network, params, pool = self.network, self.params, [*self.task.train, *self.remembered]
        samples = [*pool, *self.shown_again]
        labels = torch.tensor(self.classes.ids(samples))
        data = TrainingSet.load(self.asker, samples, labels, params, self.folder.root, on_progress, told(on_progress))
        first = FeatureQuery(pool, data.first_views(len(pool)))
        prepared = time.perf_counter()
        own = self.classes.of_task(self.task.branch)
        fit = Fit(network, own, params.training, params.run, self.index, self.group)
        curves = fit.run_epochs(data, self.folder.checkpoint_path, on_epoch)
        trained = time.perf_counter()
        on_cached, read = told(on_progress), data.read_first_views  # for herding, while the images are at hand
        _, textures = self.asker.ask(first, with_texture=self.reads_texture, on_cached=on_cached, read=read)
        statistics = {}
        if self.reads_texture:
            known = (self.base.statistics, params.head.perturbations, self.task.train, self.classes)
            statistics = with_textures(*known, textures[: len(self.task.train)], self.asker)
        seconds = {"prepare": prepared - started + time.perf_counter() - trained}
        seconds |= {"train": sum(row.seconds for row in curves)}
        if self.group.is_main:
            Trained.of(network, statistics, curves, seconds, first.corners).save(self.folder.trained_dir)
            self.folder.checkpoint_path.unlink(missing_ok=True)

    def herd(self) -> None:
        """Herd the exemplars of the task's classes, and shrink the others', within the budget.

        Herding looks at each image's first training view, about which the branches have been asked already. Where the
        task extends another, the exemplars so far are among those to choose from, for all that they were chosen from.
        """
        if self.folder.exemplars_path.is_file():
            return
        started = self.begin()
        pool = [*self.task.train, *self.remembered]
        features, _ = self.asker.ask(FeatureQuery(pool, self.trained.views))
        weights = self._stood_for(pool) if self.remembered else None
        memory = updated_memory(
            self.base.exemplars, pool, features, self.classes, self.params.exemplars.budget, weights
        )
        self.herded = Herded(memory, time.perf_counter() - started)
        write_record(self.folder.exemplars_path, self.herded)

    def calibrate(self) -> None:
        """Fit on held-out images what turns the network's answers into probabilities, and solve the texture's head.

        What comes of it is written with the scores: it is solved in no time from features that are cached.
        """
        if self.folder.is_scored:
            return
        started = self.begin()
        self.network.texture_head = self._calibrated.texture_head
        self._calibration_s += time.perf_counter() - started

    def score(self, on_progress: Progress | None = None) -> None:
        """Score the network on the test set of every task it knows, and write the next learner state."""
        if self.folder.is_scored:
            return
        self.calibrate()
        started = self.begin()
        if self.is_for_more:
            samples = list(chain.from_iterable(task.test for task in self.tasks))
            launch("look", self.folder, self.tasks, samples, self.fetch, None, on_progress)
        features, textures = self.look_at_tests(on_progress)
        of_base = features  # the base's branches say the same, but for the one of what is extended
        if self.task.extends:
            asker = replace(self.asker, network=self._opened(self.base))
            of_base, _ = ask_as_served(asker, self._tests, [self.base], with_texture=self.reads_texture)
        predicted, before, true = {}, {}, {}
        sizes = [len(task.test) for task in self.tasks]
        looks = zip(self.tasks, *(part.split(sizes) for part in (features, of_base, textures)), strict=True)
        for task, said, said_by_base, seen in looks:
            predicted[task.name] = self._calibrated.classes_of(said, seen)
            if task is not self.tasks[-1] or task.extends:
                before[task.name] = self.base.classes_of(said_by_base, seen)
            true[task.name] = torch.tensor(self.classes.ids(task.test))
        scores = score(predicted, before, true, self.classes)
        scoring_s = time.perf_counter() - started + self._calibration_s
        report = Report(
            **vars(scores),
            episode=self.index,
            task=self.task.name,
            curves=list(self.trained.curves),
            seconds={**self.trained.seconds, "herd": self.herded.seconds, "evaluate": scoring_s},
            trainable_parameters=self.trained.trainable_parameters,
            lora_modules=self.trained.lora_modules,
            tested={task.name: task.digest for task in self.tasks},
        )
        write_record(self.folder.report_path, report)
        rows = (*self.base.accuracy, tuple(scores.accuracy.values()))
        self.state = replace(self._calibrated, exemplars=self.herded.exemplars, accuracy=rows)
        save_state(self.state, self.folder.state_dir)

    def look_at_tests(self, on_progress: Progress | None = None) -> tuple[Tensor, Tensor]:
        """What is said of all test images, the new task's last, as far as the scores take it; see `ask_as_served`."""
        with_texture = self.reads_texture or bool(self.base.student or self._calibrated.student)
        states = [self._calibrated, *([self.base] if self.base.tasks and not self.task.extends else [])]
        on_cached = told(on_progress)
        return ask_as_served(self.asker, self._tests, states, with_texture=with_texture, on_cached=on_cached)

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
        """The next learner state, which lies in the folder once the network is scored."""
        return load_state(self.folder.state_dir)

    @cached_property
    def network(self) -> Network:
        """The network as far as the episode has come: the next state's, the trained one, or the base's, just grown."""
        if self.folder.is_scored:
            return self._opened(self.state)
        return self._opened(self.grown) if self.folder.trained_dir.is_dir() else self.grown_network()

    @property
    def asker(self) -> Asker:
        """The network, to be asked about images."""
        return Asker(self.network, self.cache, self.fetch, self.params.run.batch_size, self.group)

    @cached_property
    def trained(self) -> Trained:
        kinds = (CLEAN, *self.params.head.perturbations) if self.reads_texture else ()
        return Trained.load(self.folder.trained_dir, kinds)

    @cached_property
    def herded(self) -> Herded:
        return Herded.read(self.folder.exemplars_path)

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

    @cached_property
    def _calibrated(self) -> LearnerState:
        return settled(self.grown, self.asker, self.params)

    @property
    def _tests(self) -> FeatureQuery:
        return FeatureQuery.of_centers([sample for task in self.tasks for sample in task.test])

    def _stood_for(self, pool: Sequence[Sample]) -> Tensor:
        """How many images each that is herded from stands for, (N,): an exemplar for a share of those learned from."""
        images = Counter(self.classes.ids(s for task in self.tasks[:-1] for s in task.train))
        ids = self.classes.ids(pool)
        kept = Counter(ids[len(self.task.train) :])
        shares = [images[class_id] / kept[class_id] for class_id in ids[len(self.task.train) :]]
        return torch.tensor([*[1.0] * len(self.task.train), *shares])

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
