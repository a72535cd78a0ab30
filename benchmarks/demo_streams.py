"""The demo's stream, or a part of it, learned by the plain functions; what is learned already is found again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.tasks import TaskFiles
from lorax.data.perturbations import UNCHANGED, Perturbation
from lorax.data.simulate import DEMO_TASKS, simulate
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.queries import Asker, FeatureQuery
from lorax.learning.state import LearnerState, open_network
from lorax.learning.state_files import load_state
from lorax.network.features import FeatureCache
from lorax.params import Params
from lorax.stream import DataRevision, Sample, Task


def demo_files(folder: Path, train_per_class: int = 150, val_per_class: int = 80) -> TaskFiles:
    """The mini-CDDB, simulated in `folder` at the first call."""
    raw, files = folder / "mini-cddb", TaskFiles()
    if not raw.exists():
        simulate(raw, train_per_class=train_per_class, val_per_class=val_per_class)
    for task in DEMO_TASKS:
        files.read(raw / task)
    return files


def learned(
    files: TaskFiles,
    tasks: Sequence[Task],
    params: Params,
    home: Path,
    start: Callable[[LearnerState, Task], str | None] = lambda *_: None,
) -> list[EpisodeFolder]:
    """One episode for each of `tasks`, beginning with nothing; `start` says from which known task's branch."""
    folders: list[EpisodeFolder] = []
    for task in tasks:
        base = folders[-1].state_dir if folders else None
        chosen = start(load_state(base), task) if base else None
        plan = Plan.of(base, task, params, DataRevision("simulated", "none"), chosen)
        folders.append(EpisodeFolder.open(home, plan))
        learn_episode(Episode.open(folders[-1], {one.name: one for one in tasks}.__getitem__, files.fetch))
    return folders


@dataclass(frozen=True)
class Looked:
    """What a learner says of N images: features (N, K·D), logits (N, C), textures (N, F).

    `branches` (N, C) are the logits without what the texture adds.
    """

    features: Tensor
    logits: Tensor
    textures: Tensor
    branches: Tensor


class Observer:
    """A finished episode's learner, asked about images; what frozen branches said before is found again."""

    def __init__(self, folder: EpisodeFolder, files: TaskFiles, params: Params) -> None:
        self.state: LearnerState = load_state(folder.state_dir)
        torch.set_num_threads(params.run.threads)
        mixed = params.training.mixed_precision
        self._network = open_network(self.state, params.run.device, mixed_precision=mixed)
        cache = FeatureCache(folder.features_dir)
        self._asker = Asker(self._network, cache, files.fetch, params.run.batch_size)

    def look(self, samples: Sequence[Sample], change: Perturbation = UNCHANGED) -> Looked:
        query = FeatureQuery.of_centers(samples, [change] * len(samples))
        features, textures = self._asker.ask(query, with_texture=True)
        with torch.no_grad():
            logits = self._network.logits(features, textures)
            return Looked(features, logits, textures, self._network.head(features))

    def ids(self, samples: Sequence[Sample]) -> Tensor:
        return torch.tensor(self.state.classes.ids(samples))


def mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
