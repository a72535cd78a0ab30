"""What is said of a file that can't be written; who holds a lock."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lorax.errors import StorageError
from lorax.storage import locked, storage_errors, whole_directory, write_whole


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.ENOSPC, "free space and run again"), (errno.EDQUOT, "free space"), (errno.EROFS, "make it writable")],
)
def test_a_full_disk_and_a_read_only_one_are_told_apart(number: int, cure: str) -> None:
    with pytest.raises(StorageError, match=f"could not write here: .*{cure}"), storage_errors(Path("here")):
        raise OSError(number, os.strerror(number))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "below", tmp_path, tmp_path / ("n" * 300)):
        with pytest.raises(StorageError, match="name another place"):
            write_whole(place, "text")
    with pytest.raises(StorageError, match="name another place"), whole_directory(tmp_path / "file" / "below"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_block_cannot_find_is_none_of_the_directorys_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_directory(tmp_path / "new"):
        (tmp_path / "nowhere").read_text()


def test_modes_are_those_of_the_umask_which_other_threads_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")
            write_whole(tmp_path / "file", "text")
            write_whole(tmp_path / "secret", "text", is_private=True)
            with whole_directory(tmp_path / "folder"):
                pass
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"file": 0o640, "secret": 0o600, "folder": 0o750}


_HOLD = """
import subprocess, sys, time; from pathlib import Path; from lorax.storage import locked
with locked(Path(sys.argv[1])):
    print(subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL).pid, flush=True)
    time.sleep(60)
"""


def _give_up() -> None:
    raise BlockingIOError


def test_the_lock_of_a_killed_holder_is_free_although_what_it_started_lives(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        child = psutil.Process(int(holder.stdout.readline()))
        with pytest.raises(BlockingIOError), locked(path, _give_up):
            pass
        holder.kill()
    with locked(path, _give_up):
        pass
    child.kill()
    child.wait()
