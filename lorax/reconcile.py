"""What there is to learn: tasks of data.dvc's stream that the champion does not know, less quarantined ones, in order.

Decided from git, DVC's pins and the registry alone, so no server need run: while MLflow's is down, its database is
read. Nothing here imports Prefect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from random import Random

from lorax.data import pins, versions
from lorax.errors import DataVersionError, RegistryError
from lorax.params import Params
from lorax.registry import Look, ModelVersion, Quarantine, Registry
from lorax.registry.lineage import ancestors
from lorax.services import embedded, servers
from lorax.services.embedded import Service
from lorax.storage import locked
from lorax.stream import SCENARIOS, PinnedTask
from lorax.workspace import Workspace

_DRAWS = 1000  # for each order that is asked for, until it is plain that there are no more

BY = "learn"
"""Who quarantines a task whose episode failed."""

LANDED = "landed"
"""The scenario of everything that has landed."""


def missing_tasks(
    landed: Sequence[PinnedTask],
    champion: ModelVersion | None,
    quarantined: Iterable[Quarantine],
    extensions: Mapping[str, str] | None = None,
) -> list[PinnedTask]:
    """The landed tasks that `champion` does not know and are not quarantined with these bytes, in landing order.

    What extends a task that is neither known nor among them is left out, too.

    Args:
        extensions: task -> the one that it extends, of those that do.
    """
    within_reach = set(champion.names) if champion else set()
    known, bases = set(within_reach), extensions or {}
    stopped, missing = {(one.task, one.digest) for one in quarantined}, list[PinnedTask]()
    for task in landed:
        is_free = task.name not in known and (task.name, task.digest) not in stopped
        if is_free and bases.get(task.name, task.name) in {*within_reach, task.name}:
            missing.append(task)
            within_reach.add(task.name)
    return missing


def behind(
    landed: Sequence[PinnedTask],
    champion: ModelVersion | None,
    quarantined: Sequence[Quarantine],
    extensions: Mapping[str, str],
) -> dict[str, str]:
    """The tasks that wait for the one that they extend, which is held, and that one; arguments as above."""
    without = missing_tasks(landed, champion, quarantined)
    reached = missing_tasks(landed, champion, quarantined, extensions)
    return {task.name: extensions[task.name] for task in without if task not in reached}


def changed_tasks(landed: Sequence[PinnedTask], champion: ModelVersion | None) -> list[PinnedTask]:
    """The landed tasks that `champion` learned from other bytes than those that are landed now."""
    known = {task.name: task.digest for task in champion.tasks} if champion else {}
    return [task for task in landed if known.get(task.name, task.digest) != task.digest]


@dataclass
class Failures:
    """The tasks that one run could not learn; each is tried once more when another has been learned."""

    registry: Registry
    _failed: dict[PinnedTask, tuple[str | None, Exception]] = field(default_factory=dict)

    @property
    def left(self) -> list[Exception]:
        """Why tasks that are neither learned nor quarantined could not be learned."""
        champion = self.registry.champion()
        known = set(champion.names) if champion else set()
        return [error for task, (_, error) in self._failed.items() if task.name not in known]

    def may_try(self, task: PinnedTask, champion: ModelVersion | None) -> bool:
        """Whether the task has not failed in this run, or only on another champion."""
        return task not in self._failed or self._failed[task][0] != _digest(champion)

    def add(self, task: PinnedTask, champion: ModelVersion | None, error: Exception) -> str:
        """Note that a task could not be learned on `champion`, and quarantine it the second time; returns a line."""
        if task not in self._failed:
            self._failed[task] = (_digest(champion), error)
            return f"{task.name} could not be learned: {error}"
        del self._failed[task]
        reason = f"its episode failed: {error or type(error).__name__}"
        self.registry.hold(task.name, task.digest, by=BY, reason=reason)
        return f"{task.name} is held, since others can be learned: {reason}"


def _digest(champion: ModelVersion | None) -> str | None:
    return champion.state_digest if champion else None


def open_registry(workspace: Workspace, params: Params) -> Registry:
    """The workspace's registry: through MLflow's server where it answers, else read from the embedded one's database.

    Raises:
        RegistryError: the server that MLFLOW_TRACKING_URI names does not answer.
    """
    server = embedded.status(workspace, params).mlflow
    return Registry(_registry_uri(workspace, params, server), params.registry.model)


def registry_of_server(workspace: Workspace, params: Params) -> Registry:
    """The registry behind MLflow's server, whose address the environment or `params` give; flows use no other."""
    return Registry(servers.environment(workspace, params)["MLFLOW_TRACKING_URI"], params.registry.model)


def look(workspace: Workspace, params: Params, server: Service | None = None) -> Look:
    """The same for commands that only tell: MLflow is asked once, and its answers are kept.

    Args:
        server: MLflow's server as it was found; None looks for it.

    Raises:
        RegistryError: as for `open_registry`.
    """
    found = server or embedded.status(workspace, params).mlflow
    return Look(_registry_uri(workspace, params, found), params.registry.model)


def waiting_tasks(workspace: Workspace, params: Params) -> list[PinnedTask]:
    """What `lorax learn` would learn now; the registry is not asked when nothing has landed.

    Raises:
        DataVersionError: data.dvc is damaged.
        RegistryError: the registry can't be read.
    """
    landed = versions.landed(workspace)
    if not landed:
        return []
    registry = look(workspace, params)
    if registry.waiting():
        return []
    return missing_tasks(landed, registry.champion(), registry.quarantined(), versions.extensions(workspace))


def accuracy_rows(champion: ModelVersion, known: Sequence[ModelVersion]) -> list[list[float]]:
    """The accuracy matrix up to `champion`, from the metrics of its ancestors; the oldest that is still there first."""
    line = reversed(ancestors(champion, known))
    return [[version.metrics[f"accuracy/{task.name}"] for task in version.tasks] for version in line]


def scenario_tasks(workspace: Workspace, name: str | Sequence[str]) -> list[str]:
    """The tasks of a published scenario, which have landed in this workspace; of "landed" all, in landing order.

    Args:
        workspace: where.
        name: the scenario's, or the tasks of one that nobody published.

    Raises:
        DataVersionError: there is no such scenario, or some of its tasks have not landed.
    """
    landed = tuple(task.name for task in versions.landed(workspace))
    scenarios = {**SCENARIOS, LANDED: landed}
    if isinstance(name, str) and name not in scenarios:
        raise DataVersionError(f"there is no scenario {name!r}; there are {', '.join(sorted(scenarios))}.")
    tasks = scenarios[name] if isinstance(name, str) else name
    if not tasks:
        raise DataVersionError(f"nothing has landed in {workspace.root} yet: 'lorax land PATH --task NAME'.")
    if absent := [task for task in tasks if task not in landed]:
        called = name if isinstance(name, str) else ", ".join(name)
        raise DataVersionError(
            f"scenario {called!r} needs tasks that have not landed in {workspace.root}: {', '.join(absent)}. "
            "Land each with 'lorax land PATH --task NAME'."
        )
    return list(tasks)


def scenario_orders(workspace: Workspace, name: str | Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Different orders of a scenario's tasks: its own, and others drawn from the seed and the scenario's name.

    What extends a task, or is a new version of it, comes after that one.

    Raises:
        DataVersionError: as `scenario_tasks`, or the tasks have not so many orders.
    """
    tasks, called = scenario_tasks(workspace, name), name if isinstance(name, str) else ", ".join(name)
    notes = pins.committed(workspace).notes
    before = {t.name: {n.extends, n.new_version_of} & set(tasks) for t, n in notes.items() if t.name in tasks}
    random, found = Random(f"{seed}/{called}"), {tuple(tasks): None}
    for _ in range(_DRAWS * count):
        if len(found) == count:
            break
        found.setdefault(tuple(_allowed(random.sample(tasks, len(tasks)), before)))
    if len(found) < count:
        raise DataVersionError(
            f"{count} orders of scenario {called!r} were asked for, but its {len(tasks)} tasks have {len(found)} that "
            "differ and keep extensions behind what they extend. Ask for fewer."
        )
    return [list(order) for order in found]


def _allowed(tasks: Sequence[str], before: Mapping[str, set[str]]) -> list[str]:
    """The tasks in this order, but each behind those that must come before it."""
    order: list[str] = []
    waiting = list(tasks)
    while waiting:
        free = next(task for task in waiting if before.get(task, set()) <= set(order))
        order.append(free)
        waiting.remove(free)
    return order


def one_at_a_time(workspace: Workspace, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
    """Hold the workspace's learning lock; the kernel lets go of it when its holder dies, however it dies.

    Args:
        on_wait: called if another process holds it, before waiting.
    """
    return locked(workspace.learning_lock_path, on_wait)


def _registry_uri(workspace: Workspace, params: Params, server: Service) -> str:
    if server.is_ready:
        return servers.environment(workspace, params)["MLFLOW_TRACKING_URI"]  # an address to show has no password
    if not server.is_embedded:
        raise RegistryError(
            f"MLflow at {server.address} (MLFLOW_TRACKING_URI) does not answer. Start it, and run again."
        )
    return embedded.registry_uri_at_rest(workspace, params)
