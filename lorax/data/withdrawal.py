"""A task leaves data.dvc: in a commit that is made beside the checkout before anything else is done.

What is learned without the task names that commit as its data revision, while the task is still landed; last the
checkout is brought to it. A ref of git's keeps the commit in between and says that a withdrawal is under way.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from lorax.data import keeping, landing, pins, repository, upstream, versions
from lorax.data.commands import git, git_says
from lorax.data.pins import Pins
from lorax.data.transaction import roll_back
from lorax.errors import DataVersionError
from lorax.stream import DataRevision, check_task_name
from lorax.workspace import Workspace

_REFS = "refs/lorax/withdraw"


def under_way(workspace: Workspace) -> list[str]:
    """The tasks whose withdrawal was begun here and is not over."""
    found = git_says(workspace.root, "for-each-ref", "--format=%(refname:lstrip=3)", f"{_REFS}/")
    return found.split() if found else []


def followers(workspace: Workspace, task: str) -> list[str]:
    """The landed tasks that are a next version of a task."""
    return [one.name for one, notes in pins.committed(workspace).notes.items() if notes.new_version_of == task]


def check_is_read(workspace: Workspace, task: str) -> None:
    """See that a task's images can be had, as cutting it out of a state takes.

    Raises:
        DataVersionError: it is not landed.
    """
    if task not in {one.name for one in pins.committed(workspace).stream}:
        raise DataVersionError(
            f"task {task!r} is not landed any more, and cutting it out takes its images: what they brought to sums "
            "over textures is taken away again. Leave --fast out. Nothing was changed."
        )


def prepared(workspace: Workspace, task: str, reason: str, needed: Collection[str] = ()) -> DataRevision:
    """The data revision without a task: committed, but not yet what is checked out; the one that was made before.

    Args:
        workspace: where.
        task: the task's name; while its withdrawal is under way it need not be landed any more.
        reason: why, for the commit's message.
        needed: tasks that it must hold; one that was made before they landed is followed by another.

    Raises:
        DataVersionError: the task has not landed, others extend it, data.dvc is not as committed, or git refused.
    """
    root, ref = workspace.root, f"{_REFS}/{check_task_name(task)}"
    with landing.one_at_a_time(workspace):
        roll_back(workspace)
        _check_not_extended(pins.committed(workspace), task)
        commit = git_says(root, "rev-parse", "--verify", "--quiet", ref)
        if commit is None or not _fits(workspace, commit, task, needed):
            _check(workspace, task)
            older = [commit] if commit else []  # states may name it
            commit = _without(workspace, task, f"Withdraw {task}: {' '.join(reason.split())}", older)
            git(root, "update-ref", ref, commit)
        return DataRevision(pins.committed(workspace, commit).digest, commit)


def carry_out(workspace: Workspace, task: str) -> None:
    """Bring the checkout to what was prepared, remove the task's folder, and push where an upstream or a remote is set.

    Can be cut short at any point and called again.

    Raises:
        DataVersionError: another task that extends it has landed meanwhile; the upstream, or a changed file, is in the
            way; or it was committed and could not be pushed.
    """
    root, ref = workspace.root, f"{_REFS}/{check_task_name(task)}"
    with landing.one_at_a_time(workspace):
        commit = repository.head(root, ref)
        if not repository.holds(root, commit):
            if upstream.find(root) is not None:
                with suppress(DataVersionError):  # the push will tell
                    upstream.fetch(workspace)
                upstream.join(workspace)
            _check_not_extended(pins.committed(workspace), task)  # it may have been meanwhile
            upstream.bring_in(workspace, commit)
        shutil.rmtree(workspace.data_dir / task, ignore_errors=True)
        try:
            upstream.publish(workspace, lambda: None)
        except DataVersionError as error:
            raise DataVersionError(
                f"task {task!r} is withdrawn here, but that was not pushed; mend that, then run the same command "
                f"again: {error}"
            ) from error
        git(root, "update-ref", "-d", ref)


def _fits(workspace: Workspace, commit: str, task: str, needed: Collection[str]) -> bool:
    """Whether a commit that was prepared takes out what is landed now, or has done so, and holds what is needed."""
    if repository.holds(workspace.root, commit):
        return True
    if not {one.name for one in pins.committed(workspace, commit).stream}.issuperset(needed):
        return False
    before, now = pins.committed(workspace, f"{commit}^").stream, pins.committed(workspace).stream
    return [one for one in before if one.name == task] == [one for one in now if one.name == task]


def _check(workspace: Workspace, task: str) -> None:
    found = pins.committed(workspace)
    names = [one.name for one in found.stream]
    if task not in names:
        raise DataVersionError(
            f"task {task!r} has not landed in {workspace.root}, so it can't be withdrawn; landed are: "
            f"{', '.join(names) or 'none'}."
        )
    if not repository.is_committed(workspace.root, pins.NAME):
        raise DataVersionError(
            f"{workspace.data_dvc_path} is not as committed. Commit it ('git commit data.dvc'), or take it back "
            "('git checkout data.dvc'), and try again."
        )


def _check_not_extended(found: Pins, task: str) -> None:
    if more := [one.name for one, notes in found.notes.items() if notes.extends == task]:
        raise DataVersionError(
            f"task {task!r} is extended by {', '.join(more)}, whose images are of its classes. Withdraw "
            f"{'that' if len(more) == 1 else 'those'} first: 'lorax withdraw {more[-1]} --reason TEXT'; then run the "
            "same command again."
        )


def _without(workspace: Workspace, task: str, message: str, older: Sequence[str]) -> str:
    """A commit on top of the checked-out one, and of older ones, whose data.dvc lacks a task."""
    root, head = workspace.root, repository.head(workspace.root)
    text = _text_without(workspace, pins.committed(workspace), task)
    with repository.index_beside(workspace.work_dir) as index:
        git(root, "read-tree", head, also=index)
        repository.put_text(root, pins.NAME, text, index)
        return repository.commit_tree(root, git(root, "write-tree", also=index), (head, *older), message)


def _text_without(workspace: Workspace, before: Pins, task: str) -> str | None:
    """The data.dvc without a task, whose list of files is in DVC's cache afterwards; None where nothing is left."""
    stream = [one for one in before.stream if one.name != task]
    if not stream:
        return None
    old = versions.manifest(workspace, before)
    files = {path: md5 for path, md5 in old.items() if path.partition("/")[0] != task}
    gone = [md5 for path, md5 in old.items() if path not in files]
    pinned = {"md5": keeping.store_manifest(workspace, files), "nfiles": len(files)}
    output = {**before.content["outs"][0], **pinned, **_size(workspace, before, gone)}
    notes = {one: replace(kept, new_version_of="") for one, kept in before.notes.items() if kept.new_version_of == task}
    known = {key: value for key, value in output.items() if value is not None}
    return Pins({**before.content, "outs": [known]}, before.place).text(stream, notes)


def _size(workspace: Workspace, before: Pins, gone: list[str]) -> dict[str, Any]:
    """How many bytes are left; None where the files that go are not all in DVC's cache."""
    total, cached = before.content["outs"][0].get("size"), versions.cache_paths(workspace, gone)
    if total is None or not all(path.is_file() for path in cached.values()):
        return {"size": None}
    return {"size": total - sum(cached[md5].stat().st_size for md5 in gone)}
