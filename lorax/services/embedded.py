"""The embedded engines: Prefect's and MLflow's server on loopback, kept alive by supervisord.

Everything they hold lies under `work/services` of the workspace: SQLite databases, artifacts, logs, and supervisord's
configuration. A server whose address the user gives by PREFECT_API_URL or MLFLOW_TRACKING_URI is used, not started.
Nothing here imports Prefect or MLflow: `environment` is what a process sets before it does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lorax import addresses
from lorax.errors import ServiceError
from lorax.params import Params
from lorax.services import databases, homes, orphans, servers, supervision
from lorax.services.configuration import Program
from lorax.services.servers import Server
from lorax.storage import locked, storage_errors
from lorax.workspace import Workspace

PATIENCE_S = 600.0
"""How long a server may take to answer: 16 to 18 seconds as a rule, minutes on a machine that is busy with other work.
One that died is noticed at once, so nobody waits this long in vain."""

EXTERNAL_PATIENCE_S = 10.0
"""How long a server that the environment names may take to answer."""

FLOW_PATIENCE_S = 5.0
"""How long a flow that is told to stop may take."""

WORKER = "worker"
"""The helper that runs flows. It is stopped by a kill: asked to, Prefect's worker kills its flows and tells nobody."""

FLOW = "flow"
"""How prefect.yaml marks the processes of flows (LORAX_SERVICE), which outlive their worker."""

OnWaiting = Callable[[str], None]
"""Called with one line for people, again and again while something is waited for."""


@dataclass(frozen=True)
class Service:
    """One server: its page's address, whether this workspace runs it, whether it answers.

    `auth_path` is the file with what its page asks for, where it asks.
    """

    name: str
    address: str
    is_embedded: bool
    is_ready: bool
    pid: int | None = None
    log_path: Path | None = None
    auth_path: Path | None = None


@dataclass(frozen=True)
class Services:
    """Both servers as they are at one moment, and the process id of each helper that the supervisor runs (0: none)."""

    prefect: Service
    mlflow: Service
    helpers: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        return self.prefect.is_ready and self.mlflow.is_ready


def up(workspace: Workspace, params: Params, progress: OnWaiting = lambda _: None) -> Services:
    """Start the embedded servers that are not running yet and wait until all answer; doing it again is harmless.

    Args:
        workspace: whose servers.
        params: `params.services` has the ports.
        progress: told what is waited for.

    Raises:
        ServiceError: a port is taken, a server died or never answered, or a server given by the environment is silent.
        StorageError: the disk is full.
    """
    workspace, params = homes.at_home(workspace, params)
    wanted = servers.known(params)
    for server in wanted:
        if not server.is_embedded and not _answers(server.health, EXTERNAL_PATIENCE_S):
            raise ServiceError(
                f"{server.title} at {server.page} does not answer. The address comes from the environment: start that "
                f"server, or unset {servers.VARIABLES[server.name]} to use the embedded one."
            )
    embedded = [server for server in wanted if server.is_embedded]
    if embedded:
        with _lock(workspace):
            _start(workspace, params, embedded, progress)
    return status(workspace, params)


def keep(workspace: Workspace, params: Params, helpers: Mapping[str, Sequence[str]]) -> None:
    """Have the supervisor keep these helpers of the servers alive, and no others; `up` comes first.

    They start in a folder inside the workspace, know the addresses of the servers, and are stopped before these.

    Args:
        workspace, params: as for `up`.
        helpers: name -> arguments of this Python.

    Raises:
        StorageError: the disk is full.
    """
    workspace, params = homes.at_home(workspace, params)
    folder = workspace.services_dir
    with _lock(workspace):
        running = supervision.processes(folder).keys()
        if not helpers and not running:
            return
        unwanted = running - servers.VARIABLES.keys() - helpers.keys()
        programs = []
        for name, arguments in helpers.items():
            (folder / name).mkdir(exist_ok=True)
            how = "KILL" if name == WORKER else "TERM"
            programs.append(Program(name, tuple(arguments), folder / name, servers.KEPT_FOR_HELPERS, 200, how))
        supervision.apply(folder, programs, servers.own_environment(workspace, params), unwanted)


def stop_flows(workspace: Workspace) -> list[str]:
    """Stop the helpers, then the flows that the worker started; returns the ids of their runs. The servers stay up."""
    workspace = homes.home(workspace)
    folder = workspace.services_dir
    if not folder.is_dir():
        return []
    with _lock(workspace):
        supervision.stop_programs(folder, supervision.processes(folder).keys() - servers.VARIABLES.keys())
        run_ids = flow_runs(workspace)
        orphans.stop(orphans.find(str(folder), FLOW), patience_s=FLOW_PATIENCE_S)
    return sorted(run_ids)


def flow_runs(workspace: Workspace) -> set[str]:
    """The ids of the runs that a worker here has started a process for; they may not have begun yet."""
    return orphans.carried(str(homes.home(workspace).services_dir), FLOW, "PREFECT__FLOW_RUN_ID")


def stop_learning_by_hand(workspace: Workspace) -> list[int]:
    """Stop what learns in this workspace without a worker, or waits to; returns the process ids. It can be resumed."""
    learning = orphans.holders(workspace.learning_lock_path)
    orphans.stop(learning, patience_s=FLOW_PATIENCE_S)
    return [process.pid for process in learning]


def down(workspace: Workspace) -> None:
    """Stop what `up` started in this workspace, whatever became of it since; fine when nothing runs.

    So it is with what was started in a checkout of it that has been deleted.

    Raises:
        ServiceError: a process can't be stopped.
        StorageError: the folder can't be written.
    """
    workspace = homes.home(workspace)
    for folder in homes.deserted(workspace):
        supervision.stop(folder)
    if workspace.services_dir.is_dir():
        with _lock(workspace):
            supervision.stop(workspace.services_dir)


def status(workspace: Workspace, params: Params) -> Services:
    """Both servers as they are now; asks each once, starts nothing."""
    workspace, params = homes.at_home(workspace, params)
    running = supervision.processes(workspace.services_dir)
    prefect, mlflow = (_look(workspace, server, running) for server in servers.known(params))
    helpers = {name: state.pid for name, state in sorted(running.items()) if name not in servers.VARIABLES}
    return Services(prefect, mlflow, helpers)


def registry_uri_at_rest(workspace: Workspace, params: Params) -> str:
    """Where to read the registry while MLflow's embedded server is down: `sqlite:///` and the absolute path of its
    database, which need not exist yet; the user's own where MLFLOW_BACKEND_STORE_URI names one.

    Raises:
        ServiceError: the server last ran on another database.
    """
    workspace = homes.home(workspace)
    databases.check(workspace, "mlflow")
    return databases.given("mlflow") or f"sqlite:///{workspace.services_dir / 'mlflow' / 'mlflow.db'}"


def _start(workspace: Workspace, params: Params, wanted: list[Server], progress: OnWaiting) -> None:
    """Bring `wanted` up under the supervisor and wait for them; the caller holds the lock."""
    folder = workspace.services_dir
    programs = [servers.program(workspace, server) for server in wanted]
    running = supervision.processes(folder)
    if not running:
        for left in (folder, *homes.deserted(workspace)):  # by a killed supervisor, or in a deleted checkout
            supervision.stop(left)
    stopped = [server for server in wanted if server.name not in running]
    for server in stopped:
        databases.check(workspace, server.name)
        supervision.check_port(servers.HOST, server.port, f"{server.title}'s", server.params_key)
    supervision.apply(folder, programs, servers.own_environment(workspace, params))
    try:
        _wait(workspace, wanted, progress)
    except BaseException:
        if not running:
            supervision.stop(folder)
        raise
    for server in stopped:
        databases.remember(workspace, server.name)


def _wait(workspace: Workspace, wanted: list[Server], progress: OnWaiting) -> None:
    """Return once every server answers.

    Raises:
        ServiceError: one died meanwhile, or did not answer in time; the message ends with its log's last lines.
    """
    began = time.monotonic()
    waiting = {server.name: server for server in wanted}
    pids: dict[str, int] = {}
    while waiting:
        elapsed_s = time.monotonic() - began
        states = supervision.processes(workspace.services_dir)
        for name, server in list(waiting.items()):
            state = states.get(name, supervision.GONE)
            died = state.has_failed or (state.pid and pids.setdefault(name, state.pid) != state.pid)
            if died or elapsed_s > PATIENCE_S:
                what = "stopped while starting" if died else f"did not answer within {PATIENCE_S:.0f} s"
                words = supervision.last_words(workspace.services_dir, name)
                raise ServiceError(f"{server.title}'s server {what}. {words}")
            if state.is_running and _answers(server.health, patience_s=2.0):
                del waiting[name]
        if waiting:
            progress(f"waiting for {' and '.join(s.title for s in waiting.values())} ({elapsed_s:.0f} s)")
            time.sleep(0.3)


def _look(workspace: Workspace, server: Server, running: Mapping[str, supervision.State]) -> Service:
    state = running.get(server.name, supervision.GONE)
    is_ours = not server.is_embedded or state.is_running
    ready = is_ours and _answers(server.health, patience_s=2.0)
    if not server.is_embedded:
        return Service(server.name, server.page, False, ready)
    log_path = supervision.log_path(workspace.services_dir, server.name)
    auth_path = servers.auth_path(workspace) if server.name == "prefect" else None
    return Service(server.name, server.page, True, ready, state.pid or None, log_path, auth_path)


def _answers(url: str, patience_s: float) -> bool:
    """Whether a server answers there at all; an address that is not http (a bare database) counts as answering."""
    if not url.startswith(("http://", "https://")):
        return True
    from httpx import HTTPError

    try:
        code = addresses.ask("GET", url, patience_s).status_code
    except HTTPError:
        return False
    return code < 400 or code in (401, 403)  # it is there, and wants to know who asks


def in_turn(workspace: Workspace, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
    """Hold off every other `lorax up` and `lorax down` of the workspace for the block, which does several things here.

    Args:
        workspace: whose servers.
        on_wait: called if there is one, before waiting.

    Raises:
        StorageError: the lock can't be written.
    """
    return locked(workspace.services_dir / "turn.lock", on_wait)


@contextmanager
def _lock(workspace: Workspace) -> Iterator[None]:
    """One change at a time to what runs in a workspace."""
    with storage_errors(workspace.services_dir), locked(workspace.services_dir / "lock"):
        yield
