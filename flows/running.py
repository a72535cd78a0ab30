"""Running flows from a terminal: the servers first, then the flow in this process, its progress on the console.

Prefect and MLflow read the environment when they are imported, so it is set before the flows' modules are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from flows import reconcile, terminal
from lorax import services
from lorax.errors import RegistryError
from lorax.params import Params
from lorax.services import Services
from lorax.workspace import Workspace


def serve(workspace: Workspace, params: Params, console: Console) -> Services:
    """Have both servers answer, and point this process at them."""
    with console.status("looking for the servers") as status:
        found = services.up(workspace, params, progress=lambda text: status.update(text))
    os.environ.update(services.environment(workspace, params))
    return found


def learn(workspace: Workspace, preset: str | None, console: Console) -> list[int]:
    """Run the learn flow; returns the versions registered. `serve` comes first."""
    from flows.learn import learn as flow

    with terminal.showing(console):
        return flow(str(workspace.root), preset)


def scenario(workspace: Workspace, name: str, preset: str | None, console: Console) -> dict[str, Any]:
    """Run the scenario flow; returns what it measured. `serve` comes first."""
    from flows.scenario import scenario as flow

    with terminal.showing(console):
        return flow(str(workspace.root), name, preset)


def state_dir(workspace: Workspace, params: Params, version: int | None, console: Console) -> Path:
    """The learner state of a model version (default: the champion), fetched from the registry where it must be.

    Raises:
        RegistryError: there is no such version.
    """
    registry = reconcile.open_registry(workspace, params)
    if version is None:
        chosen = registry.champion()
    else:
        chosen = next((found for found in registry.versions() if found.version == version), None)
    if chosen is None:
        wanted = "champion yet" if version is None else f"version {version}"
        raise RegistryError(
            f"there is no {wanted} of {params.registry.model!r}: see 'lorax history', or 'lorax learn'."
        )
    if not (workspace.states_dir / chosen.state_digest).is_dir():
        serve(workspace, params, console)
        registry = reconcile.open_registry(workspace, params)
    return registry.download_state(chosen.version, workspace.states_dir)
