"""Commands as a person types them, in a workspace of its own servers."""

from __future__ import annotations

import os
from contextlib import chdir
from typing import Any

from typer.testing import CliRunner

from lorax import reconcile
from lorax.cli import app
from lorax.commands.tables import version_record
from lorax.params import load_params
from lorax.workspace import Workspace
from tests.forked import ROOT, Process


def lorax(workspace: Workspace, *arguments: str, code: int = 0, **also: str) -> str:
    """Run the command, with these environment variables, too; returns what it printed."""
    done = start(workspace, *arguments, **also)
    output, errors = done.communicate()
    assert done.returncode == code, output + errors
    assert "Traceback" not in errors
    return output if code == 0 else errors


def told(workspace: Workspace, *arguments: str, code: int = 0) -> str:
    """The same of a command that runs no flow, in this process."""
    its_own: dict[str, str | None] = {"PREFECT_API_URL": None, "MLFLOW_TRACKING_URI": None}
    with chdir(workspace.root):
        done = CliRunner().invoke(app, arguments, env=its_own)
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr


def start(workspace: Workspace, *arguments: str, **also: str) -> Process:
    return Process(arguments, workspace.root, environment() | also)


def environment() -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI")}
    return own | {"PYTHONPATH": str(ROOT)}


def champion(workspace: Workspace) -> dict[str, Any]:
    """As `lorax status` tells it, without a process of its own."""
    found = reconcile.look(workspace, load_params(workspace.params_path)).champion()
    assert found is not None
    return version_record(found)
