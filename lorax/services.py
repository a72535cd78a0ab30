"""The embedded engines: Prefect's and MLflow's server on loopback, kept alive by supervisord.

Everything they hold lies under `work/services` of the workspace: SQLite databases, artifacts, logs, and supervisord's
configuration. A server whose address the user gives by PREFECT_API_URL or MLFLOW_TRACKING_URI is used, not started.
Nothing here imports Prefect or MLflow: `environment` is what a process sets before it does.
"""

from __future__ import annotations

import fcntl
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lorax import databases, supervision
from lorax.errors import ServiceError, StorageError
from lorax.params import Params
from lorax.supervision import Program
from lorax.workspace import Workspace

HOST = "127.0.0.1"
PATIENCE_S = 600.0
"""How long a server may take to answer: 16 to 18 seconds as a rule, minutes on a machine that is busy with other work.
One that died is noticed at once, so nobody waits this long in vain."""

EXTERNAL_PATIENCE_S = 10.0
"""How long a server that the environment names may take to answer."""

Progress = Callable[[str], None]
"""Called with one line for people, again and again while something is waited for."""


@dataclass(frozen=True)
class Service:
    """One server: its page's address, whether this workspace runs it, whether it answers."""

    name: str
    address: str
    is_embedded: bool
    is_ready: bool
    pid: int | None = None
    log_path: Path | None = None


@dataclass(frozen=True)
class Services:
    """Both servers as they are at one moment, and the process id of each helper that the supervisor runs (0: none)."""

    prefect: Service
    mlflow: Service
    helpers: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        return self.prefect.is_ready and self.mlflow.is_ready


@dataclass(frozen=True)
class _Server:
    """What is known of a server before it runs; `api` is what clients are given, `health` says that it is up."""

    name: str
    title: str
    params_key: str
    port: int
    page: str
    api: str
    health: str
    is_embedded: bool


def up(workspace: Workspace, params: Params, progress: Progress | None = None) -> Services:
    """Start the embedded servers that are not running yet and wait until all answer; doing it again is harmless.

    Args:
        workspace: whose servers.
        params: `params.services` has the ports.
        progress: told what is waited for.

    Raises:
        ServiceError: a port is taken, a server died or never answered, or a server given by the environment is silent.
        StorageError: the disk is full.
    """
    servers = _servers(params)
    for server in servers:
        if not server.is_embedded and not _answers(server.health, EXTERNAL_PATIENCE_S):
            raise ServiceError(
                f"{server.title} at {server.api} does not answer. The address comes from the environment: start that "
                f"server, or unset {_VARIABLES[server.name]} to use the embedded one."
            )
    embedded = [server for server in servers if server.is_embedded]
    if embedded:
        try:
            with _lock(workspace):
                _start(workspace, params, embedded, progress or _silent)
        except OSError as error:
            raise StorageError(error.errno, f"{workspace.services_dir} can't be written: {error.strerror}.") from error
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
    own = environment(workspace, params)
    addresses = {name: own[name] for name in _VARIABLES.values()}
    folder = workspace.services_dir
    try:
        with _lock(workspace):
            unwanted = supervision.processes(folder).keys() - _VARIABLES.keys() - helpers.keys()
            programs = []
            for name, arguments in helpers.items():
                (folder / name).mkdir(exist_ok=True)
                programs.append(Program(name, tuple(arguments), folder / name, addresses, priority=200))
            supervision.apply(folder, programs, _server_environment(workspace, params), unwanted)
    except OSError as error:
        raise StorageError(error.errno, f"{folder} can't be written: {error.strerror}.") from error


def down(workspace: Workspace) -> None:
    """Stop what `up` started in this workspace, whatever became of it since; fine when nothing runs.

    Raises:
        ServiceError: a process can't be stopped.
    """
    if workspace.services_dir.is_dir():
        with _lock(workspace):
            supervision.stop(workspace.services_dir)


def status(workspace: Workspace, params: Params) -> Services:
    """Both servers as they are now; asks each once, starts nothing."""
    running = supervision.processes(workspace.services_dir)
    prefect, mlflow = (_look(workspace, server, running) for server in _servers(params))
    helpers = {name: state.pid for name, state in sorted(running.items()) if name not in _VARIABLES}
    return Services(prefect, mlflow, helpers)


def environment(workspace: Workspace, params: Params) -> dict[str, str]:
    """The variables that a process needs in its environment before it imports Prefect or MLflow."""
    prefect, mlflow = _servers(params)
    variables = {
        **_QUIET,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; the least that Prefect takes
        "PREFECT_API_URL": prefect.api,
        "MLFLOW_TRACKING_URI": mlflow.api,
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "NO_PROXY": _without_proxy(),
        "no_proxy": _without_proxy(),
    }
    if prefect.is_embedded:  # a user's own server may need the user's own profile
        variables["PREFECT_HOME"] = str(workspace.services_dir / "prefect")
    return variables


def registry_uri_at_rest(workspace: Workspace, params: Params) -> str:
    """Where to read the registry while MLflow's embedded server is down: `sqlite:///` and the absolute path of its
    database, which need not exist yet; the user's own where MLFLOW_BACKEND_STORE_URI names one.

    Raises:
        ServiceError: the server last ran on another database.
    """
    databases.check(workspace, "mlflow")
    return databases.given("mlflow") or f"sqlite:///{workspace.services_dir / 'mlflow' / 'mlflow.db'}"


_QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default is pickle
    "GIT_PYTHON_REFRESH": "quiet",
}

_VARIABLES = {"prefect": "PREFECT_API_URL", "mlflow": "MLFLOW_TRACKING_URI"}


def _servers(params: Params) -> tuple[_Server, _Server]:
    return _prefect(params.services.prefect_port), _mlflow(params.services.mlflow_port)


def _prefect(port: int) -> _Server:
    own = f"http://{HOST}:{port}/api"
    api = (os.environ.get("PREFECT_API_URL") or own).rstrip("/")
    page = api.removesuffix("/api")
    return _Server("prefect", "Prefect", "services.prefect_port", port, page, api, f"{api}/health", api == own)


def _mlflow(port: int) -> _Server:
    own = f"http://{HOST}:{port}"
    api = (os.environ.get("MLFLOW_TRACKING_URI") or own).rstrip("/")
    return _Server("mlflow", "MLflow", "services.mlflow_port", port, api, api, f"{api}/health", api == own)


def _program(workspace: Workspace, server: _Server) -> Program:
    """How the supervisor starts `server`; databases are named relative to its folder, so any workspace path works."""
    folder = workspace.services_dir / server.name
    folder.mkdir(parents=True, exist_ok=True)
    address = ("--host", HOST, "--port", str(server.port))
    if server.name == "prefect":
        return Program("prefect", ("-m", "prefect", "server", "start", *address), folder)
    # its stores are named in its environment: an address with a password must not lie in a command line
    return Program("mlflow", ("-m", "mlflow", "server", "--serve-artifacts", *address), folder)


def _server_environment(workspace: Workspace, params: Params) -> dict[str, str]:
    """What the servers themselves run in: the user's environment, less what makes a server act as a client."""
    defaults = {
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        # in memory, a restarted server forgets who holds the one slot for learning
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # no jobs here; it would run several more processes
        "MLFLOW_ARTIFACTS_DESTINATION": "artifacts",
        "MLFLOW_WORKERS": "1",
        **databases.defaults(),
    }
    hidden = {*_VARIABLES.values(), *(name for name in defaults if not os.environ.get(name))}
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    home = {"PREFECT_HOME": str(workspace.services_dir / "prefect")} if _servers(params)[0].is_embedded else {}
    return {**defaults, **kept, **_QUIET, **home}


def _start(workspace: Workspace, params: Params, servers: list[_Server], progress: Progress) -> None:
    """Bring `servers` up under the supervisor and wait for them; the caller holds the lock."""
    folder = workspace.services_dir
    programs = [_program(workspace, server) for server in servers]
    running = supervision.processes(folder)
    if not running:
        supervision.stop(folder)  # what a killed supervisor left behind
    stopped = [server for server in servers if server.name not in running]
    for server in stopped:
        databases.check(workspace, server.name)
        supervision.check_port(HOST, server.port, f"{server.title}'s", server.params_key)
    supervision.apply(folder, programs, _server_environment(workspace, params))
    try:
        _wait(workspace, servers, progress)
    except BaseException:
        if not running:
            supervision.stop(folder)
        raise
    for server in stopped:
        databases.remember(workspace, server.name)


def _wait(workspace: Workspace, servers: list[_Server], progress: Progress) -> None:
    """Return once every server answers.

    Raises:
        ServiceError: one died meanwhile, or did not answer in time; the message ends with its log's last lines.
    """
    began = time.monotonic()
    waiting = {server.name: server for server in servers}
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


def _look(workspace: Workspace, server: _Server, running: Mapping[str, supervision.State]) -> Service:
    state = running.get(server.name, supervision.GONE)
    is_ours = not server.is_embedded or state.is_running
    ready = is_ours and _answers(server.health, patience_s=2.0)
    if not server.is_embedded:
        return Service(server.name, server.page, False, ready)
    log_path = supervision.log_path(workspace.services_dir, server.name)
    return Service(server.name, server.page, True, ready, state.pid or None, log_path)


def _answers(url: str, patience_s: float) -> bool:
    """Whether a server answers there at all; an address that is not http (a bare database) counts as answering."""
    if not url.startswith(("http://", "https://")):
        return True
    handlers = [urllib.request.ProxyHandler({})] if f"//{HOST}:" in url else []
    try:
        urllib.request.build_opener(*handlers).open(url, timeout=patience_s).close()
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it is there, and wants to know who asks
    except OSError:
        return False
    return True


@contextmanager
def _lock(workspace: Workspace) -> Iterator[None]:
    """One `up` or `down` at a time in a workspace; the kernel lets go of the lock when its holder dies."""
    workspace.services_dir.mkdir(parents=True, exist_ok=True)
    with (workspace.services_dir / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _without_proxy() -> str:
    """A proxy that the environment names must not be asked for loopback addresses."""
    given = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    return given if HOST in given else ",".join(filter(None, (given, HOST, "localhost")))


def _silent(_: str) -> None:
    return
