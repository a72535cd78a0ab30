"""Where a source lies: a folder here, or an address that pyarrow's file systems know (s3://, gs://, hdfs://, file://).

A file has a name in its source, as bytes: any bytes may name a file here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Protocol

from lorax.data.reading import LARGEST, bytes_of
from lorax.data.walk import Found, files_named
from lorax.errors import ImageError, ScoringError

if TYPE_CHECKING:
    import pyarrow.fs


class Place(Protocol):
    """What holds a source's files."""

    @property
    def source(self) -> str:
        """What was named: an absolute path, or an address."""

    def files(self) -> Iterator[tuple[bytes, str]]:
        """Every file's name, in order, and what is wrong with it or "".

        Raises:
            ScoringError: an address can't be listed.
        """

    def read(self, name: bytes) -> bytes:
        """The bytes of an image file.

        Raises:
            ImageError: it can't be read, or is too large for an image.
        """

    def open(self, name: bytes) -> IO[bytes]:
        """A large file, to read parts of.

        Raises:
            OSError: it can't be opened.
        """


def place_of(source: str) -> Place:
    """Where a source lies, as people name it.

    Raises:
        ScoringError: there is no such source.
    """
    if "://" in source:
        return _remote(source.rstrip("/"))
    root = Path(os.path.abspath(source))  # noqa: PTH100 - whoever reads it may be in another folder
    if not root.exists():
        raise ScoringError(f"there is no {root}. Name a folder, a Parquet or tar file, or an address such as s3://...")
    return Folder(str(root), root if root.is_dir() else root.parent)


@dataclass(frozen=True)
class Folder:
    """A folder or a file that every machine that judges it sees under the same path; `base` is that folder."""

    source: str
    base: Path

    def files(self) -> Iterator[tuple[bytes, str]]:
        for found in files_named([self.source], patterns=False):
            yield os.fsencode(found.path.relative_to(self.base)), found.problem

    def read(self, name: bytes) -> bytes:
        return bytes_of(Found(self.base / os.fsdecode(name)))

    def open(self, name: bytes) -> IO[bytes]:
        return (self.base / os.fsdecode(name)).open("rb")


@dataclass(frozen=True)
class Remote:
    """A folder or a file at an address; `base` is that folder's path there.

    Where a store asks for keys, they come from its usual environment variables.
    """

    source: str
    base: str

    def files(self) -> Iterator[tuple[bytes, str]]:
        import pyarrow.fs

        with _told(self.source):
            system, root = _opened(self.source)
            if root != self.base:
                yield PurePosixPath(root).name.encode(), ""
                return
            found = system.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
        names = (file.path[len(root) :].lstrip("/") for file in found if file.type == pyarrow.fs.FileType.File)
        for name in sorted(names, key=lambda name: name.split("/")):  # as those of a folder here
            if not any(part.startswith(".") for part in name.split("/")):
                yield name.encode(), ""

    def read(self, name: bytes) -> bytes:
        try:
            with self.open(name) as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise ImageError(f"{name.decode()} can't be read: {_line(error)}.") from error
        if len(data) > LARGEST:
            raise ImageError(f"{name.decode()} has more than {LARGEST:,} bytes, so many are refused.")
        return data

    def open(self, name: bytes) -> IO[bytes]:
        file: IO[bytes] = _opened(self.source)[0].open_input_file(f"{self.base}/{name.decode()}")
        return file


def _remote(address: str) -> Remote:
    import pyarrow.fs

    with _told(address):
        system, root = _opened(address)
        kind = system.get_file_info(root).type
    if kind == pyarrow.fs.FileType.NotFound:
        raise ScoringError(f"there is nothing at {address}. Name a folder, a Parquet or tar file.")
    return Remote(address, root if kind == pyarrow.fs.FileType.Directory else str(PurePosixPath(root).parent))


@cache
def _opened(address: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system, and the path in it; one for a process, since each holds connections."""
    import pyarrow.fs

    system, path = pyarrow.fs.FileSystem.from_uri(address)
    return system, path


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turn what a file system raises of an address."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ScoringError(f"{address} can't be read: {_line(error)}. Check it, and the store's keys.") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")
