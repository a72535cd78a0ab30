"""Tasks whose episode failed: which are tried again in this run, which are quarantined for others to be learned.

Whose fault a failure is, can't be told from its kind: a task's images may be gone, or the network down. So it is tried:
the next task is learned first. If that works and this one fails again on the new champion, it is the task's fault, and
the task is quarantined with its reason. If every task fails, nothing is and the run fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from prefect import get_run_logger
from prefect.exceptions import PrefectException

from lorax import progress
from lorax.errors import BackboneError, ParamsError, RegistryError, ServiceError, StorageError, WorkspaceError
from lorax.registry import ModelVersion, Registry
from lorax.stream import PinnedTask

OUTSIDE = (
    *(RegistryError, ServiceError, StorageError, ParamsError, BackboneError, WorkspaceError),
    *(httpx.HTTPError, PrefectException),  # what a flow raises whose server is killed, or too busy to answer
)
"""What no task can be blamed for: the next one would fail likewise, or only be learned out of its turn."""

BY = "learn"
"""Who quarantines a task whose episode failed."""


@dataclass
class Failures:
    """The failures of one run.

    Args:
        registry: where tasks are quarantined.
    """

    registry: Registry
    _failed: dict[PinnedTask, tuple[str | None, Exception]] = field(default_factory=dict)

    @property
    def left(self) -> Sequence[Exception]:
        """Why tasks that are neither learned nor quarantined could not be learned."""
        champion = self.registry.champion()
        known = {task.name for task in champion.tasks} if champion else set()
        return [error for task, (_, error) in self._failed.items() if task.name not in known]

    def may_try(self, task: PinnedTask, champion: ModelVersion | None) -> bool:
        """Whether the task has not failed in this run, or only on another champion."""
        return task not in self._failed or self._failed[task][0] != _base(champion)

    def add(self, task: PinnedTask, champion: ModelVersion | None, error: Exception) -> None:
        """Note that a task could not be learned on top of `champion`; the second time, quarantine it."""
        log = get_run_logger()
        if task not in self._failed:
            log.warning("%s could not be learned: %s", task.name, error)
            progress.say(f"{task.name} could not be learned: {error}", style="yellow")
            self._failed[task] = (_base(champion), error)
            return
        del self._failed[task]
        reason = f"its episode failed: {error or type(error).__name__}"
        self.registry.hold(task.name, task.digest, by=BY, reason=reason)
        log.error("%s is held, since others can be learned: %s", task.name, reason)


def _base(champion: ModelVersion | None) -> str | None:
    return champion.state_digest if champion else None
