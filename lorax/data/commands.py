"""git and DVC, run as a person would run them; what they say is read by plumbing commands only.

They run in the foreground's process group, so that git can ask for a passphrase; at Ctrl-C they are told to stop and
waited for, so that what undoes their work comes after it. They speak English, whatever the user's language is, for a
full disk is told by their words; and no answer that is read depends on the user's settings (`log.*`, `color.ui`,
`core.quotePath`, `diff.*`), which porcelain commands follow.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorax import environment
from lorax.data import git_locks
from lorax.errors import DataVersionError, StorageError

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_FULL_DISK = (
    *(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)),
    *("database or disk is full", "Out of diskspace"),  # SQLite, below DVC, and git
)
_LOCKS = 3  # the index, HEAD, the branch: a killed git may leave them all
_LOOK_FOR_HELP = "Having any troubles?"


def git(root: Path, *arguments: str, also: Mapping[str, str] | None = None, text: str = "") -> str:
    """What a git command answers on standard output.

    Args:
        root: where it runs.
        arguments: the command.
        also: environment variables to set.
        text: for its standard input.

    Raises:
        DataVersionError: git refused.
        StorageError: the disk is full.
    """
    done = run(["git", *arguments], root, also, text)
    for _ in range(_LOCKS):
        lock = git_locks.named_in(done.stderr, root) if done.returncode != 0 else None
        if lock is None or not git_locks.is_free_again(lock, root):
            break
        done = run(["git", *arguments], root, also, text)
    if done.returncode != 0:
        raise failure(f"git {' '.join(arguments)}", root, done.stderr.strip() or done.stdout.strip())
    return done.stdout.removesuffix("\n")


def git_says(root: Path, *arguments: str) -> str | None:
    """The same for a command that may well answer no: None then."""
    done = run(["git", *arguments], root)
    return done.stdout.removesuffix("\n") if done.returncode == 0 else None


def checked_commit(answer: str) -> str:
    """A commit's full name, as git is to give it.

    Raises:
        DataVersionError: it is none.
    """
    if not _COMMIT.fullmatch(answer):
        raise DataVersionError(f"git gave {answer[:80]!r} where the full name of a commit was expected.")
    return answer


def dvc(root: Path, *arguments: str) -> None:
    """Run a command of DVC's.

    Raises:
        DataVersionError: DVC refused.
        StorageError: the disk is full.
    """
    done = run([sys.executable, "-P", "-m", "dvc", "--wait-for-lock", *arguments], root)
    complaint = _complaint(done.stderr)
    if done.returncode != 0 or complaint:  # it may end with 0 although a file could not be stored
        raise failure(f"dvc {' '.join(arguments)}", root, complaint or done.stderr.strip())


def _complaint(said: str) -> str:
    """All that DVC says from its first error on: who blocks, and what to do, stand below it."""
    lines = [line.rpartition("\r")[2].rstrip() for line in said.splitlines()]
    errors = (number for number, line in enumerate(lines) if line.startswith("ERROR:"))
    first = next(errors, len(lines))
    return "\n".join(line for line in lines[first:] if line and not line.startswith(_LOOK_FOR_HELP))


def failure(command: str, root: Path, said: str) -> DataVersionError | StorageError:
    """The error that tells what a command said."""
    if any(sign in said for sign in _FULL_DISK):
        return StorageError(f"the disk is full: '{command}' in {root} said: {said} Make room and try again.")
    return DataVersionError(f"'{command}' failed in {root}: {said}")


def run(
    command: Sequence[str], root: Path, also: Mapping[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever that is; what else it is given is as for `git`.

    Raises:
        DataVersionError: it can't be run.
    """
    environment.complete()
    # a git hook that calls us sets GIT_DIR and GIT_INDEX_FILE, which would lead git to another repository
    hidden = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "LANGUAGE"}
    ours = {"DVC_NO_ANALYTICS": "1", "LC_ALL": "C", "PYTHONUTF8": "1"}
    variables = {key: value for key, value in os.environ.items() if key not in hidden} | ours | dict(also or {})
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, cwd=root, env=variables, stdin=pipe if text else None, stdout=pipe, stderr=pipe,
            encoding="utf-8", errors="surrogateescape",
        )  # fmt: skip
    except FileNotFoundError as error:
        raise DataVersionError(f"{command[0]!r} can't be run in {root}: {error}. Is it installed?") from error
    try:
        output, errors = process.communicate(text or None)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
