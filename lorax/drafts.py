"""Files and folders that are there for a while only: held by who makes them, and swept away once their maker is dead.

A maker holds a lock on its draft, which the kernel lets go of however it dies; so what nobody holds is a kill's.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SCRATCH = "lorax-scratch-"
_NAME = re.compile(rf"(\..+-|{_SCRATCH})[a-z0-9_]{{8}}")
"""Of a draft beside what it becomes (`storage`), or of a scratch folder; the end is Python's tempfile's."""

_JUST_MADE_S = 5.0
"""A draft is made before it is locked."""


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A folder for the block, in `parent` or among the system's temporary files."""
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=parent))
    try:
        with held(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def held(draft: Path) -> Iterator[None]:
    """Keep a draft from being swept away while the block runs."""
    handle = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-made in a folder of ours."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _NAME.fullmatch(path.name) and _is_deserted(path):
            _remove(path)


def sweep_temporary() -> None:
    """Remove the scratch folders that killed processes left among the system's temporary files."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        if _is_deserted(path):
            _remove(path)


def discard(directory: Path) -> None:
    """Remove a whole directory such that it is never seen in part; what is cut off is swept away later."""
    gone = directory.with_name(f".{directory.name}-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        directory.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _is_deserted(draft: Path) -> bool:
    try:
        if draft.is_symlink() or time.time() - draft.stat().st_mtime < _JUST_MADE_S:
            return False
        handle = os.open(draft, os.O_RDONLY)
    except OSError:  # gone meanwhile, or another user's
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)
