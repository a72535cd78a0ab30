"""Events of lineage, as a receiver on loopback gets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorax import lineage
from lorax.cli import app
from lorax.data import versions
from lorax.workspace import Workspace
from tests.conftest import write_task_files
from tests.lineage_receiver import receiving

pytest.importorskip("openlineage.client")  # of the extra `dev`


def land(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *options: str, code: int = 0) -> str:
    monkeypatch.chdir(workspace.root)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    if not (tmp_path / "raw").exists():
        write_task_files(tmp_path / "raw")
    done = CliRunner().invoke(app, ["land", str(tmp_path / "raw"), "--task", "alpha", *options])
    assert done.exit_code == code, done.output
    return done.stderr


def test_a_landing_tells_the_task_and_the_data_revision_that_it_made(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as received:
        monkeypatch.setenv("OPENLINEAGE_URL", received.address)
        land(workspace, tmp_path, monkeypatch)
    [task] = versions.landed(workspace)
    made = {"data/alpha": task.digest, "data": versions.revision(workspace).digest}
    assert received.told("land") == [("land", "START", {}, {}), ("land", "COMPLETE", {}, made)]
    assert len({event["run"]["runId"] for event in received.events}) == 1


def test_a_landing_that_is_refused_is_told_as_failed(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as received:
        monkeypatch.setenv("OPENLINEAGE_URL", received.address)
        (tmp_path / "raw").mkdir()
        land(workspace, tmp_path, monkeypatch, code=1)
    assert [state for _, state, _, _ in received.told("land")] == ["START", "FAIL"]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "no address"])
def test_a_receiver_that_is_not_there_costs_one_line_and_the_landing_is_whole(
    address: str,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", address)
    land(workspace, tmp_path, monkeypatch)
    assert [task.name for task in versions.landed(workspace)] == ["alpha"]
    [line] = [record.getMessage() for record in caplog.records if record.name == lineage.__name__]
    assert line.startswith("the lineage of 'land' was not told: ")
    assert "\n" not in line


def test_a_receiver_that_refuses_is_left_alone_for_the_rest_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving(status=400) as received:
        monkeypatch.setenv("OPENLINEAGE_URL", received.address)
        with lineage.run("land"):
            pass
    assert len(received.events) == 1
