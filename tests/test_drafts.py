"""What is half-made goes once its maker is dead, and never before: makers here are real processes that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lorax import drafts
from lorax.storage import write_whole

MAKER = """
import sys, time
from pathlib import Path
from lorax.drafts import scratch
from lorax.storage import whole_directory
with scratch(Path(sys.argv[1])) as folder, scratch(), whole_directory(Path(sys.argv[1]) / "state") as draft:
    (draft / "file").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def aged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Drafts need not be seconds old, and the system's temporary files lie in a folder of the test's own."""
    monkeypatch.setattr(drafts, "_JUST_MADE_S", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_swept_away_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / ".vscode-x").mkdir()
    (work / "states").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", MAKER, str(work)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        maker.stdout.readline()
        before = left(work)
        assert len(before) == 4
        drafts.sweep(work)
        drafts.sweep_temporary()
        assert (left(work), len(left(tmp_path / "tmp"))) == (before, 1), "they are in use"
        maker.send_signal(signal.SIGKILL)
    drafts.sweep(work)
    drafts.sweep_temporary()
    assert (left(work), left(tmp_path / "tmp")) == ([".vscode-x", "states"], [])


def test_a_draft_that_was_made_this_moment_is_not_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "_JUST_MADE_S", 5.0)
    (tmp_path / ".a.json-abcd1234").write_text("half")
    drafts.sweep(tmp_path)
    assert ".a.json-abcd1234" in left(tmp_path)
    os.utime(tmp_path / ".a.json-abcd1234", (time.time() - 6, time.time() - 6))
    drafts.sweep(tmp_path)
    assert ".a.json-abcd1234" not in left(tmp_path)


def test_what_is_discarded_is_gone_at_once_and_again_is_harmless(tmp_path: Path) -> None:
    write_whole(tmp_path / "state" / "learner.json", "{}")
    for _ in range(2):
        drafts.discard(tmp_path / "state")
    assert left(tmp_path) == ["tmp"]
