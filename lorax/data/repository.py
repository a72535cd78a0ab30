"""The commands of git and DVC that change a workspace, run as a person would type them.

They run in the foreground's process group, so that git can ask for a passphrase; at Ctrl-C they are told to stop and
waited for, so that what undoes their work comes after it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lorax.errors import DataVersionError, StorageError

_DVC_CONFIG = """\
[core]
    analytics = false
    autostage = false
    check_update = false
"""  # autostage would put data.dvc into the user's index; the other two call out of the machine


def create_repository(root: Path) -> None:
    """Make `root` a git repository of its own and a DVC repository; what is there already stays. Commits nothing.

    Raises:
        DataVersionError: git or DVC refused.
    """
    root.mkdir(parents=True, exist_ok=True)
    if not (root / ".git").exists():
        _run_git(root, "init", "--quiet", "--initial-branch=main")
    if not (root / ".dvc").exists():
        _run_dvc(root, "init")
        (root / ".dvc" / "config").write_text(_DVC_CONFIG)
        _run_git(root, "add", ".dvc/config")


def set_remote(root: Path, url: str) -> None:
    """Make `url` (a folder, or any address that DVC knows) the default place that DVC pushes to.

    Raises:
        DataVersionError: DVC refused.
    """
    _run_dvc(root, "remote", "add", "--force", "--default", "storage", url)


def add_to_dvc(root: Path, path: str) -> None:
    """`dvc add PATH`: put files into DVC's cache and pin them in data.dvc.

    Raises:
        DataVersionError: DVC refused.
        StorageError: the disk is full.
    """
    _run_dvc(root, "add", path)


def last_commit(root: Path, path: str) -> str | None:
    """The last commit that touched `path`; None if there is none."""
    log = _run(["git", "log", "-1", "--format=%H", "--", path], root)
    return log.stdout.strip() or None if log.returncode == 0 else None


def first_commit(root: Path) -> str | None:
    """The commit that the history begins with; None if there is none."""
    found = _run(["git", "rev-list", "--max-parents=0", "HEAD"], root)
    return found.stdout.split()[-1] if found.returncode == 0 else None


def is_committed(root: Path, path: str) -> bool:
    """Whether git's HEAD holds `path` with the bytes that it has now."""
    known = _run(["git", "cat-file", "-e", f"HEAD:./{path}"], root).returncode == 0
    return known and _run(["git", "diff", "--quiet", "HEAD", "--", path], root).returncode == 0


def check_git(root: Path) -> None:
    """Find out early whether commits can work at all.

    Raises:
        DataVersionError: git is missing, or `root` is in no git repository.
    """
    _run_git(root, "rev-parse", "--git-dir")


def commit(root: Path, paths: Sequence[str], message: str) -> None:
    """Commit `paths` as they are on disk, and nothing else: what the user has staged stays staged, uncommitted.

    Where git knows no author, as in a bare container, the commit is made in the name of "lorax".

    Raises:
        DataVersionError: git refused; its index is as before.
        StorageError: the disk is full; git's index is as before.
    """
    new = [path for path in paths if _run(["git", "ls-files", "--error-unmatch", "--", path], root).returncode != 0]
    nobody = _run(["git", "var", "GIT_COMMITTER_IDENT"], root).returncode != 0
    identity = ("-c", "user.name=lorax", "-c", "user.email=lorax@localhost") if nobody else ()
    try:
        if new:
            _run_git(root, "add", "--intent-to-add", "--", *new)
        _run_git(root, *identity, "commit", "--quiet", "--only", "-m", message, "--", *paths)
    except BaseException:
        for path in new:
            if _run(["git", "cat-file", "-e", f"HEAD:./{path}"], root).returncode != 0:  # unless committed after all
                _run(["git", "update-index", "--force-remove", "--", path], root)
        raise


def push_data(root: Path) -> None:
    """Push what data.dvc pins to DVC's default remote.

    Raises:
        DataVersionError: DVC refused.
    """
    _run_dvc(root, "push", "data.dvc")


def push_commits(root: Path) -> None:
    """`git push`, where the branch has an upstream.

    Raises:
        DataVersionError: git refused.
    """
    if has_upstream(root):
        _run_git(root, "push", "--quiet")


def has_upstream(root: Path) -> bool:
    """Whether the branch follows one of another repository."""
    return _run(["git", "rev-parse", "--abbrev-ref", "@{upstream}"], root).returncode == 0


def holds_commit(root: Path, commit: str) -> bool:
    """Whether `commit` is part of what is checked out."""
    return _run(["git", "merge-base", "--is-ancestor", commit, "HEAD"], root).returncode == 0


def fetch_commits(root: Path) -> None:
    """`git fetch`: learn what the upstream has; the checkout stays as it is.

    A clone of the newest commit only, as Prefect makes it, gets the older ones too: landings may be among them.

    Raises:
        DataVersionError: git refused, or the upstream can't be reached.
    """
    is_shallow = _run(["git", "rev-parse", "--is-shallow-repository"], root).stdout.strip() == "true"
    _run_git(root, "fetch", "--quiet", *(["--unshallow"] if is_shallow else []))


def upstream_commit(root: Path, path: str) -> str | None:
    """The upstream's newest commit that touches `path` and that the checkout lacks; None if there is none."""
    found = _run(["git", "rev-list", "-1", "HEAD..@{upstream}", "--", path], root)
    return found.stdout.strip() or None if found.returncode == 0 else None


def fast_forward(root: Path) -> None:
    """Bring the checkout to where the upstream was at the last `fetch_commits`; fine when it is there, or ahead.

    Raises:
        DataVersionError: git refused: the branch has commits of its own, or a changed file is in the way.
    """
    _run_git(root, "merge", "--quiet", "--ff-only", "@{upstream}")


def _run_git(root: Path, *arguments: str) -> None:
    done = _run(["git", *arguments], root)
    if done.returncode != 0:
        raise _failure(f"git {' '.join(arguments)}", root, done.stderr.strip() or done.stdout.strip())


def _run_dvc(root: Path, *arguments: str) -> None:
    done = _run([sys.executable, "-m", "dvc", "--wait-for-lock", *arguments], root)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    if done.returncode != 0 or errors:  # 'dvc add' ends with 0 even if it could not store a file
        raise _failure(f"dvc {' '.join(arguments)}", root, "; ".join(errors[:3]) or done.stderr.strip())


def _failure(command: str, root: Path, said: str) -> DataVersionError | StorageError:
    if any(sign in said for sign in ("No space left on device", "Disk quota exceeded", "Out of diskspace")):
        return StorageError(f"the disk is full: '{command}' in {root} said: {said} Make room and try again.")
    return DataVersionError(f"'{command}' failed in {root}: {said}")


def _run(command: Sequence[str], root: Path) -> subprocess.CompletedProcess[str]:
    # a git hook that calls us sets GIT_DIR and GIT_INDEX_FILE, which would lead git to another repository
    hidden = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden} | {"DVC_NO_ANALYTICS": "1"}
    try:
        process = subprocess.Popen(
            command, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise DataVersionError(f"{command[0]!r} can't be run in {root}: {error}. Is it installed?") from error
    try:
        output, errors = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
