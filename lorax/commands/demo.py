"""`lorax demo`, where a stream of generators lands and a worker learns each, and `lorax simulate`, which makes it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorax.commands import services
from lorax.commands.console import err, out
from lorax.commands.init import initialize
from lorax.commands.plans import publish
from lorax.commands.tables import print_accuracy
from lorax.text import short

if TYPE_CHECKING:
    from lorax.data.contract import Report
    from lorax.params import Params
    from lorax.workspace import Workspace


def simulate(
    directory: Annotated[Path, typer.Argument(help="A new or empty folder, outside any workspace's data/.")],
) -> None:
    """Write the mini-CDDB: five tasks of simulated generators, the same bytes on every machine.

    Example: `lorax simulate /tmp/mini-cddb`
    """
    from lorax import progress
    from lorax.data.simulate import simulate as write

    with progress.counting(err) as shown:
        names = write(directory, progress=shown)
    for name in names:
        out.print(f"{directory / name}", markup=False)


def demo(
    directory: Annotated[Path, typer.Argument(help="The demo's own workspace.")] = Path("work/demo"),
    prefect_port: Annotated[int | None, typer.Option(help="The Prefect server's port, at the first run.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="The MLflow server's port, at the first run.")] = None,
) -> None:
    """Watch five simulated generators land one by one, each learned in an episode of its own.

    Example: `lorax demo`
    """
    run(directory, prefect_port, mlflow_port)


def run(
    root: Path,
    prefect_port: int | None,
    mlflow_port: int | None,
    *,
    raw: Path | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Land and learn what is not there yet, then show what came of it; the servers are left as they are.

    Args:
        root: folder of the demo's workspace.
        prefect_port, mlflow_port: ports for a new workspace; None takes the usual one or the next free one.
        raw: folder of the tasks to land; None has the simulated ones made.
        names: the tasks, in order; None: the simulated ones.
    """
    from lorax import reconcile
    from lorax.data import versions
    from lorax.data.generators import SIDE
    from lorax.data.simulate import DEMO_TASKS
    from lorax.params import load_params
    from lorax.services import embedded

    raw = raw and raw.absolute()
    # the simulated tasks' images are looked at whole, and not mirrored
    workspace = prepare(root, prefect_port, mlflow_port, {"backbone": {"crop": SIDE}} if raw is None else {})
    os.chdir(workspace.root)
    params = load_params(workspace.params_path)
    landed = {task.name for task in versions.landed(workspace)}
    to_land = [name for name in names or DEMO_TASKS if name not in landed]
    is_waiting = bool(reconcile.waiting_tasks(workspace, params))
    if to_land or is_waiting:
        _learn_on_a_worker(workspace, params, raw, to_land, is_waiting=is_waiting)
    if not to_land and not is_waiting:
        out.print("nothing to learn: the champion knows every landed task.")
    registry = reconcile.look(workspace, params)
    if (champion := registry.champion()) is None:
        out.print("no champion yet: land a task first.")
    else:
        rows = reconcile.accuracy_rows(champion, registry.versions())
        print_accuracy(champion.names, rows, champion.metrics, out)
    if to_land or is_waiting:
        _compare(workspace, params)
    servers = embedded.status(workspace, params)
    services.print_pages(servers, out)
    after = "After 'make demo', 'make clean' stops its servers and removes it."
    out.print(f"The workspace is {workspace.root}. {after}", markup=False)
    if servers.mlflow.is_ready:
        timeline = reconcile.look(workspace, params, servers.mlflow).pages()["timeline"]
        out.print(f"A curve per task over the episodes: {timeline}", markup=False)


def _learn_on_a_worker(
    workspace: Workspace, params: Params, raw: Path | None, to_land: Sequence[str], *, is_waiting: bool
) -> None:
    """Land one data set after the other and show how each landing has a worker learn; Ctrl-C only stops the showing."""
    from lorax import reconcile
    from lorax.commands.run_display import RunDisplay
    from lorax.services.prefect_api import PrefectApi

    images = raw or _simulated(workspace)  # before the servers: it says so where its photographs are not installed
    since = datetime.now(UTC)
    services.start(workspace, params)
    api = PrefectApi.of(workspace, params)  # not before: a new workspace has its auth string from 'up'
    display = RunDisplay(api, err, is_done=lambda: not reconcile.waiting_tasks(workspace, params))
    try:
        if is_waiting:
            display.follow(since)
        for name in to_land:
            _land(workspace, images, name)
            display.follow(since=datetime.now(UTC))
    except KeyboardInterrupt:
        err.print("the worker goes on with what has landed; 'lorax status' shows it, 'lorax down' ends it.")
        raise


def prepare(
    root: Path, prefect_port: int | None, mlflow_port: int | None, values: Mapping[str, Mapping[str, Any]]
) -> Workspace:
    """The demo's workspace; made at the first run, with these values and the usual ports or the next free ones."""
    from lorax.params import ServicesParams

    if (root / "params.yaml").is_file():
        return initialize(root)
    usual = ServicesParams()
    ports = {
        "prefect_port": prefect_port or _free_port(usual.prefect_port),
        "mlflow_port": mlflow_port or _free_port(usual.mlflow_port),
    }
    return initialize(root, values={**values, "services": ports})


def _simulated(workspace: Workspace) -> Path:
    """The folder of the simulated tasks, which are made where they are not there yet."""
    from lorax import progress
    from lorax.data.simulate import simulate as write

    raw = workspace.work_dir / "raw"
    if not raw.is_dir():
        with progress.counting(err) as shown:
            write(raw, progress=shown)
    return raw


def _land(workspace: Workspace, raw: Path, name: str) -> None:
    from flows import announcer
    from lorax import progress
    from lorax.data.landing import land

    reports: list[Report] = []
    with progress.counting(err) as shown:
        [landed] = land(workspace, raw / name, name, on_report=reports.append, progress=shown)
    for report in reports:
        publish(workspace, report)
    announcer.emit(workspace, [name])
    err.print(f"[bold]landed {name}[/bold] ({short(landed.digest)}): data.dvc is committed, and Prefect's server told")


def _compare(workspace: Workspace, params: Params) -> None:
    """Print what the branches buy: the same stream learned by the head on what the frozen backbone says, alone."""
    from lorax.data import versions
    from lorax.learning import metrics
    from lorax.learning.methods import linear

    tasks = [versions.read_task(workspace, task.name) for task in versions.landed(workspace)]
    with err.status("learning the same stream without branches, to compare"):
        rows = linear.learn(tasks, partial(versions.fetch, workspace), params, workspace.episodes_dir)
    average, lost = metrics.average_accuracy(rows), metrics.forgetting(rows)
    alone = "the same stream without branches, a head on the frozen backbone alone"
    out.print(f"{alone}: average accuracy {100 * average:.1f}, forgetting {100 * lost:.1f}")


def _free_port(usual: int) -> int:
    """`usual`, or the next port that nobody listens on."""
    from lorax.services.servers import HOST

    for port in range(usual, usual + 100):
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) != 0:
                return port
    return usual
