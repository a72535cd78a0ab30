"""Running flows from a terminal: the servers first, then the flow in this process, its progress on the console.

Prefect and MLflow read the environment when they are imported, so it is set before the flows' modules are.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from flows import deployment, watcher, worker
from flows.client import NoAnswerError, PrefectApi
from lorax import progress, reconcile
from lorax.errors import LoraxError, RegistryError, ServiceError
from lorax.params import Params, load_params
from lorax.registry import Look, ModelVersion, Registry
from lorax.services import embedded, homes, supervision
from lorax.services.embedded import Services
from lorax.tidying import used
from lorax.workspace import Workspace


def serve(workspace: Workspace, params: Params, console: Console) -> Services:
    """Have both servers answer, and point this process at them."""
    with console.status("looking for the servers") as status:
        found = embedded.up(workspace, params, progress=lambda text: status.update(text))
    os.environ.update(embedded.environment(workspace, params))
    return found


def up(workspace: Workspace, params: Params, console: Console, *, with_worker: bool = True) -> Services:
    """Have the servers answer, and a worker learn what lands; what waits already is begun at once.

    Args:
        workspace, params: whose.
        console: shows what is waited for.
        with_worker: False has the servers answer and stops the worker, if one runs: others elsewhere learn.

    Raises:
        ServiceError: a server or the worker does not come up, or Prefect refuses prefect.yaml.
    """
    workspace, params = homes.at_home(workspace, params)
    with _in_turn(workspace, console):
        serve(workspace, params, console)
        with console.status("starting the worker" if with_worker else "stopping the worker"):
            embedded.keep(workspace, params, _helpers(workspace, params, with_worker=with_worker))
            if with_worker:
                have_work_done(workspace, params, PrefectApi.of(workspace, params))
        return embedded.status(workspace, params)


def down(workspace: Workspace, console: Console) -> list[int]:
    """Stop all that `up` started, and what learns here by hand; Prefect's server, while it is there, is told.

    Returns:
        The processes of `lorax learn` and `lorax scenario` that were stopped; run again, they go on where they were.

    Raises:
        ServiceError: a process can't be stopped.
        StorageError: the folder of the servers can't be written.
    """
    here, workspace = workspace, homes.home(workspace)
    with _in_turn(workspace, console) if workspace.services_dir.is_dir() else nullcontext():
        ended = embedded.stop_flows(workspace)
        by_hand = embedded.stop_learning_by_hand(here)  # what is left of them
        with suppress(LoraxError):  # what can't be told is found out by the missing heartbeat
            api = PrefectApi.of(workspace, load_params(workspace.params_path))
            for run_id in ended:
                deployment.mark_crashed(api, run_id, "stopped by 'lorax down'; the next run goes on where it was")
        embedded.down(workspace)
    return by_hand


def have_work_done(workspace: Workspace, params: Params, api: PrefectApi) -> None:
    """Tell Prefect's server what the worker runs and when, once it is there; what waits is the announcer's.

    On a machine that is busy with other work the server, which has come up, may leave questions unanswered for a while;
    all this may be done again, so it is, for as long as the server would have had for coming up.

    Raises:
        ServiceError: the server ended, refused or never answered, or the worker died.
    """
    deadline, server = time.monotonic() + embedded.PATIENCE_S, embedded.status(workspace, params).prefect.pid
    while True:
        try:
            _await_pool(workspace, params, api)
            deployment.deploy(workspace, params, api)
            deployment.watch_over_runs(api)
            return
        except NoAnswerError:
            now = embedded.status(workspace, params).prefect
            if time.monotonic() > deadline or now.pid != server or not now.is_embedded:
                raise
            time.sleep(0.3)


def _in_turn(workspace: Workspace, console: Console) -> AbstractContextManager[None]:
    """Have `up` and `down` wait for each other: between them they would leave a worker without servers."""
    return embedded.in_turn(
        workspace, lambda: console.print("another 'lorax up' or 'lorax down' is under way; waiting for it")
    )


def _helpers(workspace: Workspace, params: Params, *, with_worker: bool) -> dict[str, tuple[str, ...]]:
    """What runs beside the servers: a worker, who has runs made for it, and who watches the drop folder, if any."""
    helpers: dict[str, tuple[str, ...]] = {}
    if with_worker:
        helpers |= {embedded.WORKER: ("-m", "flows.worker"), "announcer": ("-m", "flows.announcer")}
    if params.landing.drop_dir is not None:
        helpers["watcher"] = watcher.arguments(workspace.root / params.landing.drop_dir)
    return helpers


def _await_pool(workspace: Workspace, params: Params, api: PrefectApi) -> None:
    """Return once the work pool is there; a worker makes it when it comes up.

    Raises:
        ServiceError: the worker died, or took too long.
    """
    deadline = time.monotonic() + embedded.PATIENCE_S
    pids: set[int] = set()
    while api.get(f"work_pools/{worker.POOL}") is None:
        pids.add(embedded.status(workspace, params).helpers.get("worker", 0))
        if len(pids - {0}) > 1 or time.monotonic() > deadline:
            words = supervision.last_words(workspace.services_dir, "worker")
            raise ServiceError(f"the worker did not come up. {words}")
        time.sleep(0.3)


def learn(workspace: Workspace, preset: str | None, console: Console) -> list[int]:
    """Run the learn flow; returns the versions registered. `serve` comes first."""
    from flows.learn import learn as flow

    with progress.showing(console):
        return flow(str(workspace.root), preset)


def scenario(workspace: Workspace, name: str, preset: str | None, console: Console) -> dict[str, Any]:
    """Run the scenario flow; returns what it measured. `serve` comes first."""
    from flows.scenario import scenario as flow

    with progress.showing(console):
        return flow(str(workspace.root), name, preset)


def served_registry(workspace: Workspace, params: Params, console: Console) -> Registry:
    """The registry behind MLflow's server, which is started if need be; Prefect's may be down."""
    if embedded.status(workspace, params).mlflow.is_ready:
        os.environ.update(embedded.environment(workspace, params))
    else:
        serve(workspace, params, console)
    return reconcile.open_registry(workspace, params)


def fetched(workspace: Workspace, params: Params, wanted: str, console: Console) -> tuple[ModelVersion, Path]:
    """A model version and its learner state, fetched from the registry where it must be.

    Args:
        workspace, params: whose registry.
        wanted: a version's number, or an alias such as @champion.
        console: shows what is waited for.

    Raises:
        RegistryError: there is no such version.
    """
    look = reconcile.look(workspace, params)
    chosen = _chosen(look, wanted)
    is_here = (workspace.states_dir / chosen.state_digest).is_dir()
    registry = look if is_here else served_registry(workspace, params, console)
    return chosen, used(registry.download_state(chosen.version, workspace.states_dir))


def _chosen(look: Look, wanted: str) -> ModelVersion:
    if wanted.startswith("@"):
        return look.aliased(wanted[1:])
    if wanted.isdecimal():
        return look.version(int(wanted))
    raise RegistryError(f"version {wanted!r} is not understood: expected a number, @champion or @challenger.")
