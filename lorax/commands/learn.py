"""`lorax learn` and `lorax scenario`: a flow run in this process, with its progress on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from lorax.commands import access
from lorax.commands.console import Json, Preset, err, opened, print_record
from lorax.commands.tables import (
    HEADLINES,
    print_accuracy,
    print_quarantined,
    print_table,
    quarantine_record,
    table,
    version_record,
)
from lorax.text import percent

if TYPE_CHECKING:
    from lorax.params import Params
    from lorax.workspace import Workspace


def learn(preset: Preset = None, as_json: Json = False) -> None:
    """Learn every landed task that the champion does not know, one episode each, in landing order.

    Interrupted at any point, the next `lorax learn` continues there. What the gate refused is told at the end; the exit
    code is 0 all the same. Example: `lorax learn`
    """
    print_record(learn_waiting(*opened(preset), preset), print_outcomes, as_json)


def scenario(
    name: Annotated[str, typer.Argument(help="landed (all there is), or easy, hard, long, real (docs/method.md).")],
    orders: Annotated[
        int | None, typer.Option(min=2, help="Learn it in so many orders of its tasks, and tell how far they differ.")
    ] = None,
    preset: Preset = None,
    as_json: Json = False,
) -> None:
    """Learn a whole scenario from scratch with today's params.yaml; registry and champion stay as they are.

    Writes metrics, matrix and plots to work/scenario/, and a run to MLflow. Example: `lorax scenario landed --orders 5`
    """
    from lorax import progress, reconcile

    workspace, params = opened(preset)
    reconcile.scenario_orders(workspace, name, orders or 1, params.run.seed)  # there are so many, or it says so
    access.serve(workspace, params)
    from flows.scenario import scenario as flow  # not before: Prefect reads the environment

    with progress.showing(err):
        record = flow(str(workspace.root), name, orders, preset)
    print_record(record, _print_result if orders is None else _print_orders, as_json)


def learn_waiting(workspace: Workspace, params: Params, preset: str | None) -> dict[str, Any]:
    """Learn in this process, servers first if there is something to learn.

    Returns:
        `learned`: the versions registered; `outcomes`: what became of each; `champion`; `accuracy`: its rows;
        `held`; `approval`: the version that waits for it, or None.
    """
    from lorax import progress, reconcile

    numbers: list[int] = []
    if reconcile.waiting_tasks(workspace, params):
        access.serve(workspace, params)
        from flows.learn import learn as flow  # not before: Prefect reads the environment

        with progress.showing(err):
            numbers = flow(str(workspace.root), preset)
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
        "held": [quarantine_record(hold) for hold in registry.quarantined()],
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
        print_accuracy(champion["tasks"], record["accuracy"], champion["metrics"], out)
    for outcome in record["outcomes"]:
        if outcome["outcome"] != "promoted":
            out.print(
                f"version {outcome['version']} ({outcome['task']}) {outcome['outcome']}:", style="yellow", markup=False
            )
            for reason in outcome["reason"].split("; "):
                out.print(f"  {reason}", style="yellow", markup=False)
    print_quarantined(record["held"], out)
    if record["approval"] is not None:
        out.print(approval(record["approval"]), markup=False)


def approval(version: int) -> str:
    """What to do about a version that waits."""
    return (
        f"version {version} waits for approval, and nothing is learned until then: 'lorax promote {version} "
        f"--reason TEXT' or 'lorax refuse {version} --reason TEXT'."
    )


def _print_result(result: Mapping[str, Any], out: Console) -> None:
    print_accuracy(result["tasks"], result["rows"], result["metrics"], out)


def _print_orders(record: Mapping[str, Any], out: Console) -> None:
    """A row for each order, and the mean and the spread below."""
    shown = {name: HEADLINES[name] for name in ("average_accuracy", "average_incremental_accuracy", "forgetting")}
    rows = table("order", *shown.values(), "tasks", right=("order", *shown.values()))
    for order in record["orders"]:
        figures = (percent(order["metrics"][name]) for name in shown)
        rows.add_row(str(order["order"]), *figures, Text(", ".join(order["tasks"])))
    rows.add_section()
    for title, key in (("mean", "mean"), ("deviation", "deviation")):
        rows.add_row(title, *(percent(record["spread"][name][key]) for name in shown), "")
    print_table(rows, out)
