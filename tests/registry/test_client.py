"""MLflow's database looked at without its server, and how what its server gets wrong is told."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from lorax.addresses import without_password
from lorax.errors import RegistryError
from lorax.registry import Registry
from lorax.registry.client import is_empty, mlflow_errors, read_only
from tests.mlflow_server import Server

pytestmark = pytest.mark.slow

_PROOFS = Path(__file__).parents[2] / "proofs"


def test_a_server_that_fails_is_told_from_one_that_refuses_and_its_log_is_named(server: Server) -> None:
    failed = requests.exceptions.RetryError(
        "HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: "
        f"{'/long' * 100} (Caused by ResponseError('too many 500 error responses'))"
    )
    with (
        pytest.raises(RegistryError, match=r"could not store it: the MLflow server .* disk full\? .*mlflow.log"),
        mlflow_errors(server.uri, "store it"),
    ):
        raise failed


def test_a_database_without_tables_stays_without(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    sqlite3.connect(path).close()
    path.touch()
    for uri in (f"sqlite:///{tmp_path / 'absent.db'}", f"sqlite+pysqlite:///{path}"):
        assert Registry(uri, "lorax").champion() is None
    assert path.stat().st_size == 0
    assert not (tmp_path / "absent.db").exists()


def test_a_driver_that_is_missing_is_named_and_the_password_is_not() -> None:
    uri = "postgresql+pg8000://lorax:secret@db.example/mlflow"
    with pytest.raises(RegistryError, match="'pg8000'") as error:
        Registry(uri, "lorax").versions()
    assert "secret" not in str(error.value)
    assert without_password(uri) == "postgresql+pg8000://db.example/mlflow"


@pytest.fixture(scope="module")
def empty_postgresql() -> Iterator[str]:
    if importlib.util.find_spec("psycopg") is None or not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("needs Debian's postgresql and the extra 'postgres'")
    sys.path.insert(0, str(_PROOFS))
    from postgres import postgres

    with postgres() as server:
        yield server.url("mlflow")


def test_postgresql_is_looked_at_and_refuses_to_be_written(empty_postgresql: str) -> None:
    assert Registry(empty_postgresql, "lorax").versions() == []
    assert is_empty(empty_postgresql)
    with pytest.raises(SQLAlchemyError, match="read-only"), create_engine(read_only(empty_postgresql)).begin() as link:
        link.execute(text("create table one (two int)"))
