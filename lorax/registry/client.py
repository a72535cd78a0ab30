"""The connection to MLflow: opened late (importing it takes seconds), quick to give up, its errors turned into ours.

Without a server its database is looked at, and never changed: MLflow makes its tables, and with SQLite the file, just
to look; and it puts the address, password and all, into errors.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lorax.addresses import unproxied, without_password, without_password_of
from lorax.errors import LoraxError, RegistryError, StorageError
from lorax.extras import install

_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_MANNERS = {
    _RETRIES: "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""By default MLflow waits four minutes for a server that is not there, and prints. What the user has set stays."""

_PROBE_TIMEOUT_S = 5
_MESSAGE_LIMIT = 400
_SERVER_FAILED = "too many 500 error responses"
"""What the HTTP client says after its last try."""


def is_server(uri: str) -> bool:
    """Whether `uri` names an MLflow server, not the database below it."""
    return uri.startswith(("http://", "https://"))


def is_missing_database(uri: str) -> bool:
    """Whether `uri` names a database that no server has used yet; MLflow would make its tables just to look.

    Raises:
        RegistryError: the database can't be reached.
    """
    if is_server(uri):
        return False
    with mlflow_errors(uri, "look at its database"):
        return is_empty(uri)


def connect(uri: str) -> Any:
    """An `MlflowClient` of the server or, for reading only, of the database at `uri`.

    Raises:
        RegistryError: the server does not answer.
    """
    for name, value in _MANNERS.items():
        os.environ.setdefault(name, value)
    os.environ.update(unproxied())
    if is_server(uri):
        _require_answer(uri)
    with mlflow_errors(uri, "open it"):
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it logs tracebacks of errors that are raised too
        return MlflowClient(tracking_uri=uri if is_server(uri) else read_only(uri))


@contextmanager
def mlflow_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn what MLflow, its HTTP client or its database raise inside the block into a RegistryError.

    Args:
        uri: the address that the block talks to.
        doing: what was tried, as in "could not <doing>".
    """
    try:
        yield
    except LoraxError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageError(error.errno, f"disk full: could not {doing}. Free space and run again.") from error
        raise _registry_error(uri, doing, error) from error
    except ModuleNotFoundError as error:
        if is_server(uri):
            raise
        raise RegistryError(
            f"could not {doing}: the database {without_password(uri)} needs the Python package "
            f"{error.name!r}; for PostgreSQL: {install('postgres')}."
        ) from error
    except Exception as error:
        if not _is_mlflow_error(error):
            raise
        raise _registry_error(uri, doing, error) from error


def at_server(uri: str, command: str) -> str:
    """A command of MLflow's as it must be typed to reach this server; a password is not shown, nor is it needed where
    the user's own MLFLOW_TRACKING_URI brought it here.
    """
    return f"MLFLOW_TRACKING_URI={uri} {command}" if without_password(uri) == uri else command


@contextmanager
def sent_once() -> Iterator[None]:
    """Have MLflow's client send each request of the block once, for it makes something.

    By itself it sends any request again whose answer was lost, as when the server is killed after it did what was
    asked: then there are two. An error instead makes the caller be called again, and that looks first.
    """
    before = os.environ.get(_RETRIES)
    os.environ[_RETRIES] = "0"
    try:
        yield
    finally:
        os.environ.pop(_RETRIES, None)
        os.environ.update({_RETRIES: before} if before is not None else {})


def upsert(setter: Callable[..., Any], *arguments: str) -> None:
    """Call one of MLflow's setters. It looks before it inserts, so of two who set the same at once one is refused; then
    it is there, and is set again.
    """
    from mlflow.exceptions import MlflowException

    try:
        setter(*arguments)
    except MlflowException as error:
        if error.error_code != "BAD_REQUEST":
            raise
        setter(*arguments)


def is_missing(error: Exception) -> bool:
    """Whether MLflow raised `error` because the thing asked for does not exist."""
    return getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


def _require_answer(uri: str) -> None:
    if not _answers(uri):
        raise RegistryError(
            f"no MLflow server answers at {without_password(uri)}. Start it with 'lorax up', "
            "or correct the address (MLFLOW_TRACKING_URI, services.mlflow_port in params.yaml)."
        )


def _answers(uri: str) -> bool:
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=_PROBE_TIMEOUT_S)
    except requests.RequestException:
        return False
    return True


def _is_mlflow_error(error: Exception) -> bool:
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException | requests.RequestException | sqlalchemy.exc.SQLAlchemyError)


def _registry_error(uri: str, doing: str, error: Exception) -> RegistryError:
    if is_server(uri) and not _answers(uri):
        return RegistryError(
            f"could not {doing}: the MLflow server at {without_password(uri)} stopped answering. "
            "Start it with 'lorax up' and run the command again; it continues where it was."
        )
    if _SERVER_FAILED in str(error):
        return RegistryError(
            f"could not {doing}: the MLflow server at {without_password(uri)} failed at it. Is its disk full? Its log "
            "says why (that of the one that 'lorax up' runs: work/services/logs/mlflow.log). Mend that and run the "
            "command again; it continues where it was."
        )
    found = " ".join(without_password_of(uri, str(error)).split())[:_MESSAGE_LIMIT]
    mend = "" if is_server(uri) else " Start the server with 'lorax up': it also mends a database cut off in a write."
    where = without_password(uri)
    return RegistryError(f"could not {doing}: MLflow at {where} says: {found or type(error).__name__}.{mend}")


_SQLITE = "sqlite:///"
_POSTGRESQL = "postgresql"
_PATIENCE_S = 10


def is_empty(uri: str) -> bool:
    """Whether no server has made MLflow's tables there yet."""
    if uri.startswith(_SQLITE):
        return not Path(uri.removeprefix(_SQLITE)).is_file()
    from sqlalchemy import create_engine, inspect

    engine = create_engine(read_only(uri))
    try:
        return not inspect(engine).has_table("registered_models")
    finally:
        engine.dispose()


def read_only(uri: str) -> str:
    """The address for MLflow's client, such that the database refuses to be written.

    SQLite's driver is named too, since MLflow takes what follows a plain `sqlite:///` for a path and makes its folders.
    """
    from sqlalchemy.engine import URL, make_url  # it knows how its own version wants '%', '#' and '?' written

    if uri.startswith(_SQLITE):
        path = f"file:{quote(uri.removeprefix(_SQLITE))}"
        url = URL.create("sqlite+pysqlite", database=path, query={"mode": "ro", "uri": "true"})
    else:
        url = make_url(uri)
        if url.get_backend_name() == _POSTGRESQL:
            url = url.update_query_dict(
                {"options": "-c default_transaction_read_only=on", "connect_timeout": str(_PATIENCE_S)}
            )
    return url.render_as_string(hide_password=False)
