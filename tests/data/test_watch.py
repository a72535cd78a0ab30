from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from lorax.data import versions, watch
from lorax.data.landing import land
from lorax.data.layout import READY
from lorax.data.watch import DropFolder, OnReport
from lorax.errors import ContractError, DataVersionError, StorageError
from lorax.stream import PinnedTask
from lorax.workspace import Workspace
from tests.conftest import WriteTask

pytestmark = pytest.mark.slow


def drop(root: Path, name: str, at: int = 1) -> Path:
    """A data set that is complete since `at`."""
    (root / name / "train").mkdir(parents=True)
    (root / name / "train" / "x.png").write_text("x")
    (root / name / READY).touch()
    os.utime(root / name / READY, ns=(at, at))
    return root / name


class Landing:
    """Stands for a landing: notes what it was asked, and raises `error` if there is one."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None

    def __call__(self, folder: Path, task: str, on_report: OnReport) -> PinnedTask:
        self.asked.append(task)
        if self.error:
            raise self.error
        return PinnedTask(task, "digest")


def test_complete_data_sets_land_in_the_order_of_completion_and_are_consumed(tmp_path: Path) -> None:
    drop(tmp_path, "late", at=2), drop(tmp_path, "early", at=1)
    (tmp_path / "incomplete" / "train").mkdir(parents=True)
    landing = Landing()
    folder = DropFolder(tmp_path, landing)
    assert [outcome.landed and outcome.landed.name for outcome in folder.look()] == ["early", "late"]
    assert [path.name for path in tmp_path.iterdir()] == ["incomplete"]
    assert list(folder.look()) == []


def test_what_is_refused_stays_with_a_report_and_is_not_tried_again_until_it_changes(tmp_path: Path) -> None:
    place, landing = drop(tmp_path, "bad"), Landing()
    landing.error = ContractError("not so")
    [outcome] = DropFolder(tmp_path, landing).look()
    assert (outcome.landed, outcome.is_refused, outcome.error) == (None, True, "not so")
    assert json.loads((tmp_path / "bad.report.json").read_text())["error"] == "not so"
    assert list(DropFolder(tmp_path, landing).look()) == []  # even after a restart
    landing.error = None
    (place / READY).touch()
    [outcome] = DropFolder(tmp_path, landing).look()
    assert outcome.landed
    assert list(tmp_path.iterdir()) == []


def test_other_failures_are_tried_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, landing = drop(tmp_path, "task"), Landing()
    landing.error = DataVersionError("no push")
    folder = DropFolder(tmp_path, landing)
    assert [outcome.is_refused for outcome in folder.look()] == [False]
    assert list(folder.look()) == []
    assert place.exists()
    monkeypatch.setattr(watch, "RETRY_S", 0.0)
    folder._retry_at.clear()
    landing.error = None
    assert [outcome.landed for outcome in folder.look()] == [PinnedTask("task", "digest")]


def test_what_is_added_while_it_lands_is_not_removed(tmp_path: Path) -> None:
    place = drop(tmp_path, "task")

    def add_and_land(folder: Path, task: str, on_report: OnReport) -> PinnedTask:
        (folder / "train" / "new.png").write_text("new")
        return PinnedTask(task, "digest")

    assert len(list(DropFolder(tmp_path, add_and_land).look())) == 1
    assert (place / "train" / "new.png").exists()


def test_a_removal_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    drop(tmp_path, ".landed-old")
    landing = Landing()
    assert list(DropFolder(tmp_path, landing).look()) == []
    assert list(tmp_path.iterdir()) == []
    assert landing.asked == []


def test_a_data_set_and_a_drop_folder_that_vanish_while_they_are_read_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, landing = tmp_path / "drop", Landing()
    for number, name in enumerate(("one", "two", "three")):
        drop(root, name, at=number)

    def land_and_vanish(folder: Path, task: str, on_report: OnReport) -> PinnedTask:
        vanishing = {"one": root / "two", "two": root}
        if task in vanishing:
            shutil.rmtree(vanishing[task], ignore_errors=True)
        return landing(folder, task, on_report)

    monkeypatch.setattr(watch, "POLL_S", 0.0)
    watching = DropFolder(root, land_and_vanish).watch()
    assert next(watching).task == "one"
    outcomes = [next(watching)]
    drop(root, "four")
    while outcomes[-1].task != "four":
        outcomes.append(next(watching))
    root_is_file = tmp_path / "file"
    shutil.rmtree(root, ignore_errors=True)
    root_is_file.write_text("mine")
    root_is_file.rename(root)
    assert "can't be used" in next(watching).error
    root.unlink()
    drop(root, "five")
    assert next(watching).task == "five"


def test_a_drop_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "drop").write_text("mine")
    with pytest.raises(StorageError, match="drop folder"):
        list(DropFolder(tmp_path / "drop", Landing()).look())


def test_a_real_data_set_lands_from_a_drop_folder(workspace: Workspace, tmp_path: Path, write_task: WriteTask) -> None:
    for name in ("good", "Bad Name"):
        write_task(tmp_path / "drop" / name, seed=len(name))
        (tmp_path / "drop" / name / READY).touch()
    folder = DropFolder(tmp_path / "drop", lambda path, task, tell: land(workspace, path, task, on_report=tell)[0])
    outcomes = {outcome.task: outcome for outcome in folder.look()}
    assert outcomes["good"].landed in versions.landed(workspace)
    assert "task name" in outcomes["Bad Name"].error
    assert sorted(path.name for path in (tmp_path / "drop").iterdir()) == ["Bad Name", "Bad Name.report.json"]


def test_the_command_watches_until_it_is_told_to_stop(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    command = [sys.executable, "-m", "lorax", "land", "--watch", str(tmp_path / "drop"), "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=workspace.root, env=environment, text=True, stdout=pipe, stderr=pipe)
    try:
        write_task(tmp_path / "made", seed=1)
        (tmp_path / "made" / READY).touch()
        while not (tmp_path / "drop").exists():
            assert process.poll() is None
            time.sleep(0.1)
        (tmp_path / "made").rename(tmp_path / "drop" / "alpha")
        assert process.stdout is not None
        record = json.loads(process.stdout.readline())
        assert (record["task"], record["landed"], record["error"]) == ("alpha", True, "")
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert errors.endswith("no longer watching.\n")
    assert not (tmp_path / "drop" / "alpha").exists()


def test_a_stop_in_the_middle_of_an_import_is_no_failure(tmp_path: Path) -> None:
    """Where text is run, as dataclasses do, Python takes note of a plain interruption and dies of it at its end."""
    stopped = "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)"
    script = f"""
        from pathlib import Path
        from lorax.commands import land
        from lorax.data.watch import DropFolder
        DropFolder.watch = lambda self: exec({stopped!r})
        land._watch(None, Path("drop"), None, commit=False, as_json=True)
        """
    done = subprocess.run([sys.executable, "-c", dedent(script)], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "no longer watching.")
