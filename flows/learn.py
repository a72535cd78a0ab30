"""The learn flow: whatever landed and is not known yet is learned, in order, one episode each.

prefect worker or `lorax learn`  ->  learn  ->  episode (one for each missing task)  ->  its steps
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from prefect import flow, get_run_logger
from prefect import task as step
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException

from lorax import lineage, progress
from lorax.data import checkout, landing, versions, withdrawal
from lorax.errors import (
    BackboneError,
    DataVersionError,
    ParamsError,
    RegistryError,
    ServiceError,
    StorageError,
    WorkspaceError,
)
from lorax.params import Params, load_params
from lorax.reconcile import Failures, missing_tasks, one_at_a_time, registry_of_server
from lorax.registry import ModelVersion
from lorax.stream import PinnedTask
from lorax.tidying import tidy
from lorax.workspace import Workspace

_CHECKOUT_DELAYS_S = [5.0, 15.0, 30.0, 60.0, 120.0]  # a push may be minutes behind its landing


@flow(name="learn", flow_run_name=lambda: f"learn {datetime.now():%Y-%m-%d %H:%M:%S}", persist_result=False)
def learn(
    workspace_root: str | None = None,
    preset: str | None = None,
    task: str | None = None,
    digest: str | None = None,
    commit: str | None = None,
) -> list[int]:
    """Learn every landed task that the champion does not know; running it again finds nothing to learn.

    A task whose challenger the gate refuses is quarantined, and the next one grows from the champion as it is. A task
    whose episode fails is tried again once another has been learned, and quarantined if it fails then, too.

    Args:
        workspace_root: absolute path of the workspace. None is a worker's run: the workspace is the one that
            LORAX_WORKSPACE names, else the current folder's, and its checkout is brought up to date first.
        preset: a preset of its params.yaml, or None.
        task, digest, commit: the landing that started the run; a checkout that lacks it is an error, tried again.

    Returns:
        The model versions registered.
    """
    workspace = Workspace.find(Path(workspace_root or os.environ.get("LORAX_WORKSPACE", ".")))
    root = str(workspace.root)
    if workspace_root is None:
        update_checkout(root, task, digest, commit)
    params, log = load_params(workspace.params_path, preset=preset), get_run_logger()
    with one_at_a_time(workspace, lambda: log.info("another 'lorax learn' runs in this workspace; waiting for it")):
        tidy(workspace, keeps_episodes=bool(withdrawal.under_way(workspace)))
        registered, failures = [], Failures(registry_of_server(workspace, params))
        while planned := _next(workspace, failures):
            new, champion = planned
            try:
                index = len(champion.tasks) if champion else 0
                with lineage.run("episode", _read(workspace, params, new, champion)) as told:
                    registered.append(episode(root, new.name, index, params.model_dump(mode="json")))
                    told.outputs.append(lineage.version(params.registry.model, registered[-1]))
            except OUTSIDE:
                raise
            except Exception as error:  # whatever it is: the tasks behind this one may be learned all the same
                said = failures.add(new, champion, error)
                log.warning(said)
                progress.say(said, style="yellow")
        if failures.left:
            raise failures.left[0]
        if not registered:
            log.info("nothing to learn: the champion knows every landed task that is not held")
        return registered


def _next(workspace: Workspace, failures: Failures) -> tuple[PinnedTask, ModelVersion | None] | None:
    """The next task and its base, looked up anew each time: the champion may have been moved, data landed."""
    registry = failures.registry
    champion = registry.settle()
    if waiting := registry.waiting():
        get_run_logger().info("version %d waits for approval; nothing is learned until then", waiting.version)
        return None
    landing.undo_killed(workspace)
    extensions = versions.extensions(workspace)
    missing = missing_tasks(versions.landed(workspace), champion, registry.quarantined(), extensions)
    found = next((task for task in missing if failures.may_try(task, champion)), None)
    return (found, champion) if found else None


def _read(workspace: Workspace, params: Params, new: PinnedTask, base: ModelVersion | None) -> list[lineage.Dataset]:
    """What an episode learns from: the task, the version that it grows, and all data, for memory and tests."""
    data = [lineage.task(new.name, new.digest), lineage.data(versions.revision(workspace).digest)]
    return [*data, lineage.version(params.registry.model, base.version)] if base else data


@flow(name="episode", flow_run_name="episode {index}: {task}", persist_result=False)
def episode(workspace_root: str, task: str, index: int, settings: dict[str, Any]) -> int:
    """Learn one task on top of the champion and register what comes of it; returns the model version.

    Args:
        workspace_root: absolute path of the workspace.
        task: a landed task that the champion does not know.
        index: the episode's.
        settings: all sections of params.yaml as the run has them, its preset laid over.
    """
    from flows import steps  # and with it torch, which a run that finds nothing has no use for

    progress.say(f"episode {index}: {task}", style="bold")
    base = steps.open_base_state(workspace_root, settings)
    home = steps.learn_task(workspace_root, Workspace(Path(workspace_root)).episodes_dir, base, task, settings)
    steps.assess(workspace_root, home)
    steps.update_atlas(workspace_root, home)
    steps.register(workspace_root, home)
    steps.gate(workspace_root, home)
    return steps.promote(workspace_root, home)


@step(
    name="update checkout",
    retries=len(_CHECKOUT_DELAYS_S),
    retry_delay_seconds=_CHECKOUT_DELAYS_S,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def update_checkout(root: str, task: str | None, digest: str | None, commit: str | None) -> None:
    """Bring a worker's checkout to what its upstream has, unless it holds the landing that started the run."""
    workspace, log = Workspace(Path(root)), get_run_logger()
    named = (commit or "", digest or "")
    if any(named) and checkout.holds(workspace, *named):
        log.info("the checkout holds the landing of %s", task)
        return
    try:
        pulled = checkout.bring_up_to_date(workspace)
    except DataVersionError as error:
        if any(named):
            raise
        log.warning("the checkout stays as it is: %s", error)
    else:
        log.info("the checkout is %s", "up to date with its upstream" if pulled else "as it is: no upstream is set")
    checkout.check_holds(workspace, *named)


OUTSIDE = (
    *(RegistryError, ServiceError, StorageError, ParamsError, BackboneError, WorkspaceError),
    *(httpx.HTTPError, PrefectException),  # what a flow raises whose server is killed, or too busy to answer
)
"""What no task can be blamed for: the next one would fail likewise, or only be learned out of its turn."""
