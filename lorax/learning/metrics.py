"""What continual learning is judged by, from the accuracy matrix alone.

`rows[j][i]` is R[i, j]: the accuracy on task i's test set after episode j (i <= j), a fraction in [0, 1].
Averages run over tasks, not images: SAN's 90 test images weigh as much as GauGAN's 2,000, since a generator that the
model lost is lost however few images of it were collected.

Source: LoRAX (arXiv 2504.08149), metrics AAF, AA and BWT.
"""

from __future__ import annotations

from collections.abc import Sequence

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
