"""A scenario in several orders of its tasks: how much of accuracy and forgetting is the order's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.scenario import learned_in_order, table_of
from flows.step import step
from lorax import progress
from lorax.data import versions
from lorax.learning import metrics
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.state_files import load_state
from lorax.params import load_params
from lorax.reconcile import one_at_a_time, registry_of_server, scenario_orders
from lorax.registry.figures import save_orders
from lorax.storage import canonical_json, write_whole
from lorax.workspace import Workspace

SHOWN = ("average_accuracy", "average_incremental_accuracy", "forgetting")


@flow(name="scenario-orders", flow_run_name="scenario {name} in {count} orders", persist_result=False)
def orders(workspace_root: str, name: str, count: int, preset: str | None = None) -> dict[str, Any]:
    """Learn the tasks of scenario `name` from nothing in several orders, of which the scenario's own is the first.

    What two orders begin with alike is learned once; interrupted, the next run goes on there.

    Args:
        workspace_root: absolute path of the workspace, in which the tasks have landed.
        name: a published scenario, or "landed".
        count: how many orders.
        preset: a preset of params.yaml, or None.

    Returns:
        For each order its tasks, rows, metrics, learner state and MLflow's run; mean and spread of the metrics.
    """
    workspace = Workspace(Path(workspace_root))
    params = load_params(workspace.params_path, preset=preset)
    registry_of_server(workspace, params).check_scenarios()
    homes: list[list[str]] = []
    with one_at_a_time(workspace, lambda: progress.say("waiting for another flow of this workspace")):
        for place, tasks in enumerate(scenario_orders(workspace, name, count, params.run.seed)):
            progress.say(f"order {place}: {', '.join(tasks)}", style="bold")
            homes.append(learned_in_order(workspace, name, tasks, params))
    return track(workspace_root, name, homes)


@step("track orders")
def track(root: str, name: str, homes: list[list[str]]) -> dict[str, Any]:
    """Write work/scenario/orders.* and a run of MLflow's for each order; returns what was measured."""
    workspace = Workspace(Path(root))
    commit = versions.revision(workspace).commit
    found = list[dict[str, Any]]()
    for place, order in enumerate(homes):
        folders = [EpisodeFolder(Path(home)) for home in order]
        state_dir, state = folders[-1].state_dir, load_state(folders[-1].state_dir)
        registry = registry_of_server(workspace, folders[-1].plan().params)
        reports = [Report.read(folder.report_path) for folder in folders]
        found.append({
            "order": place,
            "tasks": [task.name for task in state.tasks],
            "rows": [list(row) for row in state.accuracy],
            "metrics": metrics.summary(state.accuracy),
            "state": str(state_dir),
            "run_id": registry.track_scenario(f"{name}, order {place}", state_dir, reports, git_commit=commit),
        })  # fmt: skip
    record = {"scenario": name, "orders": found, "spread": spread([order["metrics"] for order in found])}
    write_orders(workspace.work_dir / "scenario", record)
    return record


def spread(measured: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Each metric's mean, standard deviation (of a sample; 0 for a single order), least and largest value."""
    columns = {name: [row[name] for row in measured] for name in measured[0]}
    return {
        name: {
            "mean": statistics.fmean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
            "least": min(values),
            "largest": max(values),
        }
        for name, values in columns.items()
    }


def write_orders(folder: Path, record: dict[str, Any]) -> None:
    """Write what was measured as JSON, as a table and as a picture.

    Args:
        folder: where they go.
        record: what `orders` returns.
    """
    rows = [{"order": o["order"], **o["metrics"], "tasks": " ".join(o["tasks"])} for o in record["orders"]]
    write_whole(folder / "orders.json", canonical_json(record))
    write_whole(folder / "orders.csv", table_of(rows, rows[0]))
    save_orders(folder / "orders.png", [o["metrics"] for o in record["orders"]], SHOWN)
