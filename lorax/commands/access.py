"""What commands ask for first: servers that answer, the registry behind them, a version's learner state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lorax.commands.console import err
from lorax.errors import RegistryError

if TYPE_CHECKING:
    from lorax.params import Params
    from lorax.registry import Look, ModelVersion, Registry
    from lorax.services.embedded import Services
    from lorax.workspace import Workspace


def serve(workspace: Workspace, params: Params) -> Services:
    """Have both servers answer, and point this process at them: Prefect and MLflow read the environment on import."""
    from lorax.services import embedded, servers

    with err.status("looking for the servers") as status:
        services = embedded.up(workspace, params, progress=lambda text: status.update(text))
    os.environ.update(servers.environment(workspace, params))
    return services


def served_registry(workspace: Workspace, params: Params) -> Registry:
    """The registry behind MLflow's server, which is started if need be; Prefect's may be down."""
    from lorax import reconcile
    from lorax.services import embedded, servers

    if embedded.status(workspace, params).mlflow.is_ready:
        os.environ.update(servers.environment(workspace, params))
    else:
        serve(workspace, params)
    return reconcile.open_registry(workspace, params)


def fetched(workspace: Workspace, params: Params, wanted: str) -> tuple[ModelVersion, Path]:
    """A model version and its learner state, fetched from the registry where it must be.

    Args:
        wanted: a version's number, or an alias such as @champion.

    Raises:
        RegistryError: there is no such version.
    """
    from lorax import reconcile
    from lorax.tidying import used

    look = reconcile.look(workspace, params)
    chosen = _chosen(look, wanted)
    is_here = (workspace.states_dir / chosen.state_digest).is_dir()
    registry = look if is_here else served_registry(workspace, params)
    return chosen, used(registry.download_state(chosen.version, workspace.states_dir))


def _chosen(look: Look, wanted: str) -> ModelVersion:
    if wanted.startswith("@"):
        return look.aliased(wanted[1:])
    if wanted.isdecimal():
        return look.version(int(wanted))
    raise RegistryError(f"version {wanted!r} is not understood: expected a number, @champion or @challenger.")
