"""Known tasks as they were when they were learned, whatever has taken their place since."""

from __future__ import annotations

from contextlib import suppress

from lorax.data import pins, repository, versions
from lorax.errors import DataVersionError, LayoutError
from lorax.stream import PinnedTask, Task
from lorax.workspace import Workspace


def read_learned(workspace: Workspace, known: PinnedTask) -> Task:
    """A known task with the images that it was learned and first tested with, found by git's history and DVC.

    Where these are gone, or git's history does not reach back to them, it is the task as it has landed now.

    Raises:
        DataVersionError: it has not landed, or what has can't be read.
        StorageError: the disk is full or refuses to be written.
    """
    found = pins.committed(workspace)
    if known in found.stream:
        return versions.pinned_task(workspace, found, known.name)
    for commit in repository.commits_about(workspace.root, pins.NAME, known.digest):
        with suppress(DataVersionError, LayoutError):
            if known in pins.committed(workspace, commit).stream:
                task = versions.read_task(workspace, known.name, commit)
                versions.fetch(workspace, task.test)
                return task
    return versions.read_task(workspace, known.name)
