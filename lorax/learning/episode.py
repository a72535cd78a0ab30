"""An episode: learn one task on top of a learner state. The method, on one screen, is `learn_episode`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from lorax.data.images import Progress
from lorax.learning.batches import TrainingSet
from lorax.learning.evaluation import accuracy_row, compare, score
from lorax.learning.exemplars import read_memory, updated_memory, write_memory
from lorax.learning.folder import Report
from lorax.learning.launch import launch
from lorax.learning.loading import answers_of, texture_head_of
from lorax.learning.opened import OpenedEpisode, told
from lorax.learning.queries import FeatureQuery
from lorax.learning.settling import settled
from lorax.learning.state import LearnerState
from lorax.learning.state_files import save_state
from lorax.learning.statistics import Statistics
from lorax.learning.texture_head import with_textures
from lorax.learning.trained import Trained
from lorax.learning.training import Fit, OnEpoch
from lorax.stream import Sample


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


class Episode(OpenedEpisode):
    """One task learned on top of a learner state: its methods, in this order, are the method.

    Each leaves its output in the folder whole or not at all and does nothing where that is there; so after a kill an
    episode that is opened anew goes on with the first unfinished one. Calibration comes before scoring, since it
    decides how much the texture counts in the answers that are scored.
    """

    _calibration_s = 0.0

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
        others = (on_progress, told(on_progress), self.group)
        labels = torch.tensor(self.classes.ids(samples))
        data = TrainingSet.load(network, samples, labels, self.fetch, params, self.cache, self.folder.root, *others)
        prepared = time.perf_counter()
        own = self.classes.of_task(self.task.branch)
        fit = Fit(network, own, params.training, params.run, self.index, self.group)
        curves = fit.run_epochs(data, self.folder.checkpoint_path, on_epoch)
        trained = time.perf_counter()
        first = FeatureQuery(pool, data.first_views(len(pool)))  # for herding, while the images are at hand
        _, textures = self.run(first, on_progress, with_texture=self.reads_texture, read=data.read_first_views)
        statistics = self._statistics(textures[: len(self.task.train)])
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
        features, _ = self.run(FeatureQuery(pool, self.trained.views))
        weights = self._stood_for(pool) if self.remembered else None
        memory = updated_memory(
            self.base.exemplars, pool, features, self.classes, self.params.exemplars.budget, weights
        )
        write_memory(self.folder.exemplars_path, memory, time.perf_counter() - started)

    def calibrate(self) -> None:
        """Fit on held-out images what turns the network's answers into probabilities, and solve the texture's head.

        What comes of it is written with the scores: it is solved in no time from features that are cached.
        """
        if self.folder.is_scored:
            return
        started = self.begin()
        self.network.texture_head = texture_head_of(self._calibrated)
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
        of_base = self.asked_of_base(self._tests, features)
        predicted, before, true = {}, {}, {}
        sizes = [len(task.test) for task in self.tasks]
        looks = zip(self.tasks, *(part.split(sizes) for part in (features, of_base, textures)), strict=True)
        for task, said, said_by_base, seen in looks:
            predicted[task.name] = self.network.logits(said, seen).argmax(dim=1)
            if task is not self.tasks[-1] or task.extends:
                before[task.name] = answers_of(self.base, said_by_base, seen)
            true[task.name] = torch.tensor(self.classes.ids(task.test))
        scores, multi_real = score(predicted, true, self.classes), self.classes.multi_real()
        memory, herding_s = read_memory(self.folder.exemplars_path)
        scoring_s = time.perf_counter() - started + self._calibration_s
        Report(
            episode=self.index,
            task=self.task.name,
            **asdict(scores),
            curves=list(self.trained.curves),
            seconds={**self.trained.seconds, "herd": herding_s, "evaluate": scoring_s},
            trainable_parameters=self.trained.trainable_parameters,
            lora_modules=self.trained.lora_modules,
            against_base=compare(before, predicted, true, multi_real),
            detection_against_base=compare(before, predicted, true, self.classes.is_real),
            tested={task.name: task.digest for task in self.tasks},
        ).write(self.folder.report_path)
        rows = (*self.base.accuracy, accuracy_row(scores, [task.name for task in self.tasks]))
        save_state(replace(self._calibrated, exemplars=memory, accuracy=rows), self.folder.state_dir)

    def look_at_tests(self, on_progress: Progress | None = None) -> tuple[Tensor, Tensor]:
        """What is said of all test images, the new task's last.

        Returns:
            All branches' features (N, K·D), and the textures (N, F), or (N, 0) where nothing reads them.
        """
        return self.run(self._tests, on_progress, with_texture=self.reads_texture)

    @cached_property
    def _calibrated(self) -> LearnerState:
        return settled(self.grown, self.network, self.cache, self.fetch, self.params)

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

    def _statistics(self, textures: Tensor) -> dict[str, Statistics]:
        """The base's with the task's training images, as they are, (n, F), and perturbed; {} if no head reads them."""
        if not self.reads_texture:
            return {}
        size, kinds = self.params.run.batch_size, self.params.head.perturbations

        def ask(query: FeatureQuery) -> Tensor:
            read = query.read_files(self.fetch, self.network.crop)
            return query.run_texture(self.cache, self.network, read, size, self.group)

        return with_textures(self.base.statistics, kinds, self.task.train, self.classes, textures, ask)
