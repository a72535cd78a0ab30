"""What the tools that we call expect of the environment: a user's name, a home, a terminal's kind, memory that is kept.

A container may run under a uid that no password file knows, with USER unset and a home of `/`. DVC, torch and others
ask who the user is and end with a traceback, Prefect and git want a home.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path


def complete() -> None:
    """Give this process, and all that it starts, what its environment lacks; what is set stays as it is."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        os.environ["LOGNAME"] = os.environ["USER"] = f"uid-{os.getuid()}"
    if not _is_home(os.path.expanduser("~")):  # noqa: PTH111  (Path.home() raises where there is none)
        os.environ["HOME"] = str(_home())
    os.environ.setdefault("TERM", "dumb")


def keep_freed_memory() -> None:
    """Let the C library keep what images and passes free, to use it again; call once, before them.

    glibc gives freed memory back to the kernel beyond twice the largest block that it has ever unmapped, up to blocks
    of 32 MB; having it again costs microseconds for each 4 KB. So one such block is freed. Other libraries don't mind.
    """
    import numpy as np  # commands that do nothing of the kind start without it

    np.empty(2**25 - 2**13, np.uint8)


def _is_home(folder: str) -> bool:
    """A home that can't be written may hold settings all the same; but for /, which stands for none."""
    return os.path.isabs(folder) and Path(folder).is_dir() and (folder != "/" or os.access(folder, os.W_OK))  # noqa: PTH117


def _home() -> Path:
    """A private folder that stays the same from command to command."""
    home = Path(tempfile.gettempdir(), f"lorax-home-{os.getuid()}")
    home.mkdir(mode=0o700, exist_ok=True)
    facts = home.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or home.is_symlink():  # somebody else's
        return Path(tempfile.mkdtemp(prefix="lorax-home-"))
    return home
