"""How good a network is on every task it has learned, and what continual learning is judged by: the accuracy matrix.

`rows[j][i]` is R[i, j]: the accuracy on task i's test set after episode j (i <= j), a fraction in [0, 1].
Averages run over tasks, not images: SAN's 90 test images weigh as much as GauGAN's 2,000, since a generator that the
model lost is lost however few images of it were collected.

Source: LoRAX (arXiv 2504.08149), metrics AAF, AA and BWT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lorax.stream import ClassTable

Rows = Sequence[Sequence[float]]


def average_accuracy(rows: Rows) -> float:
    """Mean accuracy over all tasks after the last episode (AAF, "final average accuracy")."""
    return sum(rows[-1]) / len(rows[-1])


def average_incremental_accuracy(rows: Rows) -> float:
    """Mean over episodes of the mean accuracy over the tasks known then (AA): the quality over the model's life."""
    return sum(sum(row) / len(row) for row in rows) / len(rows)


def backward_transfer(rows: Rows) -> float:
    """Mean change of the older tasks' accuracy since each was learned (BWT); 0.0 while there is only one task."""
    older = len(rows) - 1
    return sum(rows[-1][i] - rows[i][i] for i in range(older)) / older if older else 0.0


def forgetting(rows: Rows) -> float:
    """The accuracy lost on older tasks since each was learned: minus `backward_transfer`."""
    return 0.0 - backward_transfer(rows)


def summary(rows: Rows) -> dict[str, float]:
    """The four figures by the names they are logged under."""
    return {
        "average_accuracy": average_accuracy(rows),
        "average_incremental_accuracy": average_incremental_accuracy(rows),
        "backward_transfer": backward_transfer(rows),
        "forgetting": forgetting(rows),
    }


@dataclass(frozen=True)
class Scores:
    """Accuracies on the test sets, fractions; `confusion[t][p]` counts images of class t called p."""

    accuracy: Mapping[str, float]
    binary_accuracy: Mapping[str, float]
    pooled_accuracy: float
    confusion: list[list[int]]


def score(predicted: Mapping[str, Tensor], true: Mapping[str, Tensor], classes: ClassTable) -> Scores:
    """Compare predicted with true classes, task by task.

    Args:
        predicted, true: per task, in the stream's order: class ids (n,).
        classes: the table that both refer to.

    Returns:
        Accuracy by the multi-real rule (see `ClassTable.multi_real`), and real-or-synthetic accuracy, each per task;
        the accuracy over all images pooled; and the confusion matrix over classes as the head knows them.
    """
    merged, is_real = np.array(classes.multi_real()), np.array(classes.is_real)
    accuracy, binary, rights = {}, {}, []
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    for task, guess in predicted.items():
        p, t = guess.cpu().numpy(), true[task].cpu().numpy()
        right = merged[p] == merged[t]
        accuracy[task] = float(right.mean())
        binary[task] = float((is_real[p] == is_real[t]).mean())
        rights.append(right)
        np.add.at(confusion, (t, p), 1)
    return Scores(accuracy, binary, float(np.concatenate(rights).mean()), confusion.tolist())


@dataclass(frozen=True)
class Paired:
    """Two networks on the same test images of one task: how many there are, and how many only one of them got right."""

    images: int
    only_before: int
    only_after: int


def compare(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], true: Mapping[str, Tensor], kinds: Sequence[int]
) -> dict[str, Paired]:
    """What an episode won and lost on each old task, image by image.

    Args:
        before, after, true: per task: class ids (n,); tasks that `before` lacks are left out.
        kinds: (C,) what counts as the same answer, for the grown table's classes: `ClassTable.multi_real()`, or only
            whether it is real. Older ids mean the same in it.
    """
    merged = np.array(kinds)
    pairs = {}
    for task, guess in before.items():
        was, now = (merged[g.cpu().numpy()] == merged[true[task].cpu().numpy()] for g in (guess, after[task]))
        pairs[task] = Paired(len(was), int((was & ~now).sum()), int((now & ~was).sum()))
    return pairs


def accuracy_row(scores: Scores, tasks: Sequence[str]) -> tuple[float, ...]:
    """This episode's row of the accuracy matrix."""
    return tuple(scores.accuracy[task] for task in tasks)
