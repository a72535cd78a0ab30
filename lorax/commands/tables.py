"""How commands tell what they know: as tables and lines for people, percentages and all, as JSON values for scripts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lorax.text import minute, percent, short

if TYPE_CHECKING:
    from lorax.registry import Entry, ModelVersion, Quarantine, TaskVerdict


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


def version_record(version: ModelVersion) -> dict[str, Any]:
    """A model version, with all that the gate said."""
    return asdict(version) | {
        "aliases": list(version.aliases),
        "tasks": version.names,
        "digests": {task.name: task.digest for task in version.tasks},
        "nearest": nearest_record(version),
        "start": version.start or None,
        "metrics": {name: _number(value) for name, value in version.metrics.items()},
        "created_at": version.created_at.isoformat(),
        "verdicts": [verdict_record(verdict) for verdict in version.verdicts],
        "promoted_at": version.promoted_at.isoformat() if version.promoted_at else None,
    }


def nearest_record(version: ModelVersion) -> dict[str, Any] | None:
    """Which task's branch is most like the version's newest, and how much so; None where that was not looked up."""
    from lorax.registry.assessment_log import NEAREST_SIMILARITY

    if not version.nearest:
        return None
    return {"task": version.nearest, "similarity": version.metrics.get(NEAREST_SIMILARITY)}


def verdict_record(verdict: TaskVerdict) -> dict[str, Any]:
    """What the gate said of one task; null where it could not be checked."""
    numbers = {name: _number(getattr(verdict, name)) for name in ("before", "after", "chance")}
    return asdict(verdict) | numbers | {"reason": verdict.reason}


def quarantine_record(one: Quarantine) -> dict[str, Any]:
    """A quarantined task."""
    return asdict(one) | {"at": one.at.isoformat()}


def entry_record(entry: Entry) -> dict[str, Any]:
    """A line of the journal."""
    return asdict(entry) | {"at": entry.at.isoformat()}


def nearest_line(version: Mapping[str, Any]) -> str:
    """What the newest branch of a version's record is like, or what it started from; '' where that is not known."""
    if version["start"]:
        return f"started from {version['start']}"
    near = version["nearest"]
    if not near:
        return ""
    return f"nearest {near['task']}" + ("" if near["similarity"] is None else f" {near['similarity']:.2f}")


def quarantine_line(hold: Mapping[str, Any]) -> str:
    """A quarantined task for people, in a line."""
    of = f", version {hold['version']}" if hold["version"] else ""
    return f"{hold['task']} (bytes {short(hold['digest'])}{of}): {brief(hold)} ({hold['by']}, {minute(hold['at'])})"


def print_quarantined(holds: Iterable[Mapping[str, Any]], out: Console, what: str = "held") -> None:
    """Tell what is quarantined, or was, a line each."""
    for hold in holds:
        title = "withdrawn" if hold["is_withdrawn"] and what == "held" else what
        out.print(f"{title}: {quarantine_line(hold)}", markup=False)


def brief(told: Mapping[str, Any]) -> str:
    """Why, for people: of the gate's reasons the first."""
    from lorax.registry.journal import GATE

    first, *more = told["reason"].split("; ") if told["by"] == GATE else [told["reason"]]
    return f"{first}, and {len(more)} more" if more else str(first)


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
