"""`lorax learn`: what there is to learn is learned, and what became of each challenger is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from lorax import reconcile
from lorax.commands import running, tables
from lorax.commands.records import hold_line, hold_record, version_record
from lorax.params import Params
from lorax.workspace import Workspace


def learn(workspace: Workspace, params: Params, preset: str | None, console: Console) -> dict[str, Any]:
    """Learn in this process, servers first if there is something to learn.

    Returns:
        `learned`: the versions registered; `outcomes`: what became of each; `champion`; `accuracy`: its rows;
        `held`; `approval`: the version that waits for it, or None.
    """
    numbers: list[int] = []
    if reconcile.waiting_tasks(workspace, params):
        running.serve(workspace, params, console)
        numbers = running.learn(workspace, preset, console)
    registry = reconcile.look(workspace, params)
    champion, versions, waiting = registry.champion(), registry.versions(), registry.waiting()
    registered = [next(version for version in versions if version.version == number) for number in numbers]
    return {
        "learned": numbers,
        "outcomes": [
            {"version": v.version, "task": v.task, "outcome": v.outcome, "reason": v.reason} for v in registered
        ],
        "champion": version_record(champion) if champion else None,
        "accuracy": reconcile.accuracy_rows(champion, versions) if champion else [],
        "held": [hold_record(hold) for hold in registry.held()],
        "approval": waiting.version if waiting else None,
    }


def print_outcomes(record: Mapping[str, Any], out: Console) -> None:
    """The champion's accuracy, then what was refused, is held or waits."""
    if not record["learned"]:
        out.print("nothing to learn: the champion knows every landed task that is not held.")
    champion = record["champion"]
    if champion is None:
        out.print("no champion yet: land a task first." if not record["held"] else "no champion yet.")
    else:
        tables.print_table(tables.accuracy_matrix(champion["tasks"], record["accuracy"]), out)
        tables.print_metrics(champion["metrics"], out)
    for found in record["outcomes"]:
        if found["outcome"] != "promoted":
            out.print(f"version {found['version']} ({found['task']}) {found['outcome']}:", style="yellow", markup=False)
            for reason in found["reason"].split("; "):
                out.print(f"  {reason}", style="yellow", markup=False)
    for hold in record["held"]:
        out.print(f"held: {hold_line(hold)}", markup=False)
    if record["approval"] is not None:
        out.print(approval(record["approval"]), markup=False)


def approval(version: int) -> str:
    """What to do about a version that waits."""
    return (
        f"version {version} waits for approval, and nothing is learned until then: 'lorax promote {version} "
        f"--reason TEXT' or 'lorax refuse {version} --reason TEXT'."
    )
