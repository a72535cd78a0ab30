"""What is told of a learned stream: accuracy, forgetting, what texture and branches have in it, and heads without them.

Accuracies are means over tasks of the share of right answers, under the multi-real rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.demo_streams import Looked, Observer
from benchmarks.tasks import TaskFiles
from lorax.data.perturbations import UNCHANGED, Perturbation
from lorax.data.reals import Reals
from lorax.learning.assessment import sample_of
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.relatives import named
from lorax.learning.state import Exemplar
from lorax.learning.texture_head import Statistics
from lorax.learning.unknown import SLICES, auroc, measured
from lorax.params import Params
from lorax.stream import ClassTable, Sample, Task, TaskClass

_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_FEWER = 100  # exemplars in all
_PERTURBED = 60  # test images of each class

Part = Callable[[Looked], Tensor]
"""What a head is given: of what a learner says of N images, (N, W)."""


@dataclass(frozen=True)
class Tests:
    """The test images of all tasks, and what the last version says of them."""

    last: Observer
    looked: Looked
    ids: Tensor
    of_task: Tensor

    @classmethod
    def of(cls, last: Observer, tasks: Sequence[Task], change: Perturbation = UNCHANGED) -> Tests:
        samples = [sample for task in tasks for sample in task.test]
        of_task = torch.tensor([k for k, task in enumerate(tasks) for _ in task.test])
        return cls(last, last.look(samples, change), last.ids(samples), of_task)

    def accuracy(self, logits: Tensor) -> list[float]:
        """On each task."""
        right = _right(logits, self.ids, self.last.state.classes)
        return [round(float(right[self.of_task == k].mean()), 4) for k in range(int(self.of_task.max()) + 1)]


def stream_figures(
    files: TaskFiles,
    tasks: Sequence[Task],
    folders: Sequence[EpisodeFolder],
    params: Params,
    photographs: Reals | None = None,
) -> dict[str, Any]:
    """All that is told of one stream; of photographs that no task brings, how many its last version calls synthetic."""
    last = Observer(folders[-1], files, params)
    rows, tests, reals = last.state.accuracy, Tests.of(last, tasks), torch.tensor(last.state.classes.is_real)
    said_real, is_real = reals[tests.looked.logits.argmax(1)], reals[tests.ids]
    forgotten = [max(row[i] for row in rows[i:]) - rows[-1][i] for i in range(len(tasks) - 1)]
    return {
        "average_accuracy": _mean(rows[-1]),
        "average_incremental": _mean([float(np.mean(row)) for row in rows]),
        "forgetting": _mean(forgotten) if forgotten else 0.0,
        "detection": _mean((said_real == is_real).tolist()),
        "false_positives": {"val": _mean((~said_real)[is_real].tolist())} | _elsewhere(last, tasks, photographs),
        "perturbed": _perturbed(last, tasks),
        "named": _named(tests),
        "branches_alone": _mean(tests.accuracy(tests.looked.branches)),
        "head_only": _head_only(tests, params),
        "unknown_auroc": _unknown(files, tasks, folders, params),
        "last_row": {task.name: round(value, 4) for task, value in zip(tasks, rows[-1], strict=True)},
        "seconds": [round(sum(Report.read(folder.report_path).seconds.values()), 1) for folder in folders],
    }


def joint_task(tasks: Sequence[Task]) -> Task:
    """All tasks as one: one real class, and of each task its synthetic one."""
    name = "joint"

    def moved(samples: Sequence[tuple[int, Sample]]) -> tuple[Sample, ...]:
        return tuple(replace(s, task=name, class_index=k if s.class_index else 0) for k, s in samples)

    numbered = list(enumerate(tasks, 1))
    return Task(
        name,
        hashlib.sha256(repr([task.digest for task in tasks]).encode()).hexdigest(),
        (TaskClass(0, "real"), *(TaskClass(k, task.name) for k, task in numbered)),
        moved([(k, sample) for k, task in numbered for sample in task.train]),
        moved([(k, sample) for k, task in numbered for sample in task.test]),
    )


def joint_figures(files: TaskFiles, tasks: Sequence[Task], folder: EpisodeFolder, params: Params) -> dict[str, Any]:
    """Of the task that all `tasks` were learned as, by the tasks that it is made of."""
    last, joint = Observer(folder, files, params), joint_task(tasks)
    ends = np.cumsum([len(task.test) for task in tasks])
    parts = [replace(joint, test=joint.test[end - len(t.test) : end]) for t, end in zip(tasks, ends, strict=True)]
    tests = Tests.of(last, parts)
    row = tests.accuracy(tests.looked.logits)
    seconds = round(sum(Report.read(folder.report_path).seconds.values()), 1)
    by_task = dict(zip([task.name for task in tasks], row, strict=True))
    return {"joint": _mean(row), "joint_row": by_task, "joint_seconds": seconds}


def alone_figures(files: TaskFiles, tasks: Sequence[Task], folders: Sequence[EpisodeFolder], params: Params) -> Any:
    """Of tasks that were each learned by one branch on top of nothing."""
    found = [Observer(folder, files, params).state.accuracy[-1][-1] for folder in folders]
    row = {task.name: round(value, 4) for task, value in zip(tasks, found, strict=True)}
    return {"alone": {"mean": _mean(found), "worst": round(min(found), 4)}, "alone_row": row}


def read_photographs(files: TaskFiles, folder: Path) -> Reals:
    """A folder's images as photographs that no task brings."""
    md5s = {hashlib.md5(p.read_bytes(), usedforsecurity=False).hexdigest(): p for p in sorted(folder.rglob("*.png"))}
    files.paths.update(md5s)
    return Reals(folder.name, "", tuple(Sample(path.name, md5, "", 0) for md5, path in md5s.items()))


def _perturbed(last: Observer, tasks: Sequence[Task]) -> dict[str, float]:
    """Accuracy on some test images of each task, the same in each form."""
    some = [replace(task, test=tuple(sample_of(task, _PERTURBED))) for task in tasks]
    found = {}
    for change in SLICES:
        tests = Tests.of(last, some, change)
        found[change.name] = _mean(tests.accuracy(tests.looked.logits))
    return found


def _named(tests: Tests) -> dict[str, float]:
    """Of synthetic images called synthetic: how many get one name, how many the wrong one or a set without theirs."""
    state = tests.last.state
    if state.calibration is None or state.calibration.relatives is None:
        return {}
    probabilities = state.calibration.probabilities(tests.looked.logits)
    told = named(state.calibration.relatives, probabilities, tests.ids, state.classes, state.undecided_below)
    return {"one": round(told.one / told.images, 4), "missed": round(told.missed / told.images, 4)}


def _elsewhere(last: Observer, tasks: Sequence[Task], photographs: Reals | None) -> dict[str, float]:
    """Share of the photographs that verdicts call synthetic, in each slice."""
    if photographs is None:
        return {}

    def ask(samples: Sequence[Sample], change: Any) -> tuple[Tensor, Tensor]:
        looked = last.look(samples, change)
        return looked.textures, looked.logits

    told = measured(last.state, photographs, tasks, len(photographs.samples), ask)
    return {part.perturbation: round(part.share, 4) for part in told.slices}


def _head_only(tests: Tests, params: Params) -> dict[str, float]:
    """A ridge head on the texture: from sums over all images, and from exemplars, there also with branches' features.

    From exemplars its penalty is the one that is best on the calibration memory.
    """
    state, found = tests.last.state, _from_sums(tests)
    if not found:
        return {}
    parts: dict[str, Part] = {
        "": lambda looked: looked.textures,
        ", with branches": lambda looked: torch.cat([looked.textures, looked.features], dim=1),
    }
    for budget in sorted({_FEWER, params.exemplars.budget}):
        memory = [e for e in state.exemplars if e.rank < budget // len(state.classes)]
        for name, part in parts.items() if memory else ():
            found[f"{budget} exemplars{name}"] = _mean(tests.accuracy(_from_exemplars(tests, memory, part)))
    return found


def _from_exemplars(tests: Tests, memory: Sequence[Exemplar], part: Part) -> Tensor:
    """What a ridge head that is fitted to exemplars says of the test images."""
    last, classes = tests.last, tests.last.state.classes
    (given, ids), (held, right) = (_asked(last, some, part) for some in (memory, last.state.calibration_memory))
    sums = Statistics.empty(given.shape[1]).with_images(given, ids, len(classes))
    heads = [sums.solve(penalty, classes.multi_real()) for penalty in _PENALTIES]
    weight, bias = max(heads, key=lambda h: float(_right(held @ h[0].T + h[1], right, classes).mean()))
    return part(tests.looked) @ weight.T + bias


def _asked(last: Observer, entries: Sequence[Exemplar], part: Part) -> tuple[Tensor, Tensor]:
    return part(last.look([e.sample for e in entries])), torch.tensor([e.class_id for e in entries])


def _from_sums(tests: Tests) -> dict[str, float]:
    """By the head of images that are not perturbed."""
    head, textures = tests.last.state.texture_head, tests.looked.textures
    return {"sums": _mean(tests.accuracy(textures @ head.weight[0].T + head.bias[0]))} if head else {}


def _right(logits: Tensor, ids: Tensor, classes: ClassTable) -> Tensor:
    merged = torch.tensor(classes.multi_real())
    return (merged[logits.argmax(1)] == merged[ids]).double()


def _unknown(
    files: TaskFiles, tasks: Sequence[Task], folders: Sequence[EpisodeFolder], params: Params
) -> dict[str, float | None]:
    """How well the version before each task told its generator from all that it knew."""
    found: dict[str, float | None] = {}
    for k in range(1, len(tasks)):
        before = Observer(folders[k - 1], files, params)
        if before.state.calibration is None:
            continue
        new = before.look([s for s in tasks[k].test if s.class_index])
        known = before.look([s for task in tasks[:k] for s in task.test])
        strange = [before.state.calibration.ood_score(looked.textures) for looked in (known, new)]
        found[tasks[k].name] = round(auroc(strange[1], strange[0]) or 0.0, 4)
    return found


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
