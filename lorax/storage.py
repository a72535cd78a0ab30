"""Whole or not at all: files and directories that appear under their name only once they are complete on disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lorax.drafts import held
from lorax.errors import StorageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import ValidationError

_Record = TypeVar("_Record")


def canonical_json(value: Any) -> str:
    """The one text of a JSON value: sorted keys, so equal values have equal digests."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def write_record(path: Path, record: DataclassInstance) -> None:
    """Keep a dataclass of plain values as JSON."""
    write_whole(path, canonical_json(asdict(record)))


def read_record(kind: type[_Record], path: Path) -> _Record:
    """What `write_record` has kept; a field that is not there has its default.

    Raises:
        FileNotFoundError: nothing was kept.
        ValueError: the file is no such record.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(fault(error)) from error


def fault(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in a line."""
    first, *others = error.errors(include_url=False, include_input=False)
    more = f", and {len(others)} more" if others else ""
    return f"{'.'.join(map(str, first['loc'])) or 'its text'}: {first['msg']}{more}"


@contextmanager
def whole_directory(final: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `final`; when the block ends well it is synced and renamed to `final`.

    Raises:
        StorageError: the disk is full or refuses to be written; `final` is as it was.
    """
    with storage_errors(final):
        with _place_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            draft = _draft_of(final)
            draft.mkdir()
        try:
            with held(draft):
                yield draft
                for path in sorted(draft.rglob("*")):
                    _sync(path)
                _sync(draft)
                draft.rename(final)
            _sync(final.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def write_whole(path: Path, data: bytes | memoryview | str, *, is_private: bool = False) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part.

    Args:
        path: of the file; its folder is made.
        data: what it shall hold.
        is_private: for its owner's eyes only, as a secret is; else as the umask says.

    Raises:
        StorageError: the disk is full or refuses to be written; `path` is as it was.
    """
    with storage_errors(path), _place_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _draft_of(path)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if is_private else 0o666)
        try:
            with os.fdopen(handle, "wb") as file, held(draft):
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)


def copy_bytes(source: Path | str, target: Path | str) -> None:
    """Copy what a file holds; where the file system can, the two share it on disk until one of them is written to."""
    with open(source, "rb", 0) as old, open(target, "wb", 0) as new:  # noqa: PTH123
        copied = 0
        with suppress(OSError):  # not from one file system to another; and a full disk is told below
            while part := os.copy_file_range(old.fileno(), new.fileno(), 2**30):
                copied += part
            if copied:  # 0 also comes from file systems that know no size
                return
        shutil.copyfileobj(old, new)


def _draft_of(final: Path) -> Path:
    """Where it is written first, beside it; not by tempfile, whose files are private whatever the umask says."""
    return final.with_name(f".{final.name}-{secrets.token_hex(4)}")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises inside the block into a StorageError that names `path`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            cure = "free space and run again"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            cure = "make it writable, or name another place"
        else:
            raise
        raise StorageError(f"could not write {path}: {error.strerror}. Nothing was changed; {cure}.") from error


@contextmanager
def _place_errors(path: Path) -> Iterator[None]:
    """Turn what is raised where `path` can't be into a StorageError that names it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG):
            raise
        raise StorageError(
            f"could not write {path}: {error.strerror}. Nothing was changed; name another place."
        ) from error


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file for the block; the kernel lets go of it when its holder dies, however it dies.

    Who waits has the file open, too, so that it can be found.

    Args:
        path: of the file; its folder is made.
        on_wait: called if another process holds it, before waiting; what it raises ends that.

    Raises:
        StorageError: the file can't be written.
    """
    with storage_errors(path), _place_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
