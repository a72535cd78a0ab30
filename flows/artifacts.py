"""What an episode's steps show on Prefect's page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact

from lorax.learning.folder import Report
from lorax.registry import ModelVersion

_BAR_MOVES_S = 2.0  # a move is a request, which may take longer than a small task's epoch


def progress_bar(name: str) -> Callable[[float], None]:
    """A bar for training on Prefect's page; returns what moves it, to a number of percent."""
    key, description = _key("training", name), f"training on {name}"
    # Prefect's types allow for a coroutine, which only async callers get
    bar = cast(UUID, create_progress_artifact(0.0, key=key, description=description))
    moved = time.monotonic()

    def move(percent: float) -> None:
        nonlocal moved
        if percent >= 100 or time.monotonic() - moved > _BAR_MOVES_S:
            update_progress_artifact(bar, percent)
            moved = time.monotonic()

    return move


def show_accuracy(report: Report, names: Sequence[str], when_learned: Sequence[float]) -> None:
    """The accuracy table on Prefect's page: each known task now, and when it was learned; the newest comes last."""
    now = [report.accuracy[name] for name in names]
    pairs = zip(names, now, [*when_learned, now[-1]], strict=True)
    rows = [
        {
            "task": name,
            "accuracy": round(a, 4),
            "when learned": round(b, 4),
            "detection": round(report.binary_accuracy[name], 4),
        }
        for name, a, b in pairs
    ]
    create_table_artifact(rows, key=_key("accuracy-after", report.task), description="accuracy on test images")


def show_verdicts(version: ModelVersion) -> None:
    """The gate's verdicts on Prefect's page."""
    rows = [{"task": v.task, "asked": v.kind, "passed": v.passed, "because": v.reason} for v in version.verdicts]
    summary = f"version {version.version}: {version.outcome}. {version.reason}"
    create_table_artifact(rows, key=_key("gate", version.task), description=summary)


def _key(kind: str, name: str) -> str:
    """A key that Prefect takes, which refuses '_'."""
    return f"{kind}-{name.replace('_', '-')}"
