"""Where the embedded servers keep what they know: SQLite files in the workspace, or the databases that settings name.

Settings are environment variables, since they hold passwords. Therefore a shell without them would quietly start the
servers on empty SQLite files, and everything would be learned anew. So that this can't happen, the workspace remembers
which databases its servers last ran on, without the passwords.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lorax.errors import ServiceError
from lorax.extras import install
from lorax.storage import write_whole
from lorax.workspace import Workspace

VARIABLES = {"prefect": "PREFECT_SERVER_DATABASE_CONNECTION_URL", "mlflow": "MLFLOW_BACKEND_STORE_URI"}
_OLDER_NAMES = {"prefect": "PREFECT_API_DATABASE_CONNECTION_URL"}
_DEFAULTS = {"prefect": "sqlite+aiosqlite:///prefect.db", "mlflow": "sqlite:///mlflow.db"}
"""Relative to the folder that the server is started in, so any workspace path works."""

_TITLES = {"prefect": "Prefect", "mlflow": "MLflow"}
_OWN = "SQLite in work/services"


def given(server: str) -> str:
    """The database's address that the environment names for `server`; '' for the workspace's own SQLite file."""
    found = os.environ.get(VARIABLES[server]) or os.environ.get(_OLDER_NAMES.get(server, ""), "")
    return "" if found == _DEFAULTS[server] else found  # what the servers start has their environment


def defaults() -> dict[str, str]:
    """The variables that keep those servers in the workspace whose database the environment does not name."""
    return {VARIABLES[server]: address for server, address in _DEFAULTS.items() if not given(server)}


def check(workspace: Workspace, server: str) -> None:
    """Make sure that `server`, which is about to be started or read without, has the database that it last had.

    Raises:
        ServiceError: the environment names another database, none, no address at all, or one without a driver.
    """
    now, before = _place(server), _remembered(workspace).get(server)
    if before in (None, now):
        return
    raise ServiceError(
        f"{_TITLES[server]}'s server last ran on {before}, but would now run on {now}, where it knows nothing of that. "
        f"Set {VARIABLES[server]} as before; to change databases on purpose, remove {_path(workspace)} first."
    )


def remember(workspace: Workspace, server: str) -> None:
    """Note which database `server` runs on."""
    places = _remembered(workspace)
    if places.get(server) != _place(server):
        write_whole(_path(workspace), json.dumps(places | {server: _place(server)}, indent=1) + "\n")


def _place(server: str) -> str:
    """The database in words that may be written down: no password, and whatever driver is used to reach it."""
    address = given(server)
    if not address:
        return _OWN
    url = check_address(VARIABLES[server], address)
    bare = url.set(drivername=url.get_backend_name(), query={})
    return str(bare.render_as_string()).replace(":***@", "@")


def check_address(variable: str, address: str) -> Any:
    """SQLAlchemy's URL of a database's address.

    Args:
        variable: where it comes from.
        address: what was given.

    Raises:
        ServiceError: it is none, or its driver is not installed.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if not address.isprintable() or set(address) & set('"\\'):
            raise ValueError("it is written into no configuration as it is")
        url = make_url(address)
        url.get_dialect().import_dbapi()
    except ModuleNotFoundError as error:
        raise ServiceError(
            f"{variable} names a database that needs the Python package {error.name!r}; "
            f"for PostgreSQL: {install('postgres')}."
        ) from None
    except (SQLAlchemyError, ValueError):  # their text holds the address with the password, or parts of it
        raise ServiceError(
            f"{variable} is no database's address; expected as in postgresql://USER:PASSWORD@HOST/NAME "
            "(what is not a letter or a digit in the password as %XX)."
        ) from None
    return url


def _path(workspace: Workspace) -> Path:
    return workspace.services_dir / "databases.json"


def _remembered(workspace: Workspace) -> dict[str, str]:
    path = _path(workspace)
    try:
        places = json.loads(path.read_bytes())
        if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
            raise ValueError("expected each server's database")
        return places
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ServiceError(f"{path} can't be read ({error}); remove it if the settings are right.") from error
