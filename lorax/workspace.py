"""A workspace: a folder with its own git and DVC repository, params.yaml, data.dvc and work/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorax.errors import WorkspaceError


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

    @property
    def params_path(self) -> Path:
        return self.root / "params.yaml"

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def data_dvc_path(self) -> Path:
        return self.root / "data.dvc"

    @property
    def work_dir(self) -> Path:
        return self.root / "work"

    @property
    def services_dir(self) -> Path:
        return self.work_dir / "services"

    @property
    def episodes_dir(self) -> Path:
        return self.work_dir / "episodes"

    @property
    def learning_lock_path(self) -> Path:
        """Held by who learns in this workspace, one at a time."""
        return self.work_dir / "learning.lock"

    @property
    def states_dir(self) -> Path:
        """Local copies of registered learner states, one folder per state digest."""
        return self.work_dir / "states"

    @property
    def memory_dir(self) -> Path:
        """The images that model versions need, whatever is landed by now."""
        return self.work_dir / "memory"

    @property
    def prints_dir(self) -> Path:
        """What landed images look like, one table per task, which later landings are held to."""
        return self.work_dir / "prints"

    @property
    def atlas_dir(self) -> Path:
        """The branches of every episode as an atlas, and what `lorax atlas add` brought."""
        return self.work_dir / "atlas"
