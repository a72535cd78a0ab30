"""git's lock files: one that a killed git left behind is taken away, one that may be alive is waited for.

A lock file does not say who made it. It is alive while some process has it open, or while a git works in this
repository: it closes the file before it runs hooks or an editor. What this machine can't see, a git on another one that
shares the disk, is given time.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil

_LOCK = re.compile(r"'([^']+\.lock)'")
_YOUNG_S = 10.0
_PATIENCE_S = 30.0
_LOOK_S = 0.2


def named_in(said: str, root: Path) -> Path | None:
    """The lock file that git, run in `root`, complains of; None if it complains of none."""
    found = _LOCK.search(said)
    return root / found[1] if found else None


def is_free_again(lock: Path, root: Path) -> bool:
    """Wait until a lock file is gone, and take it away if nobody can be holding it; False if somebody still is."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            made = lock.stat()  # looked at before its holder: who made it then is alive, or is dead for good
            if time.time() - made.st_mtime > _YOUNG_S and not _is_held(lock, root):
                if lock.stat().st_ino == made.st_ino:
                    lock.unlink()
                return True
        except FileNotFoundError:
            return True
        time.sleep(_LOOK_S)
    return False


def wait_for_commits(root: Path) -> None:
    """Wait for commits that are being made in the repository of `root`: a landing that was killed may have left one."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and any(_commits(process, root) for process in psutil.process_iter()):
        time.sleep(_LOOK_S)


def _commits(process: psutil.Process, root: Path) -> bool:
    try:
        if not process.name().startswith("git") or "commit" not in process.cmdline():
            return False
        return Path(process.cwd()) == root.resolve()
    except psutil.Error:  # it has ended, or is another user's, which no landing here has started
        return False


def _is_held(lock: Path, root: Path) -> bool:
    return any(_may_hold(process, lock, root) for process in psutil.process_iter())


def _may_hold(process: psutil.Process, lock: Path, root: Path) -> bool:
    try:
        name = process.name()
    except psutil.Error:
        return False
    is_git: bool = name.startswith("git")
    try:
        if is_git and _overlap(Path(process.cwd()), root, lock):
            return True
        return any(Path(file.path) == lock for file in process.open_files())
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # another user's
        return is_git


def _overlap(cwd: Path, root: Path, lock: Path) -> bool:
    """Whether a git that works in `cwd` may work in the repository of `root`, whose lock this is."""
    return root.is_relative_to(cwd) or cwd.is_relative_to(root) or lock.is_relative_to(cwd)
