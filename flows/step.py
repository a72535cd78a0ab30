"""What makes a function a step of a flow: retried where another try can help, and shown on Prefect's page."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from prefect import Task as Step
from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from lorax import progress
from lorax.errors import LoraxError, RegistryError
from lorax.learning.assessment import Assessment
from lorax.learning.folder import Report
from lorax.learning.state import LearnerState
from lorax.learning.training import EpochRow, OnEpoch
from lorax.registry import ModelVersion, pages

Settings = Mapping[str, Any]
"""All sections of params.yaml with the run's preset, as plain JSON values: read once a run, for all of its steps."""

_P = ParamSpec("_P")
_R = TypeVar("_R")

_RETRY_DELAYS_S = [5.0, 15.0, 40.0]  # a server that died is back in about 20 s


def _may_pass(_: Step[Any, Any], __: TaskRun, state: State[Any]) -> bool:
    """Whether another try can help: not with bad input, which stays bad."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, LoraxError) or isinstance(error, RegistryError)


def step(name: str) -> Callable[[Callable[_P, _R]], Step[_P, _R]]:
    """Make a function a step of the flow's page, retried where another try can help."""
    return task(
        name=name,
        retries=len(_RETRY_DELAYS_S),
        retry_delay_seconds=_RETRY_DELAYS_S,
        retry_condition_fn=_may_pass,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


_BAR_MOVES_S = 2.0  # a move is a request, which may take longer than a small task's epoch


def epochs_shown(shown: progress.Shown, name: str) -> OnEpoch:
    """Tells each epoch of training on task `name` to the terminal, to Prefect's page and to the log."""
    move_bar, log = _progress_bar(name), get_run_logger()

    def on_epoch(row: EpochRow, epochs: int) -> None:
        left_s = (epochs - row.epoch - 1) * row.seconds
        now = f"loss {row.loss:.3f}  {row.images_per_s:,.0f} images/s  {left_s:.0f} s left"
        shown.on_progress(row.epoch + 1, epochs, now)
        move_bar(100.0 * (row.epoch + 1) / epochs)
        shown.outcome = f"{epochs} epochs, loss {row.loss:.3f}, {row.images_per_s:,.0f} images/s"
        log.info(
            "epoch %d/%d: loss %.4f, training accuracy %.3f, %.0f images/s, %.0f s left",
            *(row.epoch + 1, epochs, row.loss, row.train_accuracy, row.images_per_s, left_s),
        )

    return on_epoch


def show_accuracy(report: Report, base: LearnerState) -> None:
    """The accuracy table on Prefect's page: each known task now, and when it was learned; the newest comes last."""
    names = [*base.names, report.task]
    when_learned = [*(row[-1] for row in base.accuracy), report.accuracy[report.task]]
    rows = [
        {
            "task": name,
            "accuracy": round(report.accuracy[name], 4),
            "when learned": round(accuracy, 4),
            "detection": round(report.binary_accuracy[name], 4),
        }
        for name, accuracy in zip(names, when_learned, strict=True)
    ]
    create_table_artifact(rows, key=_key("accuracy-after", report.task), description="accuracy on test images")


def show_verdicts(version: ModelVersion, links: Mapping[str, str]) -> str:
    """The gate's verdicts on Prefect's page, with links to MLflow's; returns what they come to."""
    rows = [{"task": v.task, "asked": v.kind, "passed": v.passed, "because": v.reason} for v in version.verdicts]
    outcome = "passed" if all(verdict.passed for verdict in version.verdicts) else "refused"
    data = f"data.dvc `{version.data_digest}` of git commit `{version.data_commit or 'none'}`"
    description = f"{outcome}: {pages.listed(links)}\n\nLearned from {data}"
    create_table_artifact(rows, key=_key("gate", version.task), description=description)
    return outcome


def trust(assessed: Assessment) -> str:
    """An assessment in one line."""
    clean, photographs = assessed.reliability[0], assessed.false_positives.clean if assessed.false_positives else None
    parts = [f"calibration error {100 * (clean.error_after or 0):.1f} % (by chance {100 * clean.floor:.1f} %)"]
    if not assessed.calibrated:
        parts = ['uncalibrated: not every class has calibration images (docs/method.md, "Verdicts")']
    if assessed.calibrated and assessed.foreseen:
        parts.append(f"AUROC of {assessed.task} as unknown {assessed.foreseen.auroc:.2f} (by chance 0.50)")
    if assessed.calibrated and assessed.robustness is not None:
        parts.append(f"robustness {100 * assessed.robustness:.0f} %")
    if photographs:
        parts.append(f"false positives {100 * photographs.share:.1f} %")
    return ", ".join(parts)


def _progress_bar(name: str) -> Callable[[float], None]:
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


def _key(kind: str, name: str) -> str:
    """A key that Prefect takes, which refuses '_'."""
    return f"{kind}-{name.replace('_', '-')}"
