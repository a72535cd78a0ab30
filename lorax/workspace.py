"""A workspace: a folder with its own git and DVC repository, params.yaml, data.dvc and work/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorax.errors import WorkspaceError


class Below:
    """A place below the `root` of what has one."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __get__(self, of: Any, _: type) -> Path:
        root: Path = of.root
        return root / self._place


@dataclass(frozen=True)
class Workspace:
    """Where a workspace keeps things; every path is derived from its absolute root."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Workspace:
        """The workspace that holds `start` (default: the current folder).

        Raises:
            WorkspaceError: neither `start` nor a folder above it has a params.yaml and a .dvc folder.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            if (folder / "params.yaml").is_file() and (folder / ".dvc").is_dir():
                return cls(folder)
        raise WorkspaceError(
            f"{here} is not inside a workspace: found no folder with params.yaml and .dvc. "
            "Make one with 'lorax init DIR' and run the command inside it."
        )

    params_path = Below("params.yaml")
    data_dir = Below("data")
    data_dvc_path = Below("data.dvc")
    work_dir = Below("work")
    services_dir = Below("work/services")
    episodes_dir = Below("work/episodes")

    learning_lock_path = Below("work/learning.lock")
    """Held by who learns in this workspace, one at a time."""

    states_dir = Below("work/states")
    """Local copies of registered learner states, one folder per state digest."""

    memory_dir = Below("work/memory")
    """The images that model versions need, whatever is landed by now."""

    prints_dir = Below("work/prints")
    """What landed images look like, one table per task, which later landings are held to."""

    atlas_dir = Below("work/atlas")
    """The branches of every episode as an atlas, and what `lorax atlas add` brought."""
