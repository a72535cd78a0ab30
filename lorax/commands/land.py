"""`lorax land`: a data set is checked and landed, or those that come into a drop folder; what was found is told."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from lorax.commands.console import Json, err, here, out, print_json
from lorax.commands.tables import print_table, table
from lorax.errors import ContractError, LoraxError
from lorax.text import short

if TYPE_CHECKING:
    from lorax.data.admission import LandingOptions
    from lorax.data.contract import Report
    from lorax.data.findings import Finding
    from lorax.data.landing import OnReport
    from lorax.data.watch import Outcome
    from lorax.stream import PinnedTask
    from lorax.workspace import Workspace

_COLOURS = {"refused": "red", "warned": "yellow"}


def land(
    path: Annotated[
        Path | None, typer.Argument(help="One task's folder: train/ and val/ with 0_real, 1_fake or 1_NAME, ...")
    ] = None,
    task: Annotated[str, typer.Option(help="The task's name: lower-case letters, digits, '_' and '-'.")] = "",
    watch: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A drop folder: DIR/NAME lands once it holds _READY; until Ctrl-C."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report; exit code 1 if refused.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of what landed under this name.")] = False,
    accept_leak: Annotated[
        str,
        typer.Option(metavar="WHY", help="Land although formats tell real from synthetic; kept with the task."),
    ] = "",
    extend: Annotated[
        bool, typer.Option("--extend", help="More images of the generator that --task names; it lands as NAME-2, ...")
    ] = False,
    new_version_of: Annotated[
        str,
        typer.Option(metavar="NAME", help="The task of which this is the next version; learned from its branch."),
    ] = "",
    split: Annotated[float | None, typer.Option(help="For data without val/: the share that goes to train/.")] = None,
    commit: Annotated[bool, typer.Option(help="Commit data.dvc, and push where a remote is set.")] = True,
    as_json: Json = False,
) -> None:
    """Check a new data set, copy it to data/NAME, and pin it with DVC and git. Nothing changes on any error.

    All that is wrong is told at once. Example: `lorax land ~/downloads/gaugan --task gaugan`
    """
    from lorax.data.admission import LandingOptions

    options = LandingOptions(split, replace, accept_leak, extend=extend, new_version_of=new_version_of)
    if watch is not None:
        if path or task or dry_run or accept_leak or extend or new_version_of:
            raise typer.BadParameter(
                "--watch goes without PATH, --task, --dry-run, --accept-leak, --extend and --new-version-of"
            )
        _watch(here(), watch, options, commit=commit, as_json=as_json)
        return
    if path is None or not task:
        raise typer.BadParameter("expected PATH and --task NAME, or --watch DIR")
    screen = None if as_json else out
    if dry_run:
        record = _try_out(here(), path, task, options, screen)
    else:
        record = land_one(here(), path, task, options, screen, commit=commit)
    if as_json:
        print_json(record)
    if record["error"]:
        err.print(f"lorax: error: {record['error']}", markup=False)
        raise typer.Exit(1)


def land_one(
    workspace: Workspace, source: Path, task: str, options: LandingOptions, out: Console | None, *, commit: bool
) -> dict[str, Any]:
    """Land a data set and print what the contract says of it.

    Args:
        workspace, source, task, options, commit: as for `lorax.data.landing.land`.
        out: where the report goes; None prints none.

    Returns:
        For scripts: task, digest, landed, report (None if the same bytes had landed already), error ("" if none).
    """
    from flows import events

    reports: list[Report] = []
    try:
        landed = _bring(workspace, options, commit, source, task, reports.append)
    except ContractError:
        _print_report(reports[-1], out)
        events.publish(workspace, reports[-1])
        return _record(task, None, reports[-1], _refusal(reports[-1]))
    report = reports[-1] if reports else None
    _print_report(report, out)
    if out:
        known = "" if report else ": it had landed already; what was missing of it is back"
        out.print(f"landed {landed.name} ({short(landed.digest)}){known}", markup=False)
    _tell(workspace, landed.name, report, commit=commit)
    return _record(landed.name, landed, report)


def _try_out(
    workspace: Workspace, source: Path, task: str, options: LandingOptions, out: Console | None
) -> dict[str, Any]:
    """Print what landing a data set would find; arguments and result as for `land_one`."""
    from lorax import progress
    from lorax.data.admission import check_landing

    with progress.counting(err) as shown:
        report = check_landing(workspace, source, task, options, shown)
    _print_report(report, out)
    if out and not report.refused:
        out.print(f"{report.task} would land ({short(report.digest)}); nothing was changed.", markup=False)
    return _record(report.task, None, report, _refusal(report))


def _watch(workspace: Workspace, drop_dir: Path, options: LandingOptions, *, commit: bool, as_json: bool) -> None:
    """Land what becomes complete in a drop folder, which holds one folder per task; until Ctrl-C or SIGTERM."""
    from flows import events
    from lorax.data.layout import READY
    from lorax.data.watch import DropFolder

    err.print(f"watching {drop_dir.resolve()}: a folder NAME/ lands as task NAME once it holds {READY}.", markup=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a landing under way is undone
    try:
        for outcome in DropFolder(drop_dir, partial(_bring, workspace, options, commit)).watch():
            _print_outcome(outcome, as_json)
            try:
                if outcome.landed:
                    _tell(workspace, outcome.task, outcome.report, commit=commit)
                elif outcome.report:
                    events.publish(workspace, outcome.report)
            except LoraxError as error:  # a params.yaml that is being edited, say
                err.print(f"lorax: {outcome.task}: not told to Prefect: {error}", markup=False)
    except KeyboardInterrupt:
        err.print("no longer watching.")


def _bring(
    workspace: Workspace, options: LandingOptions, commit: bool, folder: Path, task: str, on_report: OnReport
) -> PinnedTask:
    from lorax import progress
    from lorax.data import landing

    with progress.counting(err) as shown:
        return landing.land(
            workspace, folder, task, options=options, commit=commit, on_report=on_report, progress=shown
        )


def _tell(workspace: Workspace, task: str, report: Report | None, *, commit: bool) -> None:
    """Tell Prefect's server of a landing, and the person whether it heard."""
    from flows import events

    if report:
        events.publish(workspace, report)
    if commit:
        err.print(events.announce(workspace, task), markup=False)
    else:
        err.print("not announced, and not learned until data.dvc is committed: 'git add data.dvc', then 'git commit'.")


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        record = _record(outcome.task, outcome.landed, outcome.report, outcome.error)
        out.print(json.dumps(record, ensure_ascii=False), markup=False)
        return
    _print_report(outcome.report, out)
    if outcome.landed:
        out.print(f"landed {outcome.task} ({short(outcome.landed.digest)})", markup=False)
    else:
        when = "refused until it changes" if outcome.is_refused else "tried again in a minute"
        err.print(f"lorax: {outcome.task} ({when}): {outcome.error}", markup=False)


def _record(task: str, landed: PinnedTask | None, report: Report | None, error: str = "") -> dict[str, Any]:
    known = landed or report
    record = {"task": task, "digest": known.digest if known else "", "landed": landed is not None, "error": error}
    return record | {"report": report.record() if report else None}


def _refusal(report: Report) -> str:
    """Why it can't land, in a line; '' where it can."""
    kinds = ", ".join(dict.fromkeys(finding.kind for finding in report.refused))
    return f"task {report.task!r} does not fulfil the landing contract ({kinds}); nothing was changed." if kinds else ""


def _print_report(report: Report | None, out: Console | None) -> None:
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
