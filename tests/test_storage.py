"""What is said of a file that can't be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lorax.errors import StorageError
from lorax.storage import storage_errors, whole_directory, write_whole


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
