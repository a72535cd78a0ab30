"""The episode flow: one task learned on top of the champion, in seven steps.

Kept apart from the learn flow, which imports it once there is something to learn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from flows import steps
from lorax import progress
from lorax.workspace import Workspace


@flow(name="episode", flow_run_name="episode {index}: {task}", persist_result=False)
def episode(workspace_root: str, task: str, index: int, settings: dict[str, Any]) -> int:
    """Learn one task on top of the champion and register what comes of it; returns the model version.

    Args:
        workspace_root: absolute path of the workspace.
        task: a landed task that the champion does not know.
        index: the episode's.
        settings: all sections of params.yaml as the run has them, its preset laid over.
    """
    progress.say(f"episode {index}: {task}", style="bold")
    base = steps.open_base_state(workspace_root, settings)
    start = steps.choose_start(workspace_root, base, task, settings)
    parent = Workspace(Path(workspace_root)).episodes_dir
    home = steps.plan_episode(workspace_root, parent, base, task, settings, start)
    steps.train_branch(workspace_root, home, base, settings)
    steps.update_exemplars(workspace_root, home, base, settings)
    steps.evaluate(workspace_root, home, base, settings)
    steps.assess(workspace_root, home, base, settings)
    steps.update_atlas(workspace_root, home)
    return steps.register(workspace_root, home, settings)
