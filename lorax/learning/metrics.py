"""How good a network is on every task it has learned, and what continual learning is judged by: the accuracy matrix.

`rows[j][i]` is R[i, j]: the accuracy on task i's test set after episode j (i <= j), a fraction in [0, 1].
Averages run over tasks, not images: SAN's 90 test images weigh as much as GauGAN's 2,000, since a generator that the
model lost is lost however few images of it were collected.

Source: LoRAX (arXiv 2504.08149), metrics AAF, AA and BWT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a look-up of the registry sums matrices up, and can do without torch
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
class Paired:
    """Two networks on the same test images of one task: how many there are, and how many only one of them got right."""

    images: int
    only_before: int
    only_after: int

    @classmethod
    def of(cls, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Paired:
        """By which of the images (n,) each got right."""
        return cls(len(before), int((before & ~after).sum()), int((after & ~before).sum()))


@dataclass(frozen=True)
class Scores:
    """What a network got right on test images, and what it won and lost against the one that it grew from."""

    accuracy: Mapping[str, float]  # of each task, in the stream's order; any real class is right for a real image
    binary_accuracy: Mapping[str, float]  # of real or synthetic alone
    pooled_accuracy: float  # over all tasks' images
    confusion: list[list[int]]  # [t][p]: images of class t called p, as the head knows them
    against_base: Mapping[str, Paired]  # on the same images, of every task whose classes the base knew
    detection_against_base: Mapping[str, Paired]  # of real or synthetic alone


def score(
    predicted: Mapping[str, Tensor], by_base: Mapping[str, Tensor], true: Mapping[str, Tensor], classes: ClassTable
) -> Scores:
    """Compare predicted with true classes, task by task.

    Args:
        predicted, by_base, true: per task, in the stream's order: class ids (n,); the base's of tasks that it knows.
        classes: the table that all refer to; a base's older ids mean the same in it.
    """
    merged, is_real = np.array(classes.multi_real()), np.array(classes.is_real)
    accuracy, binary, against, detection_against, rights = {}, {}, {}, {}, []
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    for task, guess in predicted.items():
        p, t = guess.cpu().numpy(), true[task].cpu().numpy()
        right, detected = merged[p] == merged[t], is_real[p] == is_real[t]
        accuracy[task], binary[task] = float(right.mean()), float(detected.mean())
        rights.append(right)
        np.add.at(confusion, (t, p), 1)
        if task in by_base:
            b = by_base[task].cpu().numpy()
            against[task] = Paired.of(merged[b] == merged[t], right)
            detection_against[task] = Paired.of(is_real[b] == is_real[t], detected)
    pooled = float(np.concatenate(rights).mean())
    return Scores(accuracy, binary, pooled, confusion.tolist(), against, detection_against)
