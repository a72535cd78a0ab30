"""Examining by processes says what examining here says, whatever happens to a process."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lorax.data import examiner
from lorax.data.examine import examine


@pytest.fixture
def items(write_task: Callable[..., Path], tmp_path: Path) -> list[tuple[str, Path]]:
    """More than two lines of files, one of them damaged and one with a name that is no text."""
    folder = write_task(tmp_path, {"0_real": 40, "1_fake": 40})
    (folder / "train" / "0_real" / "damaged.png").write_bytes(b"no image")
    (folder / "train" / "0_real" / "\udcff.png").write_bytes(b"none either")
    return [(str(path.relative_to(folder)), path) for path in sorted(folder.rglob("*.*"))]


def test_processes_see_what_we_see(items: list[tuple[str, Path]]) -> None:
    told: list[tuple[int, int, str]] = []
    found = examiner.examine_in_processes(items, lambda *now: told.append(now), "checking")
    assert found == [examine(path, name) for name, path in items]
    assert sum(bool(one.problem) for one in found) == 2
    assert told[-1] == (len(items), len(items), "checking")


def test_what_dead_processes_leave_is_examined_here(
    items: list[tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: list[subprocess.Popen[str]] = []
    start = examiner._worker

    def doomed() -> subprocess.Popen[str]:
        workers.append(start())
        workers[-1].kill()
        return workers[-1]

    monkeypatch.setattr(examiner, "_worker", doomed)
    assert examiner.examine_in_processes(items, None, "") == [examine(path, name) for name, path in items]
    assert workers


def test_no_process_outlives_an_error(items: list[tuple[str, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[subprocess.Popen[str]] = []
    start = examiner._worker

    def seen() -> subprocess.Popen[str]:
        workers.append(start())
        return workers[-1]

    def interrupted(*now: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(examiner, "_worker", seen)
    with pytest.raises(KeyboardInterrupt):
        examiner.examine_in_processes(items, interrupted, "")
    assert workers
    assert all(worker.poll() is not None for worker in workers)
