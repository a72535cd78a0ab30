"""The demo: a workspace of its own, a stream of generators landing one by one, and each landing starts a worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from flows import events
from flows.client import PrefectApi
from lorax import progress, reconcile
from lorax.commands import running, tables
from lorax.commands.following import Follower
from lorax.commands.init import initialize
from lorax.data import versions
from lorax.data.landing import land
from lorax.data.simulate import DEMO_TASKS, SIDE, simulate
from lorax.learning import metrics
from lorax.params import Params, ServicesParams, load_params
from lorax.services import embedded
from lorax.workspace import Workspace

SIMULATED = {"backbone": {"crop": SIDE}}
"""What params.yaml says otherwise for the simulated tasks: their images are looked at whole, and not mirrored."""


def run(
    root: Path,
    prefect_port: int | None,
    mlflow_port: int | None,
    out: Console,
    err: Console,
    *,
    raw: Path | None = None,
    names: Sequence[str] = DEMO_TASKS,
) -> None:
    """Land and learn what is not there yet, then show what came of it; the servers are left as they are.

    Args:
        root: folder of the demo's workspace.
        prefect_port, mlflow_port: ports for a new workspace; None takes the usual one or the next free one.
        out: where results go.
        err: where progress goes.
        raw: folder of the tasks to land; None has the simulated ones made.
        names: the tasks, in order.
    """
    raw = raw and raw.absolute()
    workspace = prepare(root, prefect_port, mlflow_port, SIMULATED if raw is None else {})
    os.chdir(workspace.root)
    params = load_params(workspace.params_path)
    landed = {task.name for task in versions.landed(workspace)}
    to_land = [name for name in names if name not in landed]
    is_waiting = bool(reconcile.waiting_tasks(workspace, params))
    if to_land or is_waiting:
        _learn_on_a_worker(workspace, params, raw, to_land, is_waiting=is_waiting, err=err)
    if not to_land and not is_waiting:
        out.print("nothing to learn: the champion knows every landed task.")
    tables.print_champion(reconcile.look(workspace, params), out)
    if to_land or is_waiting:
        _compare(workspace, params, out, err)
    found = embedded.status(workspace, params)
    tables.print_pages(found, out)
    if found.mlflow.is_ready:
        timeline = reconcile.look(workspace, params, found.mlflow).pages()["timeline"]
        out.print(f"A curve per task over the episodes: {timeline}", markup=False)


def _learn_on_a_worker(
    workspace: Workspace, params: Params, raw: Path | None, to_land: Sequence[str], *, is_waiting: bool, err: Console
) -> None:
    """Land one data set after the other and show how each landing has a worker learn; Ctrl-C only stops the showing."""
    since = datetime.now(UTC)
    running.up(workspace, params, err)
    api = PrefectApi.of(workspace, params)  # not before: a new workspace has its auth string from 'up'
    follower = Follower(api, err, is_done=lambda: not reconcile.waiting_tasks(workspace, params))
    try:
        if is_waiting:
            follower.follow(since)
        for name in to_land:
            _land(workspace, raw or _simulated(workspace, err), name, err)
            follower.follow(since=datetime.now(UTC))
    except KeyboardInterrupt:
        err.print("the worker goes on with what has landed; 'lorax status' shows it, 'lorax down' ends it.")
        raise


def prepare(
    root: Path, prefect_port: int | None, mlflow_port: int | None, values: Mapping[str, Mapping[str, Any]]
) -> Workspace:
    """The demo's workspace; made at the first run, with these values and the usual ports or the next free ones."""
    if (root / "params.yaml").is_file():
        return initialize(root)
    usual = ServicesParams()
    first = prefect_port or _free_port(usual.prefect_port)
    second = mlflow_port or _free_port(usual.mlflow_port)
    return initialize(root, prefect_port=first, mlflow_port=second, values=values)


def _simulated(workspace: Workspace, err: Console) -> Path:
    """The folder of the simulated tasks, which are made where they are not there yet."""
    raw = workspace.work_dir / "raw"
    if not raw.is_dir():
        with progress.counting(err) as shown:
            simulate(raw, progress=shown)
    return raw


def _land(workspace: Workspace, raw: Path, name: str, err: Console) -> None:
    with progress.counting(err) as shown:
        landed = land(workspace, raw / name, name, progress=shown)
    events.emit(workspace, name)
    err.print(f"[bold]landed {name}[/bold] ({landed.digest[:12]}): data.dvc is committed, and Prefect's server told")


def _compare(workspace: Workspace, params: Params, out: Console, err: Console) -> None:
    """Print what the branches buy: the same stream learned by the head on what the frozen backbone says, alone."""
    from lorax.learning.baseline import learn_without_branches

    tasks = [versions.read_task(workspace, task.name) for task in versions.landed(workspace)]
    with err.status("learning the same stream without branches, to compare"):
        rows = learn_without_branches(tasks, lambda samples: versions.fetch(workspace, samples), params)
    average, lost = metrics.average_accuracy(rows), metrics.forgetting(rows)
    alone = "the same stream without branches, a head on the frozen backbone alone"
    out.print(f"{alone}: average accuracy {100 * average:.1f}, forgetting {100 * lost:.1f}")


def _free_port(usual: int) -> int:
    """`usual`, or the next port that nobody listens on."""
    for port in range(usual, usual + 100):
        with socket.socket() as probe:
            if probe.connect_ex((embedded.HOST, port)) != 0:
                return port
    return usual
