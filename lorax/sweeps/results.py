"""What cells came to: a file each, whole or not at all; and what they come to together, by scenario and method."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorax.learning import metrics
from lorax.storage import read_record, write_record
from lorax.sweeps.plan import Cell, Plan

FIGURES = {"average_incremental_accuracy": "AA", "average_accuracy": "AAF", "backward_transfer": "BWT"}
"""The paper's, as its tables call them."""


@dataclass(frozen=True)
class Result:
    """What a cell came to.

    Args:
        cell: which.
        rows: the accuracy matrix, fractions.
        metrics: the four figures that sum it up.
        seconds: from its beginning to its end; what an earlier run had done of it is not counted.
        state: digest of the last learner state, where the method leaves one.
    """

    cell: Cell
    rows: list[list[float]]
    metrics: Mapping[str, float]
    seconds: float
    state: str | None

    @classmethod
    def of(cls, cell: Cell, rows: Sequence[Sequence[float]], seconds: float, state: str | None) -> Result:
        return cls(cell, [list(row) for row in rows], metrics.summary(rows), round(seconds, 3), state)


@dataclass(frozen=True)
class Spread:
    """One figure over several cells; `deviation` is that of a sample, None of a single one."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def __str__(self) -> str:
        """In percent."""
        spread = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{spread}"


@dataclass(frozen=True)
class Line:
    """What a method came to on a scenario, over `cells` seeds and orders."""

    scenario: str
    method: str
    cells: int
    figures: Mapping[str, Spread]


def write_result(plan: Plan, result: Result) -> None:
    """Keep what a cell came to.

    Raises:
        StorageError: the disk is full or refuses to be written.
    """
    write_record(_path(plan, result.cell), result)


def finished(plan: Plan) -> dict[str, Result]:
    """The results that are there, by their cells' keys; a damaged one is as good as none."""
    found = {cell.key: _read(_path(plan, cell)) for cell in plan.cells}
    return {key: result for key, result in found.items() if result is not None}


def lines_of(results: Iterable[Result]) -> list[Line]:
    """Mean and deviation of every figure, by scenario and method, in the order of the results."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.cell.scenario, result.cell.method), []).append(result)
    return [
        Line(*names, len(found), {name: Spread.of([r.metrics[name] for r in found]) for name in found[0].metrics})
        for names, found in groups.items()
    ]


def as_markdown(lines: Sequence[Line]) -> str:
    """The paper's table: a row for each method, a column for each scenario."""
    by_name = {(line.scenario, line.method): line for line in lines}
    scenarios, methods = (list(dict.fromkeys(names[i] for names in by_name)) for i in range(2))
    head = f"{' / '.join(FIGURES.values())}, %; mean ± standard deviation over seeds and orders\n"
    rows = [
        ["method", *(f"{scenario}" for scenario in scenarios)],
        ["---"] * (len(scenarios) + 1),
        *([method, *(_cell(by_name.get((scenario, method))) for scenario in scenarios)] for method in methods),
    ]
    return "\n".join((head, *(f"| {' | '.join(row)} |" for row in rows))) + "\n"


def as_rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """A flat record for each scenario and method."""
    return [
        {"scenario": line.scenario, "method": line.method, "cells": line.cells}
        | {f"{name}_{part}": v for name, of in line.figures.items() for part, v in asdict(of).items()}
        for line in lines
    ]


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    return f"{' / '.join(str(line.figures[name]) for name in FIGURES)} ({line.cells})"


def _path(plan: Plan, cell: Cell) -> Path:
    return plan.home / "cells" / f"{cell.key}.json"


def _read(path: Path) -> Result | None:
    try:
        return read_record(Result, path)
    except (FileNotFoundError, ValueError):
        return None
