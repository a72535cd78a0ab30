"""What several commands print: accuracies in percent, and where to look next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lorax import reconcile
from lorax.registry import Look
from lorax.services.embedded import Services

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

_UNBOUNDED = 1_000_000
"""Columns; more than any table needs."""


def print_table(table: Table, out: Console) -> None:
    """Print it at the console's width, or wider where a word or a number would be cut off."""
    unbounded = out.options.update(width=_UNBOUNDED)
    for column in table.columns:
        words = (Measurement.get(out, unbounded, text).minimum for text in (column.header, *column.cells))
        column.min_width = max(words)
    out.print(table, soft_wrap=False, crop=False)


def accuracy_matrix(tasks: Sequence[str], rows: Sequence[Sequence[float]]) -> Table:
    """One row per episode, one column per task."""
    table = Table(title="accuracy on each task's test images, %", title_justify="left")
    table.add_column("after learning")
    for task in tasks:
        table.add_column(task, justify="right")
    table.add_column("average", justify="right", style="bold")
    for row in rows:
        values = [f"{100 * value:.1f}" for value in row]
        average = f"{100 * sum(row) / len(row):.1f}"
        table.add_row(tasks[len(row) - 1], *values, *[""] * (len(tasks) - len(row)), average)
    return table


def print_champion(registry: Look, out: Console) -> None:
    """The accuracy matrix up to the champion, and its metrics."""
    champion = registry.champion()
    if champion is None:
        out.print("no champion yet: land a task first.")
        return
    tasks = [task.name for task in champion.tasks]
    print_table(accuracy_matrix(tasks, reconcile.accuracy_rows(champion, registry.versions())), out)
    print_metrics(champion.metrics, out)


def print_metrics(metrics: Mapping[str, float], out: Console) -> None:
    """The four figures that sum an accuracy matrix up."""
    table = Table.grid(padding=(0, 3))
    table.add_column()
    table.add_column(justify="right")
    for key, title in HEADLINES.items():
        table.add_row(title, f"{100 * metrics[key]:.1f} %")
    print_table(table, out)


def way_in(auth_path: Path | str | None) -> str:
    """How a person gets past the question that a server's page asks first, where it does."""
    return f"; its page asks for the line in {auth_path}" if auth_path else ""


def print_pages(found: Services, out: Console) -> None:
    """Where to look next, and how to stop the servers."""
    for title, service in (("Prefect", found.prefect), ("MLflow", found.mlflow)):
        state = way_in(service.auth_path) if service.is_ready else "  (down: start it with 'lorax up')"
        out.print(f"{title:<8} {service.address}{state}", markup=False)
    if any(service.is_embedded and service.is_ready for service in (found.prefect, found.mlflow)):
        also = " So does the worker." if found.helpers.get("worker") else ""
        out.print(
            f"Both keep running.{also} Stop them with 'lorax down' in this workspace; after 'make demo', 'make clean'."
        )
