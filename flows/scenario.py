"""The reproducer: a whole scenario learned from scratch with today's params.yaml, tracked, the registry untouched.

It is the stage of dvc.yaml, so `dvc repro`, `dvc exp run -S training.epochs=2` and comparisons with the paper run it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow

from flows import steps
from flows.step import step
from lorax import progress
from lorax.data import versions
from lorax.learning import metrics
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state
from lorax.params import Params, load_params
from lorax.reconcile import one_at_a_time, registry_of_server, scenario_tasks
from lorax.registry.figures import save_figures
from lorax.storage import canonical_json, write_whole
from lorax.workspace import Workspace


@flow(name="scenario", flow_run_name="scenario {name}", persist_result=False)
def scenario(workspace_root: str, name: str, preset: str | None = None) -> dict[str, Any]:
    """Learn the tasks of scenario `name` one after the other, beginning with nothing.

    Args:
        workspace_root: absolute path of the workspace, in which the tasks have landed.
        name: a published scenario, or "landed".
        preset: a preset of params.yaml, or None.

    Returns:
        The tasks, the rows of the accuracy matrix, the metrics, and the id of MLflow's run.
    """
    workspace = Workspace(Path(workspace_root))
    params = load_params(workspace.params_path, preset=preset)
    registry_of_server(workspace, params).check_scenarios()
    with one_at_a_time(workspace, lambda: progress.say("waiting for another flow of this workspace")):
        homes = learned_in_order(workspace, name, [task.name for task in scenario_tasks(workspace, name)], params)
    return track(workspace_root, name, homes)


def learned_in_order(workspace: Workspace, name: str, tasks: Sequence[str], params: Params) -> list[str]:
    """Learn tasks one after the other, beginning with nothing; returns the episodes' folders, those of `name`."""
    root, parent = str(workspace.root), str(workspace.work_dir / "scenarios" / name)
    homes: list[str] = []
    for index, task in enumerate(tasks):
        base = str(EpisodeFolder(Path(homes[-1])).state_dir) if homes else None
        homes.append(episode(root, parent, task, index, base, params.model_dump(mode="json")))
    return homes


@flow(name="scenario-episode", flow_run_name="scenario episode {index}: {task}", persist_result=False)
def episode(workspace_root: str, parent: str, task: str, index: int, base: str | None, settings: dict[str, Any]) -> str:
    """Learn one task on top of the state in `base`; returns the episode's folder."""
    progress.say(f"episode {index}: {task}", style="bold")
    return steps.learn_task(workspace_root, Path(parent), base, task, settings)


@step("track scenario")
def track(root: str, name: str, homes: list[str]) -> dict[str, Any]:
    """Write work/scenario/ and MLflow's run; returns what was measured."""
    workspace, folders = Workspace(Path(root)), [EpisodeFolder(Path(home)) for home in homes]
    reports = [Report.read(folder.report_path) for folder in folders]
    state = load_state(folders[-1].state_dir)
    outputs = workspace.work_dir / "scenario"
    files = write_outputs(outputs, state, reports)
    commit = versions.revision(workspace).commit
    registry = registry_of_server(workspace, folders[-1].plan().params)
    run_id = registry.track_scenario(name, folders[-1].state_dir, reports, git_commit=commit, files=files)
    return {
        "scenario": name,
        "tasks": [task.name for task in state.tasks],
        "rows": [list(row) for row in state.accuracy],
        "metrics": metrics.summary(state.accuracy),
        "state": str(folders[-1].state_dir),
        "run_id": run_id,
    }


def write_outputs(folder: Path, state: LearnerState, reports: Sequence[Report]) -> list[Path]:
    """Write what dvc.yaml names as metrics, plots and outputs; returns the files that are not pictures.

    Args:
        folder: where they go.
        state: the learner state after the last episode.
        reports: one per episode.
    """
    tasks, rows = [task.name for task in state.tasks], state.accuracy
    measured = metrics.summary(rows) | {"accuracy": dict(zip(tasks, rows[-1], strict=True))}
    averages = [{"episode": j, **metrics.summary(rows[: j + 1])} for j in range(len(rows))]
    matrix = [{"after": tasks[j], **dict(zip(tasks, row, strict=False))} for j, row in enumerate(rows)]
    cells = [{"episode": j, "task": tasks[i], "accuracy": v} for j, row in enumerate(rows) for i, v in enumerate(row)]
    epochs = [{"episode": r.episode, "task": r.task, **asdict(row)} for r in reports for row in r.curves]
    texts = {
        "metrics.json": canonical_json(measured),
        "averages.csv": table_of(averages, averages[0]),
        "accuracy_matrix.csv": table_of(matrix, ["after", *tasks]),
        "task_accuracy.csv": table_of(cells, cells[0]),
        "training.csv": table_of(epochs, epochs[0]),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    save_figures(folder, tasks, rows, [entry.label for entry in state.classes.entries], reports[-1].confusion)
    return [folder / name for name in texts]


def table_of(rows: Iterable[dict[str, Any]], columns: Iterable[str]) -> str:
    """Rows as CSV under a line of the columns' names."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
