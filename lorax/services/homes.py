"""Whose servers a checkout uses. One workspace may lie on a machine several times, and has one pair of servers there.

DVC's temporary copies of an experiment and git's worktrees use those of the checkout that they were made from; a clone
that never had servers of its own uses those that run, on this machine, for a checkout with the same first commit.
"""

from __future__ import annotations

import os
from pathlib import Path

from lorax.data import repository
from lorax.params import Params, load_params
from lorax.services import orphans
from lorax.workspace import Workspace

VARIABLES = {"prefect": "PREFECT_API_URL", "mlflow": "MLFLOW_TRACKING_URI"}
"""Which variable names a server's address."""

EMBEDDED_VARIABLE = "LORAX_EMBEDDED"
"""Names the servers whose addresses we have put into the environment ourselves, for the processes below."""

_EXPERIMENTS = (".dvc", "tmp", "exps")
"""Below a workspace: where DVC puts the copies that `dvc exp run --temp` and its queue work in."""


def home(workspace: Workspace) -> Workspace:
    """The checkout whose servers `workspace` uses: mostly itself."""
    made_from = _original(workspace.root) or _main_worktree(workspace.root)
    if made_from and (made_from / "params.yaml").is_file() and (made_from / ".dvc").is_dir():
        return Workspace(made_from)
    is_told = any(os.environ.get(variable) and not is_set_by_us(name) for name, variable in VARIABLES.items())
    if is_told or (workspace.services_dir / "databases.json").exists():
        return workspace
    others = [Workspace(Path(folder).parents[1]) for folder in _serving(workspace)]
    return next((other for other in others if other.params_path.is_file()), workspace)


def at_home(workspace: Workspace, params: Params) -> tuple[Workspace, Params]:
    """The same, with what its params.yaml says of the servers.

    Raises:
        ParamsError: its params.yaml can't be read.
    """
    found = home(workspace)
    if found == workspace:
        return workspace, params
    return found, params.model_copy(update={"services": load_params(found.params_path).services})


def is_set_by_us(server: str) -> bool:
    """Whether the address of `server` in the environment, if there is one, was put there by a process above this."""
    return server in os.environ.get(EMBEDDED_VARIABLE, "").split(",")


def mark(workspace: Workspace) -> str:
    """What all checkouts of a workspace share and no other has, for `orphans.WORKSPACE_VARIABLE`; '' if unknown."""
    return repository.first_commit(workspace.root) or ""


def deserted(workspace: Workspace) -> list[Path]:
    """The services folders of checkouts of this workspace that were deleted while their processes went on."""
    return [Path(folder) for folder in _serving(workspace) if not Path(folder).exists()]


def _serving(workspace: Workspace) -> list[str]:
    """The services folders, other than its own, whose processes carry the workspace's mark."""
    ours = mark(workspace)
    return sorted(orphans.folders(ours) - {str(workspace.services_dir)}) if ours else []


def _original(root: Path) -> Path | None:
    """The checkout that DVC made this temporary copy of."""
    for folder in root.parents:
        if folder.parts[-3:] == _EXPERIMENTS:
            return folder.parents[2]
    return None


def _main_worktree(root: Path) -> Path | None:
    """The checkout that holds the repository of which `root` is a further worktree."""
    link = root / ".git"
    if not link.is_file():
        return None
    own = (root / link.read_text().removeprefix("gitdir:").strip()).resolve()
    shared = own / "commondir"
    common = (own / shared.read_text().strip()).resolve() if shared.is_file() else own
    return common.parent if common.name == ".git" else None
