"""Examining by processes says what examining here says, whatever happens to a process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lorax.data import examine as examining
from lorax.data.examine import Examined, examine, examine_in_processes

pytestmark = pytest.mark.slow

_DEADLY = "train/1_fake/6.png"


@pytest.fixture
def items(write_task: Callable[..., Path], tmp_path: Path) -> list[tuple[str, Path]]:
    """More files than a process gets at once, one of them damaged and one with a name that is no text."""
    folder = write_task(tmp_path, {"0_real": 40, "1_fake": 40})
    (folder / "train" / "0_real" / "damaged.png").write_bytes(b"no image")
    (folder / "train" / "0_real" / "\udcff.png").write_bytes(b"none either")
    return [(str(path.relative_to(folder)), path) for path in sorted(folder.rglob("*.*"))]


def deadly(path: Path, name: str) -> Examined:
    """Examine a file, and die of one of them."""
    if name == _DEADLY:
        os._exit(1)
    return examine(path, name)


def test_processes_see_what_we_see(items: list[tuple[str, Path]]) -> None:
    told: list[tuple[int, int, str]] = []
    found = examine_in_processes(items, lambda *now: told.append(now), "checking")
    assert found == [examine(path, name) for name, path in items]
    assert sum(bool(one.problem) for one in found) == 2
    assert told[-1] == (len(items), len(items), "checking")
    assert len({id(one.container) for one in found}) == len({one.container for one in found})
    assert not [child for child in psutil.Process().children() if "popen_loky" in " ".join(child.cmdline())]


def test_only_the_file_fails_that_a_process_dies_of(
    items: list[tuple[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "examine", deadly)
    found = examine_in_processes(items, None, "")
    place = [name for name, _ in items].index(_DEADLY)
    assert f"{_DEADLY} can't be decoded: the process that tried it died" in found[place].problem
    assert [one for i, one in enumerate(found) if i != place] == [
        examine(path, name) for name, path in items if name != _DEADLY
    ]


def test_no_process_outlives_an_error(items: list[tuple[str, Path]]) -> None:
    def interrupted(*now: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine_in_processes(items * 100, interrupted, "")
    workers = [child for child in psutil.Process().children() if "popen_loky" in " ".join(child.cmdline())]
    psutil.wait_procs(workers, timeout=10)
    assert not [worker for worker in workers if worker.is_running()]
