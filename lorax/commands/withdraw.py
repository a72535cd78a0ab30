"""`lorax withdraw` and `lorax forget`: a task that must go, and every trace of its images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lorax.commands import access
from lorax.commands.console import Json, Preset, err, opened, print_record, who
from lorax.commands.promotion import Reason, named
from lorax.commands.records import print_quarantined, quarantine_record, version_record
from lorax.text import short

if TYPE_CHECKING:
    from lorax.params import Params
    from lorax.workspace import Workspace


def withdraw(
    task: Annotated[str, typer.Argument(help="A landed task.")],
    reason: Reason,
    preset: Preset = None,
    as_json: Json = False,
) -> None:
    """Take a task out of champion and data.dvc, as if it had never landed: what came after it is learned anew first.

    The champion of now serves meanwhile. Interrupted at any point, the same command goes on there. Example: `lorax
    withdraw gaugan --reason "its licence has ended"`
    """
    from lorax import progress, reconcile

    workspace, params = opened(preset)
    access.serve(workspace, params)
    before = reconcile.look(workspace, params).champion()
    from flows.withdraw import withdraw as flow  # not before: Prefect reads the environment

    with progress.showing(err):
        numbers = flow(str(workspace.root), task, reason, who(), preset)
    record = _withdrawn(workspace, params, task) | {"learned": numbers}
    print_record(record | {"before": version_record(before) if before else None}, _print_withdrawn, as_json)


def _withdrawn(workspace: Workspace, params: Params, task: str) -> dict[str, Any]:
    """What became of a task, from registry and git."""
    from lorax import reconcile
    from lorax.data import versions

    registry, revision = reconcile.look(workspace, params), versions.revision(workspace)
    champion = registry.champion()
    return {
        "task": task,
        "champion": version_record(champion) if champion else None,
        "held": [quarantine_record(hold) for hold in registry.quarantined()],
        "data": {"digest": revision.digest, "commit": revision.commit},
    }


def _print_withdrawn(record: Mapping[str, Any], out: Console) -> None:
    task, data = record["task"], record["data"]
    out.print(f"champion: {named(record['before'])} -> {named(record['champion'])}", markup=False)
    print_quarantined(record["held"], out)
    out.print(
        f"data.dvc has {task} no more (commit {short(data['commit'])}). Older versions know it still, and its images "
        f"are in DVC's cache: 'lorax forget {task}' removes both.",
        markup=False,
    )
