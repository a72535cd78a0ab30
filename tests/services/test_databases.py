"""Which databases the servers run on: settings with passwords, which a shell may lack."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorax.errors import ServiceError
from lorax.params import Params
from lorax.services import databases, embedded
from lorax.workspace import Workspace
from tests.mlflow_server import free_port

pytestmark = pytest.mark.slow

ELSEWHERE = "sqlite:////srv/mlflow.db"  # stands for any database with an address; its driver is always there


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*databases.VARIABLES.values(), "PREFECT_API_DATABASE_CONNECTION_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_shell_without_the_settings_neither_starts_nor_reads_an_empty_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    params = Params.model_validate({"services": {"prefect_port": free_port(), "mlflow_port": free_port()}})
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", ELSEWHERE)
    databases.remember(workspace, "mlflow")
    databases.check(workspace, "mlflow")
    monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI")
    for use in (lambda: embedded.up(workspace, params), lambda: embedded.registry_uri_at_rest(workspace, params)):
        with pytest.raises(ServiceError, match="MLFLOW_BACKEND_STORE_URI as before"):
            use()
    assert not (workspace.services_dir / "mlflow" / "mlflow.db").exists()


def test_leaving_sqlite_is_asked_about_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    databases.remember(Workspace(tmp_path), "prefect")
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////srv/prefect.db")
    with pytest.raises(ServiceError, match="last ran on SQLite in work/services"):
        databases.check(Workspace(tmp_path), "prefect")


def test_what_the_servers_start_takes_their_own_files_for_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, address in databases.defaults().items():
        monkeypatch.setenv(name, address)
    assert [databases.given(server) for server in databases.VARIABLES] == ["", ""]
    assert len(databases.defaults()) == 2


def test_no_password_is_remembered_or_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://lorax:secret@db.example/prefect")
    databases.remember(workspace, "prefect")
    remembered = (workspace.services_dir / "databases.json").read_text()
    assert "postgresql://lorax@db.example/prefect" in remembered
    assert "secret" not in remembered
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://lorax:secret@other/prefect")
    with pytest.raises(ServiceError) as error:
        databases.check(workspace, "prefect")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql+pg8000://lorax:secret@db.example/mlflow", "needs the Python package 'pg8000'"),
        ("secret", "is no database's address"),
        ("nonsense://lorax:secret@db.example/mlflow", "is no database's address"),
    ],
)
def test_an_address_that_can_not_work_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", address)
    with pytest.raises(ServiceError, match=said) as error:
        databases.check(Workspace(tmp_path), "mlflow")
    assert "secret" not in str(error.value)
