"""What `lorax land` is asked for, as landing takes it; and what it found: as tables, for scripts, on Prefect's page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from lorax.commands.tables import print_table, table
from lorax.errors import ServiceError
from lorax.text import short, some

if TYPE_CHECKING:
    from lorax.data.contract import Report
    from lorax.data.findings import Finding
    from lorax.data.layouts.arrangement import Arranged, Plan
    from lorax.data.layouts.items import Reading
    from lorax.stream import PinnedTask
    from lorax.workspace import Workspace

_ORDERS = ("", "release", "name", "given")
_LEVELS = ("split", "class", "generator", "subject", "*")
_COLOURS = {"refused": "red", "warned": "yellow"}
_SUCH_AS = 5  # paths in a row of Prefect's page; `lorax land --json` has them all
_QUALITY = re.compile(r"jpeg:([1-9]\d?|100)")


def asked(
    split: float | None,
    manifests: Sequence[Path],
    lists: Sequence[Path],
    real: Sequence[str],
    label: str,
    generators: str,
    columns: Mapping[str, str],
    levels: str,
    order: str,
    limit: int | None,
    recode: str,
) -> Reading:
    """How a source is to be read, from what a person typed; see `Reading`.

    Raises:
        BadParameter: an option's value is none that it can have.
    """
    from lorax.data.layouts.items import Reading

    labels = _pairs(label)
    if label and (not all(labels.values()) or set(labels.values()) - {"real", "fake"}):
        raise typer.BadParameter(f"--label {label}: expected VALUE=real and VALUE=fake, such as 0=real,1=fake")
    if order not in _ORDERS:
        raise typer.BadParameter(f"--order {order}: expected release, name or given")
    named = tuple(level for level in levels.split("/") if level)
    if set(named) - set(_LEVELS) or (named and "generator" not in named):
        raise typer.BadParameter(
            f"--levels {levels}: expected such as split/generator/class, one of them generator; also subject and *"
        )
    quality = _QUALITY.fullmatch(recode)
    if recode and not quality:
        raise typer.BadParameter(f"--recode {recode}: expected jpeg: and a quality from 1 to 100, such as jpeg:90")
    return Reading(
        split=split,
        manifests=tuple(manifests),
        lists=tuple(lists),
        real=tuple(real),
        labels=labels,
        generators=_pairs(generators),
        columns={kind: name for kind, name in columns.items() if name},
        levels=named,
        order=order,
        limit=limit,
        recode=int(quality[1]) if quality else None,
    )


def _pairs(text: str) -> dict[str, str]:
    """`a=b,c` as {a: b, c: ''}."""
    parts = (part.strip().partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in parts}


def print_plan(plan: Plan, out: Console | None) -> None:
    """What a source was taken for; of several tasks, a table with how many images of each class in each split."""
    if out is None:
        return
    out.print(f"taken for {plan.taken_for}", markup=False)
    for text in plan.told:
        out.print(f"- {text}", markup=False)
    if len(plan.tasks) == 1:
        return
    counts = [_counts(one) for one in plan.tasks]
    places = sorted({place for found in counts for place in found})
    shown = table("task", "generator", *places, right=places)
    for one, found in zip(plan.tasks, counts, strict=True):
        shown.add_row(Text(one.name), Text(one.generator), *(f"{found[place]:,}" for place in places))
    print_table(shown, out)


def record_of(plan: Plan, landed: Sequence[PinnedTask], reports: Sequence[Report], error: str = "") -> dict[str, Any]:
    """For scripts: what the source was taken for, and of each task what `task_record` has.

    Of an only task that stands at the top, too.
    """
    names = [one.name for one in landed] or [one.name for one in plan.tasks]
    if len(reports) == len(names):  # what extends a task has another name than the plan has
        names = [report.task for report in reports]
    digests, said = {one.name: one for one in landed}, {report.task: report for report in reports}
    tasks = [
        task_record(name, digests.get(name), said.get(name), error)
        | {"generator": one.generator, "counts": dict(sorted(_counts(one).items())), "released": one.released}
        for name, one in zip(names, plan.tasks, strict=True)
    ]
    only = tasks[0] if len(tasks) == 1 else {"task": "", "digest": "", "landed": bool(landed), "report": None}
    top = {key: only[key] for key in ("task", "digest", "landed")} | {"error": error, "report": only["report"]}
    return top | {"taken_for": plan.taken_for, "told": list(plan.told), "tasks": tasks}


def task_record(task: str, landed: PinnedTask | None, report: Report | None, error: str = "") -> dict[str, Any]:
    """Of a task: its name and digest, whether it landed, the report (None if the same bytes had landed), the error."""
    known = landed or report
    record = {"task": task, "digest": known.digest if known else "", "landed": landed is not None, "error": error}
    return record | {"report": report.record() if report else None}


def refusal(reports: Sequence[Report]) -> str:
    """Why tasks can't land, in a line; '' where they can."""
    refused = [report for report in reports if report.refused]
    if not refused:
        return ""
    kinds = ", ".join(dict.fromkeys(finding.kind for report in refused for finding in report.refused))
    names = ", ".join(repr(report.task) for report in refused)
    does = "task {} does" if len(refused) == 1 else "tasks {} do"
    return f"{does.format(names)} not fulfil the landing contract ({kinds}); nothing was changed."


def _counts(one: Arranged) -> Counter[str]:
    """Split and class folder -> images."""
    return Counter("/".join((path.split("/")[0], path.split("/")[-2])) for path in one.files if path.count("/") > 1)


def print_reports(reports: Sequence[Report], out: Console | None) -> None:
    """Each under its task's name, where there are several."""
    for report in reports:
        if out and len(reports) > 1:
            out.print(f"\n{report.task}", markup=False, style="bold")
        print_report(report, out)


def print_report(report: Report | None, out: Console | None) -> None:
    """The contract's findings as a table, under a line that says how many images there are."""
    if out is None or report is None:
        return
    out.print(", ".join(f"{place} {count:,}" for place, count in report.counts.items()) or "no images", markup=False)
    leaks = ", ".join(f"{folder} {accuracy:.2f}" for folder, accuracy in report.leaks.items())
    if leaks:
        out.print(f"told from real by file format alone: {leaks} (chance: 0.50)", markup=False)
    if not report.findings:
        out.print("nothing found.")
        return
    shown = table("", "finding", "what", "such as")
    for finding in (*report.refused, *report.warned):
        severity = Text(finding.severity, style=_COLOURS[finding.severity])
        shown.add_row(severity, finding.kind, Text(finding.message), Text(_examples(finding)))
    print_table(shown, out)


def _examples(finding: Finding) -> str:
    """The first of the files; JSON has them all."""
    from lorax.data.findings import SHOWN

    more = len(finding.paths) - SHOWN
    return "\n".join(finding.paths[:SHOWN]) + (f"\nand {more:,} more" if more > 0 else "")


def publish(workspace: Workspace, report: Report) -> None:
    """Put a landing's report on Prefect's page, as the artifact `landing-<task>`, where the server answers."""
    from lorax.services.prefect_api import PrefectApi

    artifact = {
        "key": f"landing-{report.task.replace('_', '-')}",  # Prefect takes no '_' here
        "type": "markdown",
        "description": f"the landing contract's report on {report.task} ({short(report.digest)})",
        "data": _markdown(report),
    }
    api = PrefectApi.of(workspace)
    with suppress(ServiceError):
        api.post("artifacts/", artifact)


def _markdown(report: Report) -> str:
    counts = ", ".join(f"{place}: {count:,}" for place, count in report.counts.items()) or "no images"
    leaks = "".join(f"\n\nTold from real by format alone: {name} {value:.2f}" for name, value in report.leaks.items())
    head = f"# {report.task}: {'refused' if report.refused else 'accepted'}\n\n{counts}{leaks}\n\n"
    if not report.findings:
        return head + "Nothing found."
    rows = "".join(
        f"| {f.severity} | {f.kind} | {_cell(f.message)} | {_cell(some(f.paths, _SUCH_AS))} |\n"
        for f in report.findings
    )
    return f"{head}| | finding | what | such as |\n|---|---|---|---|\n{rows}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
