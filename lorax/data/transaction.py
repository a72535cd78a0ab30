"""A landing as a transaction: data/<task> of each task, data.dvc and .gitignore change together or not at all.

Before the first change, notes under work/landing/ say what to put back, and what is replaced is kept beside them. They
are followed after an error or Ctrl-C, and, since they are on disk, at the next landing, or before anything is learned,
after a killed process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from lorax.data import git_locks, keeping, repository, versions
from lorax.errors import DataVersionError
from lorax.storage import write_whole
from lorax.stream import PinnedTask, check_task_name
from lorax.workspace import Workspace

_CHANGED_FILES = ("data.dvc", ".gitignore")


class _Landing(TypedDict):
    """A task that lands, and whether one of its name was there."""

    task: str
    digest: str
    replaces: bool


class _Notes(TypedDict):
    """What is to be put back."""

    tasks: list[_Landing]
    files: list[str]
    had_data: bool
    cached: list[str]


_NOTES = TypeAdapter(_Notes)


@contextmanager
def transaction(workspace: Workspace, tasks: Sequence[PinnedTask], cached: Sequence[Path]) -> Iterator[None]:
    """If the block fails, or never ends because the process is killed, the workspace will be as it was before it.

    Args:
        workspace: what the block changes.
        tasks: those that it lands; a folder of such a name in data/ is moved out of the way.
        cached: files that it will bring into DVC's cache and that are not there yet; left behind, they would keep a
            full disk full.
    """
    _note(workspace, tasks, cached)
    try:
        for task in tasks:
            if (workspace.data_dir / task.name).exists():
                (workspace.data_dir / task.name).rename(_replaced(workspace) / task.name)
        yield
    except BaseException:
        roll_back(workspace)
        raise
    _forget(workspace)


def is_noted(workspace: Workspace) -> bool:
    """Whether a landing is at work, or was killed."""
    return (_notes(workspace) / "notes.json").exists()


def roll_back(workspace: Workspace) -> None:
    """Undo the landing that the notes speak of, if there is one and it did not get as far as its commit.

    Can be cut short at any point and called again.

    Raises:
        DataVersionError: the notes are damaged.
    """
    notes = _noted(workspace)
    if notes is None:
        return
    tasks = [PinnedTask(check_task_name(one["task"]), one["digest"]) for one in notes["tasks"]]
    git_locks.wait_for_commits(workspace.root)  # else one that a killed landing left at work would land it after all
    if _have_landed(workspace, tasks):
        for name in _CHANGED_FILES:
            repository.mend_index(workspace.root, name)
    else:
        for one in notes["tasks"]:
            _put_back_folder(workspace, one["task"], replaces=one["replaces"])  # first, since it makes room
        if not notes["had_data"] and workspace.data_dir.exists() and not any(workspace.data_dir.iterdir()):
            workspace.data_dir.rmdir()
        for name in _CHANGED_FILES:
            _put_back_file(workspace, name, existed=name in notes["files"])
        with suppress(DataVersionError):  # what can't be told from what is needed stays
            keeping.drop(workspace, [Path(path) for path in notes["cached"]])
    _forget(workspace)


def _noted(workspace: Workspace) -> _Notes | None:
    """The notes, or None where there are none."""
    path = _notes(workspace) / "notes.json"
    try:
        return _NOTES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataVersionError(
            f"{path} can't be read ({type(error).__name__}), so what a landing left half done can't be put back. Make "
            f"data/ what git has ('git checkout -- data.dvc', then 'dvc checkout data.dvc'; what was replaced may lie "
            f"in {_replaced(workspace)}), and remove {path.parent}."
        ) from error


def _have_landed(workspace: Workspace, tasks: Sequence[PinnedTask]) -> bool:
    """Whether the landing was over: it may have been stopped between the commit and the end of its block."""
    return set(tasks) <= set(versions.landed(workspace))


def _put_back_folder(workspace: Workspace, name: str, *, replaces: bool) -> None:
    folder, kept = workspace.data_dir / name, _replaced(workspace) / name
    if folder.exists() and (kept.exists() or not replaces):  # else it is still, or again, the one from before
        shutil.rmtree(folder)
    if kept.exists():
        kept.rename(folder)


def _put_back_file(workspace: Workspace, name: str, *, existed: bool) -> None:
    kept, file = _notes(workspace) / name, workspace.root / name
    if not existed:
        file.unlink(missing_ok=True)
    elif kept.exists() and not repository.is_committed(workspace.root, name):  # else git has set it right since
        shutil.move(kept, file)  # a rename, which a full disk can't refuse


def _note(workspace: Workspace, tasks: Sequence[PinnedTask], cached: Sequence[Path]) -> None:
    notes = _notes(workspace)
    _forget(workspace)
    _replaced(workspace).mkdir(parents=True)
    files = [name for name in _CHANGED_FILES if (workspace.root / name).exists()]
    for name in files:
        shutil.copy2(workspace.root / name, notes / name)
    below = f"{workspace.root}/"  # others may rely on a shared cache
    own = [path for path in map(str, cached) if path.startswith(below)]
    what = {
        "tasks": [
            {"task": t.name, "digest": t.digest, "replaces": (workspace.data_dir / t.name).exists()} for t in tasks
        ],
        "files": files,
        "had_data": workspace.data_dir.exists(),
        "cached": own,
    }
    write_whole(notes / "notes.json", json.dumps(what))


def _forget(workspace: Workspace) -> None:
    (_notes(workspace) / "notes.json").unlink(missing_ok=True)  # the one step that counts
    shutil.rmtree(_notes(workspace), ignore_errors=True)


def _replaced(workspace: Workspace) -> Path:
    return _notes(workspace) / "replaced"


def _notes(workspace: Workspace) -> Path:
    return workspace.work_dir / "landing" / "undo"
