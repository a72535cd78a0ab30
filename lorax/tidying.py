"""Room in work/: before a run, what kills left half-made goes, and of learner states stays what is in use."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lorax import drafts
from lorax.workspace import Workspace

STATES_KEPT = 4
"""Learner states that stay however long ago they were used; each holds every branch."""

_USED_LATELY_S = 3600.0
"""Somebody may read a state that was asked for within this time."""


def tidy(workspace: Workspace) -> None:
    """Remove from work/ what nobody will ask for; what is in use, or can't be fetched again, stays."""
    work = workspace.work_dir
    folders = (work, workspace.states_dir, workspace.services_dir, workspace.atlas_dir, work / "watch")
    for folder in (*folders, *_nested(workspace.episodes_dir), *_nested(work / "scenarios"), *_nested(work / "probes")):
        drafts.sweep(folder)
    drafts.sweep_temporary()
    shrink(workspace.states_dir)


def used(state_dir: Path) -> Path:
    """Note that a local copy of a learner state is asked for now; returns it."""
    os.utime(state_dir)
    return state_dir


def shrink(states_dir: Path) -> None:
    """Remove all learner states but those used last; the registry has them."""
    found = [path for path in states_dir.glob("[!.]*") if path.is_dir()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[STATES_KEPT:]:
        if time.time() - path.stat().st_mtime > _USED_LATELY_S:
            drafts.discard(path)


def _nested(folder: Path) -> list[Path]:
    """A folder, those in it, and those in these."""
    return [folder, *(path for pattern in ("*/", "*/*/") for path in folder.glob(pattern))]
