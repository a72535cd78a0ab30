"""The learn flow: whatever landed and is not known yet is learned, in order, one episode each.

prefect worker or `lorax learn`  ->  learn  ->  episode (one for each missing task)  ->  five steps
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows import steps, terminal
from flows.reconcile import missing_tasks, one_at_a_time
from lorax.data import landing, versions
from lorax.params import load_params
from lorax.workspace import Workspace


@flow(name="learn", flow_run_name=lambda: f"learn {datetime.now():%Y-%m-%d %H:%M:%S}", persist_result=False)
def learn(
    workspace_root: str | None = None,
    preset: str | None = None,
    task: str | None = None,
    digest: str | None = None,
    commit: str | None = None,
) -> list[int]:
    """Learn every landed task that the champion does not know; running it again finds nothing to learn.

    A task whose challenger the gate refuses is held, and the next one grows from the champion as it is.

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
        steps.update_checkout(root, task, digest, commit)
    params, log = load_params(workspace.params_path, preset=preset), get_run_logger()
    with one_at_a_time(workspace, lambda: log.info("another 'lorax learn' runs in this workspace; waiting for it")):
        registered: list[int] = []
        while planned := _next(workspace, params.registry.model):
            index, name = planned
            registered.append(episode(root, params.registry.model, name, index, params.learning()))
        if not registered:
            log.info("nothing to learn: the champion knows every landed task that is not held")
        return registered


def _next(workspace: Workspace, model: str) -> tuple[int, str] | None:
    """The next episode's index and task, looked up anew each time: the champion may have been moved, data landed."""
    registry = steps.open_registry(workspace, model)
    champion = registry.settle()
    if waiting := registry.waiting():
        get_run_logger().info("version %d waits for approval; nothing is learned until then", waiting.version)
        return None
    landing.undo_killed(workspace)
    missing = missing_tasks(versions.landed(workspace), champion, registry.held())
    return (len(champion.tasks) if champion else 0, missing[0].name) if missing else None


@flow(name="episode", flow_run_name="episode {index}: {task}", persist_result=False)
def episode(workspace_root: str, model: str, task: str, index: int, parameters: dict[str, Any]) -> int:
    """Learn one task on top of the champion and register what comes of it; returns the model version."""
    terminal.say(f"[bold]episode {index}: {task}[/bold]")
    base = steps.open_base_state(workspace_root, model)
    home = steps.plan_episode(workspace_root, Workspace(Path(workspace_root)).episodes_dir, base, task, parameters)
    steps.train_branch(workspace_root, home, base)
    steps.update_exemplars(workspace_root, home, base)
    steps.evaluate(workspace_root, home, base)
    return steps.register(workspace_root, model, home)
