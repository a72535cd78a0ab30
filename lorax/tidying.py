"""Room in work/: before a run, what kills left half-made goes; of learner states and episodes those used last stay."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lorax import drafts
from lorax.workspace import Workspace

STATES_KEPT = 4
"""Learner states that stay however long ago they were used; each holds every branch."""

EPISODES_KEPT = 8
"""Episodes' folders that stay however long ago they were worked on; older ones are registered, or would begin anew."""

_USED_LATELY_S = 3600.0
"""Somebody may read what was asked for within this time."""


def tidy(workspace: Workspace, *, keeps_episodes: bool = False) -> None:
    """Remove from work/ what nobody will ask for; what is in use, or can't be fetched again, stays.

    Args:
        keeps_episodes: all of them stay, as while many wait for being registered together.
    """
    work = workspace.work_dir
    sweeps = [place for sweep in (work / "sweeps").glob("*/") for place in _nested(sweep)]
    folders = (work, workspace.states_dir, workspace.services_dir, workspace.atlas_dir, work / "watch")
    for folder in (
        *folders,
        *_nested(workspace.episodes_dir),
        *_nested(work / "scenarios"),
        *_nested(work / "probes"),
        *sweeps,
    ):
        drafts.sweep(folder)
    drafts.sweep_temporary()
    _shrink(workspace.states_dir.glob("[!.]*/"), STATES_KEPT)
    if not keeps_episodes:
        _shrink((plan.parent for plan in workspace.episodes_dir.glob("[!.]*/plan.json")), EPISODES_KEPT)


def used(state_dir: Path) -> Path:
    """Note that a local copy of a learner state is asked for now; returns it."""
    os.utime(state_dir)
    return state_dir


def size(folder: Path) -> int:
    """Bytes of all files in and below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone meanwhile
                total += Path(parent, name).lstat().st_size
    return total


def _shrink(folders: Iterable[Path], count: int) -> None:
    """Remove all of these but those used last."""
    for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)[count:]:
        if time.time() - path.stat().st_mtime > _USED_LATELY_S:
            drafts.discard(path)


def _nested(folder: Path) -> list[Path]:
    """A folder, those in it, and those in these."""
    return [folder, *(path for pattern in ("*/", "*/*/") for path in folder.glob(pattern))]
