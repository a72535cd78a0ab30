"""`lorax sweep`: methods compared over scenarios, seeds and orders, on all cores of a machine or a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lorax.commands import access
from lorax.commands.console import Json, RayAddress, err, here, print_record
from lorax.commands.tables import HEADLINES, print_table, table

if TYPE_CHECKING:
    from lorax.sweeps.plan import Plan


def sweep(
    path: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="Scenarios, methods, seeds; docs/scale.md.")],
    is_dry: Annotated[
        bool, typer.Option("--dry-run", help="List the cells, and which are finished; run none.")
    ] = False,
    address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """Learn each scenario by each method, by each seed, in each order; tell mean and spread, and draw them.

    A file such as `{scenarios: [landed], methods: [lorax, linear], seeds: [0, 1, 2], orders: 2}`. Each core learns a
    cell at a time. Run the same command again after Ctrl-C or a kill: finished cells stay. Table and plot go to
    work/sweeps/NAME/ and to MLflow; registry and champion stay as they are. If a cell fails, the others go on, and the
    exit code is 1. Example: `lorax sweep sweep.yaml --dry-run`, `lorax sweep sweep.yaml --json`
    """
    from lorax import progress
    from lorax.sweeps.plan import plan_sweep

    plan = plan_sweep(here(), path)
    if is_dry:
        print_record(_planned(plan), _print_cells, as_json)
        return
    access.serve(plan.workspace, plan.params)
    from flows.sweep import sweep as run  # not before: Prefect reads the environment

    with progress.showing(err):
        record = run(str(plan.workspace.root), str(path.resolve()), address or None)
    print_record(record, _print_comparison, as_json)
    if record["failed"]:
        raise typer.Exit(1)


def _planned(plan: Plan) -> dict[str, Any]:
    from lorax.sweeps.results import finished

    done = finished(plan)
    names = ("scenario", "method", "seed", "order", "key")
    cells = [
        {name: getattr(cell, name) for name in names} | {"tasks": list(cell.tasks), "finished": cell.key in done}
        for cell in plan.cells
    ]
    return {"sweep": plan.name, "cells": cells, "finished": sum(cell["finished"] for cell in cells)}


def _print_cells(record: Mapping[str, Any], out: Console) -> None:
    rows = table("scenario", "method", "seed", "order", "finished", "tasks", right=("seed", "order"))
    for cell in record["cells"]:
        numbers = (str(cell["seed"]), str(cell["order"]))
        is_done = "yes" if cell["finished"] else "no"
        rows.add_row(cell["scenario"], cell["method"], *numbers, is_done, ", ".join(cell["tasks"]))
    print_table(rows, out)
    out.print(f"{len(record['cells'])} cells, {record['finished']} finished")


def _print_comparison(record: Mapping[str, Any], out: Console) -> None:
    """A row for each scenario and method, in percent, and below it what failed."""
    shown = {name: HEADLINES[name] for name in ("average_accuracy", "average_incremental_accuracy", "forgetting")}
    rows = table("scenario", "method", "cells", *shown.values(), right=("cells", *shown.values()))
    for line in record["table"]:
        rows.add_row(
            line["scenario"], line["method"], str(line["cells"]), *(_spread(line["figures"][n]) for n in shown)
        )
    if record["table"]:
        print_table(rows, out)
    for title, why in record["failed"].items():
        out.print(f"failed: {title}: {why}", style="red", markup=False)


def _spread(of: Mapping[str, Any]) -> str:
    from lorax.sweeps.results import Spread

    return str(Spread(of["mean"], of["deviation"]))
