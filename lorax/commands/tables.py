"""What several commands print: tables, accuracies in percent."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lorax.text import percent

HEADLINES = {
    "average_accuracy": "average accuracy",
    "average_incremental_accuracy": "average incremental accuracy",
    "backward_transfer": "backward transfer",
    "forgetting": "forgetting",
}
"""The metrics that sum an accuracy matrix up, and what they are called in print."""

TRUST = {
    "average_binary_accuracy": "average detection accuracy",
    "calibration_error": "calibration error",
    "unknown_auroc": "AUROC of the newest task as unknown",
    "robustness": "robustness",
    "false_positives/clean": "false positives on other real photographs",
}
"""The metrics that sum up how far verdicts can be trusted; versions that were not assessed have few or none."""

PLAIN: Mapping[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}
"""The look of a table without lines."""

_UNBOUNDED = 1_000_000
"""Columns; more than any table needs."""


def table(*columns: str, right: Collection[str] = (), **look: Any) -> Table:
    """An empty table.

    Args:
        columns: their headers.
        right: those of them that are aligned to the right, as numbers are.
        look: rich's, such as `PLAIN`.
    """
    made = Table(title_justify="left", **look)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def print_table(table: Table, out: Console) -> None:
    """Print it at the console's width, or wider where a word or a number would be cut off."""
    unbounded = out.options.update(width=_UNBOUNDED)
    for column in table.columns:
        words = (Measurement.get(out, unbounded, text).minimum for text in (column.header, *column.cells))
        column.min_width = max(words)
    out.print(table, soft_wrap=False, crop=False)


def print_pairs(rows: Sequence[tuple[str, str]], out: Console, *, right: bool = False) -> None:
    """Print titles and what belongs to them, one below the other."""
    grid = Table.grid(padding=(0, 3))
    grid.add_column()
    grid.add_column(justify="right" if right else "left")
    for row in rows:
        grid.add_row(*map(Text, row))
    print_table(grid, out)


def print_accuracy(
    tasks: Sequence[str], rows: Sequence[Sequence[float]], metrics: Mapping[str, float], out: Console
) -> None:
    """Print an accuracy matrix, one row per episode and one column per task, and the four figures that sum it up."""
    numbers = (*tasks, "average")
    matrix = table(
        "after learning", *numbers, right=numbers, title="accuracy on each task's test images, %"
    )  # fmt: skip
    matrix.columns[-1].style = "bold"
    for row in rows:
        values = [f"{100 * value:.1f}" for value in row]
        average = f"{100 * sum(row) / len(row):.1f}"
        matrix.add_row(tasks[len(row) - 1], *values, *[""] * (len(tasks) - len(row)), average)
    print_table(matrix, out)
    print_pairs([(title, percent(metrics[key])) for key, title in HEADLINES.items()], out, right=True)
