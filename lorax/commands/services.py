"""`lorax up` and `lorax down`: this workspace's servers, and what runs beside them."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lorax.commands import access
from lorax.commands.console import Json, err, here, opened, out, print_json
from lorax.errors import LoraxError, ServiceError

if TYPE_CHECKING:
    from pathlib import Path

    from lorax.params import Params
    from lorax.services.embedded import Services
    from lorax.services.prefect_api import PrefectApi
    from lorax.workspace import Workspace


def up(
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Without: servers only, for workers elsewhere.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Start this workspace's servers and a worker that learns what lands; fine when they run already.

    Addresses of servers that run elsewhere come from PREFECT_API_URL and MLFLOW_TRACKING_URI. Example: `lorax up`
    """
    services = start(*opened(), with_worker=worker)
    if as_json:
        print_json({"prefect": services.prefect.address, "mlflow": services.mlflow.address})
    else:
        print_pages(services, out)


def down() -> None:
    """Stop this workspace's servers and worker, with all that learns just now, by hand too; fine when none runs."""
    for pid in stop(here()):
        out.print(f"process {pid}, which learned here, was stopped; the same command goes on where it was.")
    out.print("servers and worker are down.")


def start(workspace: Workspace, params: Params, *, with_worker: bool = True) -> Services:
    """Have the servers answer, and a worker learn what lands; what waits already is begun at once.

    Args:
        with_worker: False has the servers answer and stops the worker, if one runs: others elsewhere learn.

    Raises:
        ServiceError: a server or the worker does not come up, or Prefect refuses prefect.yaml.
    """
    from lorax.services import embedded, homes
    from lorax.services.prefect_api import PrefectApi

    workspace, params = homes.at_home(workspace, params)
    with _in_turn(workspace):
        access.serve(workspace, params)
        with err.status("starting the worker" if with_worker else "stopping the worker"):
            embedded.keep(workspace, params, _helpers(workspace, params, with_worker=with_worker))
            if with_worker:
                have_work_done(workspace, params, PrefectApi.of(workspace, params))
        return embedded.status(workspace, params)


def stop(workspace: Workspace) -> list[int]:
    """Stop all that `start` started, and what learns here by hand; Prefect's server, while it is there, is told.

    Returns:
        The processes of `lorax learn` and `lorax scenario` that were stopped; run again, they go on where they were.

    Raises:
        ServiceError: a process can't be stopped.
        StorageError: the folder of the servers can't be written.
    """
    from flows import deployment
    from lorax.services import embedded, homes
    from lorax.services.prefect_api import PrefectApi

    here, workspace = workspace, homes.home(workspace)
    with _in_turn(workspace) if workspace.services_dir.is_dir() else nullcontext():
        ended = embedded.stop_flows(workspace)
        by_hand = embedded.stop_learning_by_hand(here)  # what is left of them
        with suppress(LoraxError):  # what can't be told is found out by the missing heartbeat
            api = PrefectApi.of(workspace)
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
    from flows import deployment
    from lorax.services import embedded
    from lorax.services.prefect_api import NoAnswerError

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


def print_pages(services: Services, out: Console) -> None:
    """Where to look next, and how to stop the servers."""
    for title, service in (("Prefect", services.prefect), ("MLflow", services.mlflow)):
        state = way_in(service.auth_path) if service.is_ready else "  (down: start it with 'lorax up')"
        out.print(f"{title:<8} {service.address}{state}", markup=False)
    if any(service.is_embedded and service.is_ready for service in (services.prefect, services.mlflow)):
        also = " So does the worker." if services.helpers.get("worker") else ""
        out.print(f"Both keep running.{also} Stop them with 'lorax down' in this workspace.")


def way_in(auth_path: Path | str | None) -> str:
    """How a person gets past the question that a server's page asks first, where it does."""
    return f"; its page asks for the line in {auth_path}" if auth_path else ""


def _in_turn(workspace: Workspace) -> AbstractContextManager[None]:
    """Have `up` and `down` wait for each other: between them they would leave a worker without servers."""
    from lorax.services import embedded

    return embedded.in_turn(
        workspace, lambda: err.print("another 'lorax up' or 'lorax down' is under way; waiting for it")
    )


def _helpers(workspace: Workspace, params: Params, *, with_worker: bool) -> dict[str, tuple[str, ...]]:
    """What runs beside the servers: a worker, who has runs made for it, and who watches the drop folder, if any."""
    from lorax.services import embedded

    helpers: dict[str, tuple[str, ...]] = {}
    if with_worker:
        helpers |= {embedded.WORKER: ("-m", "flows.processes", "worker"), "announcer": ("-m", "flows.announcer")}
    if params.landing.drop_dir is not None:
        helpers["watcher"] = ("-m", "lorax", "land", "--watch", str(workspace.root / params.landing.drop_dir))
    return helpers


def _await_pool(workspace: Workspace, params: Params, api: PrefectApi) -> None:
    """Return once the work pool is there; a worker makes it when it comes up.

    Raises:
        ServiceError: the worker died, or took too long.
    """
    from flows.deployment import POOL
    from lorax.services import embedded, supervision

    deadline = time.monotonic() + embedded.PATIENCE_S
    pids: set[int] = set()
    while api.get(f"work_pools/{POOL}") is None:
        pids.add(embedded.status(workspace, params).helpers.get("worker", 0))
        if len(pids - {0}) > 1 or time.monotonic() > deadline:
            words = supervision.last_words(workspace.services_dir, "worker")
            raise ServiceError(f"the worker did not come up. {words}")
        time.sleep(0.3)
