"""Prefect's and MLflow's server before they run: address, command, and what the environment must hold.

An address that the environment names is somebody else's server, even where it equals the workspace's own: a clone on
the same machine has the same ports in its params.yaml, and must not start empty servers when the shared ones are down.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from lorax import addresses
from lorax.errors import ServiceError
from lorax.origins import LOOPBACK
from lorax.params import Params
from lorax.services import databases, homes, orphans
from lorax.services.configuration import Program
from lorax.services.homes import EMBEDDED_VARIABLE as EMBEDDED_VARIABLE  # for readers of this room's interface
from lorax.services.homes import VARIABLES as VARIABLES  # likewise
from lorax.storage import write_whole
from lorax.workspace import Workspace

HOST = "127.0.0.1"

_AUTH_FILE = "auth-string"

AUTH_VARIABLE = "PREFECT_API_AUTH_STRING"
"""What Prefect's clients send to a server that asks who they are."""

KEPT_FOR_HELPERS = {name: f"LORAX_KEPT_{name}" for name in (*VARIABLES.values(), EMBEDDED_VARIABLE)}
"""What helpers know and servers must not, and under what names the supervisor's environment keeps it."""

_QUIET = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # the default is pickle
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Server:
    """What is known of a server before it runs.

    `page` is what people are shown, `api` what clients are given, `health` says that it is up; the last two may hold a
    password.
    """

    name: str
    title: str
    params_key: str
    port: int
    page: str
    api: str
    health: str
    is_embedded: bool


def environment(workspace: Workspace, params: Params) -> dict[str, str]:
    """The variables that a process needs in its environment before it imports Prefect or MLflow."""
    workspace, params = homes.at_home(workspace, params)
    prefect, mlflow = known(params)
    variables = {
        **_QUIET,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; the least that Prefect takes
        "PREFECT_API_URL": prefect.api,
        "MLFLOW_TRACKING_URI": mlflow.api,
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        EMBEDDED_VARIABLE: ",".join(server.name for server in (prefect, mlflow) if server.is_embedded),
        **addresses.unproxied(),
    }
    if prefect.is_embedded:  # a user's own server may need the user's own profile
        home = prefect_home(workspace)
        variables["PREFECT_HOME"] = str(home)
        if (home / _AUTH_FILE).is_file():
            variables[AUTH_VARIABLE] = auth_string(home)
    return variables


def prefect_home(workspace: Workspace) -> Path:
    """Where the embedded Prefect server runs and keeps what it knows."""
    return workspace.services_dir / "prefect"


def auth_path(workspace: Workspace) -> Path:
    """Of the file that holds the embedded Prefect server's auth string, made by the first `up`."""
    return prefect_home(workspace) / _AUTH_FILE


def auth_string(home: Path) -> str:
    """What the embedded Prefect server that runs in `home` asks for; a random one is made where there is none.

    Raises:
        ServiceError: the file is damaged.
        StorageError: it can't be written.
    """
    path = home / _AUTH_FILE
    if not path.is_file():
        write_whole(path, f"{secrets.token_urlsafe(32)}\n", is_private=True)
    secret = path.read_text(errors="replace").strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        raise ServiceError(
            f"{path} holds no auth string for Prefect's server. Remove it, then run 'lorax down' and 'lorax up'."
        )
    return secret


def known(params: Params) -> tuple[Server, Server]:
    """Prefect's and MLflow's server: those that the environment names, else the workspace's own.

    Raises:
        ServiceError: the environment names something that is no address.
    """
    return _prefect(params.services.prefect_port), _mlflow(params.services.mlflow_port)


def _prefect(port: int) -> Server:
    own = f"http://{HOST}:{port}/api"
    api, is_embedded = _address("prefect", own)
    page = addresses.without_password(api).removesuffix("/api")
    return Server("prefect", "Prefect", "services.prefect_port", port, page, api, f"{api}/health", is_embedded)


def _mlflow(port: int) -> Server:
    own = f"http://{HOST}:{port}"
    api, is_embedded = _address("mlflow", own)
    page = addresses.without_password(api)
    return Server("mlflow", "MLflow", "services.mlflow_port", port, page, api, f"{api}/health", is_embedded)


def _address(name: str, own: str) -> tuple[str, bool]:
    """The address of a server, and whether it is the workspace's own.

    Raises:
        ServiceError: the environment names something that is no address.
    """
    variable = VARIABLES[name]
    given = (os.environ.get(variable) or "").rstrip("/")
    if name == "mlflow" and addresses.is_database(given):
        databases.check_address(variable, given)
    elif given:
        addresses.check_server(variable, given, own)
    is_ours = given == own and homes.is_set_by_us(name)
    return given or own, not given or is_ours


def program(workspace: Workspace, server: Server) -> Program:
    """How the supervisor starts `server`; databases are named relative to its folder, so any workspace path works."""
    folder = workspace.services_dir / server.name
    folder.mkdir(parents=True, exist_ok=True)
    if server.name == "prefect":
        auth_string(folder)
        return Program("prefect", ("-m", "flows.processes", "server", str(server.port)), folder)
    return Program("mlflow", ("-m", "lorax.registry.server", str(server.port)), folder)


def own_environment(workspace: Workspace, params: Params) -> dict[str, str]:
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
    hidden = {*VARIABLES.values(), *(name for name in defaults if not os.environ.get(name))}
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    marked = {orphans.WORKSPACE_VARIABLE: homes.mark(workspace)}
    own = environment(workspace, params)
    marked |= {kept_as: own[name] for name, kept_as in KEPT_FOR_HELPERS.items()}
    loud = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING"}  # the command that starts them keeps its own quiet
    direct = addresses.unproxied()
    return {**defaults, **kept, **marked, **direct, **_QUIET, **loud, **_prefects_own(workspace, known(params)[0])}


def _prefects_own(workspace: Workspace, server: Server) -> dict[str, str]:
    """Where the embedded Prefect server keeps things, where its page asks (by itself at 4200, whatever its port), and
    by what names of this machine the page may have been opened."""
    if not server.is_embedded:
        return {}
    return {
        "PREFECT_HOME": str(prefect_home(workspace)),
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(server.port),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{name}:{server.port}" for name in LOOPBACK),
    }
