"""The oracle: after every task, one branch learns all images of all tasks so far at once, from nothing.

Nothing can be forgotten, and no memory is short: what is lost against this is what learning in turn costs. Each row
comes from an episode of its own, the first, on the union of tasks; all real images are one class in it, so the branch
is (B, D) and the head (1 + synthetic classes, D).

Source: the "Oracle (all data)" of LoRAX's table (arXiv 2504.08149), which fits a whole network
where this fits a branch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.methods.lessons import check_alone, scored
from lorax.learning.queries import Fetch
from lorax.learning.training import OnEpoch
from lorax.params import Params
from lorax.storage import locked
from lorax.stream import DataRevision, Sample, Task, TaskClass

_NAME = "union"


def learn(
    tasks: Sequence[Task], fetch: Fetch, params: Params, home: Path, on_epoch: OnEpoch | None = None
) -> list[tuple[float, ...]]:
    """Learn all tasks so far at once, for each row anew: a `Method`. Its episodes lie in its home, and are resumed."""
    for task in tasks:
        check_alone(task)
    rows = []
    for count in range(1, len(tasks) + 1):
        together = union(tasks[:count])
        folder = EpisodeFolder.open(home, Plan.of(None, together, params, DataRevision("", None)))
        with locked(home / f".{folder.root.name}.lock"):  # another may learn the same tasks at this very moment
            episode = Episode.open(folder, {_NAME: together}.__getitem__, fetch)
            state = learn_episode(episode, on_epoch)
        parts = [replace(task, test=moved(tasks[:count], task.test)) for task in tasks[:count]]
        rows.append(scored(state, episode.asker, parts, params))
    return rows


def union(tasks: Sequence[Task]) -> Task:
    """One task with all images of some; its classes are "real", if any has real images, and all synthetic ones."""
    digest = hashlib.sha256("".join(f"{task.name} {task.digest}\n" for task in tasks).encode()).hexdigest()
    classes = [(task.name, one) for task in tasks for one in task.classes]
    real = [TaskClass(0, "real")] if any(one.is_real for _, one in classes) else []
    synthetic = [one for _, one in classes if not one.is_real]
    new = [*real, *(TaskClass(number, one.name) for number, one in enumerate(synthetic, 1))]
    train, test = chain.from_iterable(t.train for t in tasks), chain.from_iterable(t.test for t in tasks)
    return Task(_NAME, digest, tuple(new), moved(tasks, train), moved(tasks, test))


def moved(tasks: Sequence[Task], samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Images of some tasks as samples of their union's classes."""
    keys = [(task.name, one.index) for task in tasks for one in task.classes if not one.is_real]
    number = {key: number for number, key in enumerate(keys, 1)}
    found = [(s, number[s.task, s.class_index] if s.class_index else 0) for s in samples]
    return tuple(replace(s, task=_NAME, class_index=index) for s, index in found)
