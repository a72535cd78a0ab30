"""The reproducer: a whole scenario learned from scratch with today's params.yaml, tracked, the registry untouched.

It is the stage of dvc.yaml, so `dvc repro`, `dvc exp run -S training.epochs=2` and comparisons with the paper run it.
Learned in several orders of its tasks, it tells how much of accuracy and forgetting is the order's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows import steps
from flows.step import step
from lorax import progress
from lorax.data import versions
from lorax.learning import metrics
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.state_files import load_state
from lorax.params import Params, load_params
from lorax.reconcile import one_at_a_time, registry_of_server, scenario_orders
from lorax.registry.figures import save_orders, save_scenario
from lorax.workspace import Workspace

_SPREAD = {"mean": "mean", "std": "deviation", "min": "least", "max": "largest"}


@flow(name="scenario", flow_run_name="scenario {name}", persist_result=False)
def scenario(workspace_root: str, name: str, orders: int | None = None, preset: str | None = None) -> dict[str, Any]:
    """Learn the tasks of scenario `name` one after the other, beginning with nothing.

    Args:
        workspace_root: absolute path of the workspace, in which the tasks have landed.
        name: a published scenario, or "landed".
        orders: in how many orders, of which the scenario's own is the first; None: in that one alone. What two orders
            begin with alike is learned once; interrupted, the next run goes on there.
        preset: a preset of params.yaml, or None.

    Returns:
        The tasks, the rows of the accuracy matrix, the metrics, the learner state and the id of MLflow's run; where
        orders are asked for, all this for each, and mean, deviation, least and largest value of each metric.
    """
    workspace = Workspace(Path(workspace_root))
    params = load_params(workspace.params_path, preset=preset)
    registry_of_server(workspace, params).check_scenarios()  # so that what is measured can be tracked
    found = scenario_orders(workspace, name, orders or 1, params.run.seed)
    homes = _learned(workspace, name, found, params)
    return track(workspace_root, name, homes[0]) if orders is None else track_orders(workspace_root, name, homes)


@flow(name="scenario-episode", flow_run_name="scenario episode {index}: {task}", persist_result=False)
def episode(workspace_root: str, parent: str, task: str, index: int, base: str | None, settings: dict[str, Any]) -> str:
    """Learn one task on top of the state in `base`; returns the episode's folder."""
    progress.say(f"episode {index}: {task}", style="bold")
    return steps.learn_task(workspace_root, Path(parent), base, task, settings)


@step("track scenario")
def track(root: str, name: str, homes: list[str]) -> dict[str, Any]:
    """Write work/scenario/ and MLflow's run; returns what was measured."""
    workspace = Workspace(Path(root))
    return {"scenario": name} | _tracked(workspace, name, homes, workspace.work_dir / "scenario")


@step("track orders")
def track_orders(root: str, name: str, homes: list[list[str]]) -> dict[str, Any]:
    """Write work/scenario/orders.* and a run of MLflow's for each order; returns what was measured."""
    import pandas as pd

    workspace = Workspace(Path(root))
    found = [{"order": i} | _tracked(workspace, f"{name}, order {i}", order) for i, order in enumerate(homes)]
    spread = pd.DataFrame([order["metrics"] for order in found]).agg(list(_SPREAD)).rename(index=_SPREAD).fillna(0.0)
    record = {"scenario": name, "orders": found, "spread": spread.to_dict()}
    save_orders(workspace.work_dir / "scenario", record)
    return record


def _learned(workspace: Workspace, name: str, orders: Sequence[Sequence[str]], params: Params) -> list[list[str]]:
    """Learn tasks one after the other, in each order from nothing; returns the episodes' folders."""
    root, parent = str(workspace.root), str(workspace.work_dir / "scenarios" / name)
    learned: list[list[str]] = []
    with one_at_a_time(workspace, lambda: progress.say("waiting for another flow of this workspace")):
        for place, tasks in enumerate(orders):
            if len(orders) > 1:
                progress.say(f"order {place}: {', '.join(tasks)}", style="bold")
            homes: list[str] = []
            for index, task in enumerate(tasks):
                base = str(EpisodeFolder(Path(homes[-1])).state_dir) if homes else None
                homes.append(episode(root, parent, task, index, base, params.model_dump(mode="json")))
            learned.append(homes)
    return learned


def _tracked(workspace: Workspace, name: str, homes: Sequence[str], folder: Path | None = None) -> dict[str, Any]:
    """What episodes came to, once it is in a run of MLflow's, and in a folder, if one is given."""
    last = EpisodeFolder(Path(homes[-1]))
    state, reports = load_state(last.state_dir), [Report.read(EpisodeFolder(Path(home)).report_path) for home in homes]
    files = save_scenario(folder, state, reports) if folder else ()
    registry, commit = registry_of_server(workspace, last.plan().params), versions.revision(workspace).commit
    return {
        "tasks": state.names,
        "rows": [list(row) for row in state.accuracy],
        "metrics": metrics.summary(state.accuracy),
        "state": str(last.state_dir),
        "run_id": registry.track_scenario(name, state, reports, git_commit=commit, files=files),
    }
