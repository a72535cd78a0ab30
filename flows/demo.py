"""The demo: a workspace of its own, five simulated generators landing one by one, an episode after each landing."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from rich.console import Console

from flows import reconcile, running, tables, terminal
from lorax import services
from lorax.data import versions
from lorax.data.landing import land
from lorax.data.simulate import DEMO_TASKS, simulate
from lorax.initialize import initialize
from lorax.learning import metrics
from lorax.params import Params, ServicesParams, load_params
from lorax.workspace import Workspace


def run(root: Path, prefect_port: int | None, mlflow_port: int | None, out: Console, err: Console) -> None:
    """Land and learn what is not there yet, then show what came of it; the servers are left as they are.

    Args:
        root: folder of the demo's workspace.
        prefect_port, mlflow_port: ports for a new workspace; None takes the usual one or the next free one.
        out: where results go.
        err: where progress goes.
    """
    workspace = prepare(root, prefect_port, mlflow_port)
    os.chdir(workspace.root)
    params = load_params(workspace.params_path)
    landed = {task.name for task in versions.landed(workspace)}
    to_land = [name for name in DEMO_TASKS if name not in landed]
    is_waiting = bool(reconcile.waiting_tasks(workspace, params))
    if to_land or is_waiting:
        running.serve(workspace, params, err)
    if is_waiting:
        running.learn(workspace, None, err)
    for name in to_land:
        _land(workspace, name, err)
        running.learn(workspace, None, err)
    if not to_land and not is_waiting:
        out.print("nothing to learn: the champion knows every landed task.")
    tables.print_champion(reconcile.open_registry(workspace, params), out)
    if to_land or is_waiting:
        _compare(workspace, params, out, err)
    found = services.status(workspace, params)
    tables.print_pages(found, out)
    if found.mlflow.is_ready:
        timeline = reconcile.open_registry(workspace, params).pages()["timeline"]
        out.print(f"A curve per task over the episodes: {timeline}", markup=False)


def prepare(root: Path, prefect_port: int | None, mlflow_port: int | None) -> Workspace:
    """The demo's workspace; made at the first run, with the usual ports or the next free ones."""
    if (root / "params.yaml").is_file():
        return initialize(root)
    usual = ServicesParams()
    first = prefect_port or _free_port(usual.prefect_port)
    return initialize(root, prefect_port=first, mlflow_port=mlflow_port or _free_port(usual.mlflow_port))


def _land(workspace: Workspace, name: str, err: Console) -> None:
    """Land one of the simulated tasks, which are made first where they are not there yet."""
    raw = workspace.work_dir / "raw"
    if not raw.is_dir():
        with terminal.counting(err) as progress:
            simulate(raw, progress=progress)
    with terminal.counting(err) as progress:
        landed = land(workspace, raw / name, name, progress=progress)
    err.print(f"[bold]landed {name}[/bold] ({landed.digest[:12]}): data.dvc is committed")


def _compare(workspace: Workspace, params: Params, out: Console, err: Console) -> None:
    """Print what the branches buy: the same stream learned by a head on the frozen backbone alone."""
    from lorax.learning.baseline import learn_without_branches

    tasks = [versions.read_task(workspace, task.name) for task in versions.landed(workspace)]
    with err.status("learning the same stream without branches, to compare"):
        rows = learn_without_branches(tasks, lambda samples: versions.fetch(workspace, samples), params)
    average, lost = metrics.average_accuracy(rows), metrics.forgetting(rows)
    out.print(f"the same stream without branches: average accuracy {100 * average:.1f}, forgetting {100 * lost:.1f}")


def _free_port(usual: int) -> int:
    """`usual`, or the next port that nobody listens on."""
    for port in range(usual, usual + 100):
        with socket.socket() as probe:
            if probe.connect_ex((services.HOST, port)) != 0:
                return port
    return usual
