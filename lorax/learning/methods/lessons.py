"""A stream learned task by task in memory, with the parts of an episode in an episode's order.

Methods differ in how a network takes a task in, and in nothing else: what is held out, the texture's head,
calibration and the scores are an episode's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from lorax.errors import StateError
from lorax.learning.batches import TrainingSet
from lorax.learning.cascade import ask_as_served
from lorax.learning.exemplars import extended_memory, hold_out, updated_memory
from lorax.learning.metrics import score
from lorax.learning.queries import Asker, FeatureQuery, Fetch
from lorax.learning.settling import settled
from lorax.learning.state import Exemplar, LearnerState, check_learnable
from lorax.learning.texture_head import with_textures
from lorax.learning.training import Fit, OnEpoch, epoch_seed
from lorax.network.features import FeatureCache
from lorax.network.network import Network, device_of, grown_head
from lorax.params import Params
from lorax.stream import ClassTable, PinnedTask, Sample, Task


@dataclass(frozen=True)
class Lesson:
    """One task that a network is to take in."""

    index: int  # of the episode, from 0
    task: Task  # without the images that are held out
    classes: ClassTable  # the task's come last
    exemplars: tuple[Exemplar, ...]  # so far
    asker: Asker  # of the network
    params: Params
    scratch: Path  # an empty folder
    on_epoch: OnEpoch | None

    @property
    def network(self) -> Network:
        """Which knows all tasks before."""
        return self.asker.network

    @property
    def head_seed(self) -> int:
        """An episode's, of what a head begins with."""
        return epoch_seed(self.params.run.seed, self.index, self.params.training.epochs + 1)

    def grow_branch(self, network: Network) -> None:
        """Let a network have a fresh branch, and the task's classes; as an episode does."""
        new, seed = self.task.classes, self.params.run.seed
        network.grow(self.params.lora, len(new), branch_seed=seed, head_seed=self.head_seed, brings_real=new[0].is_real)

    def grow_head(self, width: int) -> None:
        """The same without a branch: the head reads `width` numbers more."""
        network, new = self.network, self.task.classes
        device, generator, seed = network.device, torch.Generator().manual_seed(self.head_seed), self.params.run.seed
        old, is_real = network.head.cpu(), new[0].is_real
        network.head = grown_head(old, width, len(new), generator, branch_seed=seed, brings_real=is_real)
        network.to(device)

    def rehearse(self) -> Taught:
        """Fit what comes last in the network, and its head, to the task's images and the exemplars; herd anew."""
        samples = [*self.task.train, *(e.sample for e in self.exemplars)]
        features, textures = self.fit(self.asker, samples, self.classes)
        budget = self.params.exemplars.budget
        memory = updated_memory(self.exemplars, self.task.train, features, self.classes, budget)
        return Taught(textures, memory)

    def fit(self, asker: Asker, samples: Sequence[Sample], classes: ClassTable) -> tuple[Tensor, Tensor]:
        """Fit a network's newest branch, and its head, to images; the task's come first among them.

        Returns:
            What its branches (n, K·D) and the texture (n, F) then say of the task's n images, as training shows them
            first; F is 0 where no head reads the texture.
        """
        labels, own = torch.tensor(classes.ids(samples)), classes.of_task(self.task.name)
        data = TrainingSet.load(asker, samples, labels, self.params, self.scratch)
        fit = Fit(asker.network, own, self.params.training, self.params.run, self.index)
        fit.run_epochs(data, self.scratch / "training.safetensors", self.on_epoch)
        count = len(self.task.train)
        first, read = FeatureQuery(self.task.train, data.first_views(count)), data.read_first_views
        return asker.ask(first, with_texture=_reads_texture(self.params), read=read)


@dataclass(frozen=True)
class Taught:
    """What a lesson leaves, beside the network."""

    textures: Tensor  # (n, F) of the task's images; see `Lesson.fit`
    exemplars: tuple[Exemplar, ...] = ()


Teach = Callable[[Lesson], Taught]
"""Lets a network take a task in: after it, its head tells all classes."""


def learn_in_turn(
    network: Network,
    teach: Teach,
    tasks: Sequence[Task],
    fetch: Fetch,
    params: Params,
    home: Path,
    on_epoch: OnEpoch | None,
) -> list[tuple[float, ...]]:
    """Teach a network that knows nothing task after task; a `Method`, but for the first two.

    Raises:
        StateError: a task can't be learned where it stands.
    """
    for task in tasks:
        check_alone(task)
    torch.set_num_threads(params.run.threads)
    network.requires_grad_(False).to(device_of(params.run.device))
    asker = Asker(network, FeatureCache(home / "features"), fetch, params.run.batch_size)
    state, rows = LearnerState(network.backbone.identity, parameters=params.learning()), list[tuple[float, ...]]()
    for index, whole in enumerate(tasks):
        check_learnable(state, whole, params)
        task, held = hold_out(whole, state, params)
        classes = state.classes.with_classes_of(task)
        with _scratch(home) as scratch:
            lesson = Lesson(index, task, classes, state.exemplars, asker, params, scratch, on_epoch)
            state = _taught(state, lesson, held, teach(lesson))
        rows.append(scored(state, asker, tasks[: index + 1], params))
    return rows


def _taught(state: LearnerState, lesson: Lesson, held: tuple[Sample, ...], left: Taught) -> LearnerState:
    """The state once a lesson is over, settled as an episode's; its branches are in the network alone."""
    task, classes, params, head = lesson.task, lesson.classes, lesson.params, lesson.network.head
    statistics = state.statistics
    if _reads_texture(params):
        known = (statistics, params.head.perturbations, task.train, classes)
        statistics = with_textures(*known, left.textures, lesson.asker)
    grown = replace(
        state,
        classes=classes,
        head_weight=head.weight.detach().cpu(),
        head_bias=head.bias.detach().cpu(),
        texture_head=None,
        statistics=statistics,
        exemplars=left.exemplars,
        calibration_memory=extended_memory(state.calibration_memory, held, classes, params),
        calibration=None,
        tasks=(*state.tasks, PinnedTask(task.name, task.digest)),
    )
    return settled(grown, lesson.asker, params)


def scored(state: LearnerState, asker: Asker, tasks: Sequence[Task], params: Params) -> tuple[float, ...]:
    """Accuracy on the test set of each task, by what is served."""
    query = FeatureQuery.of_centers([sample for task in tasks for sample in task.test])
    features, textures = ask_as_served(asker, query, [state], with_texture=_reads_texture(params))
    answers = state.classes_of(features, textures).cpu().split([len(task.test) for task in tasks])
    predicted = {task.name: part for task, part in zip(tasks, answers, strict=True)}
    true = {task.name: torch.tensor(state.classes.ids(task.test)) for task in tasks}
    return tuple(score(predicted, {}, true, state.classes).accuracy.values())


def check_alone(task: Task) -> None:
    """See that a task's classes are its own.

    Raises:
        StateError: it extends another.
    """
    if task.extends:
        raise StateError(
            f"task {task.name!r} brings more images of {task.extends!r}, which only LoRAX itself learns in place; "
            "methods are compared on tasks with classes of their own. Leave it out."
        )


@contextmanager
def _scratch(home: Path) -> Iterator[Path]:
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".lesson-", dir=home) as folder:
        yield Path(folder)


def _reads_texture(params: Params) -> bool:
    return params.head.solver == "ridge"
