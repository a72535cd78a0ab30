"""The learn flow: whatever landed and is not known yet is learned, in order, one episode each.

prefect worker or `lorax learn`  ->  learn  ->  episode (one for each missing task)  ->  five steps
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows import steps, terminal
from flows.reconcile import missing_tasks, one_at_a_time
from lorax.data import versions
from lorax.params import load_params
from lorax.workspace import Workspace


@flow(name="learn", flow_run_name=lambda: f"learn {datetime.now():%Y-%m-%d %H:%M:%S}", persist_result=False)
def learn(workspace_root: str, preset: str | None = None) -> list[int]:
    """Learn every landed task that the champion does not know; running it again finds nothing to learn.

    Args:
        workspace_root: absolute path of the workspace.
        preset: a preset of its params.yaml, or None.

    Returns:
        The model versions registered.
    """
    workspace = Workspace(Path(workspace_root))
    params, log = load_params(workspace.params_path, preset=preset), get_run_logger()
    with one_at_a_time(workspace, lambda: log.info("another 'lorax learn' runs in this workspace; waiting for it")):
        champion = steps.open_registry(workspace, params.registry.model).champion()
        missing = missing_tasks(versions.landed(workspace), champion)
        first = len(champion.tasks) if champion else 0
        if not missing:
            log.info("nothing to learn: the champion knows every landed task")
        return [
            episode(workspace_root, params.registry.model, task.name, index, params.learning())
            for index, task in enumerate(missing, first)
        ]


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
