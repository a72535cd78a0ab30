"""Landing as a person sees it: what the contract found, on the terminal and as JSON."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows import events
from lorax import progress
from lorax.commands.tables import print_table
from lorax.data import landing
from lorax.data.admission import LandingOptions, check_landing
from lorax.data.contract import Finding, Report
from lorax.data.layout import READY
from lorax.data.versions import LandedTask
from lorax.data.watch import DropFolder, Outcome
from lorax.errors import ContractError, LoraxError
from lorax.workspace import Workspace

_SHOWN = 3  # paths in a table's row; JSON has them all
_COLOURS = {"refused": "red", "warned": "yellow"}


def land_one(
    workspace: Workspace,
    source: Path,
    task: str,
    options: LandingOptions,
    out: Console | None,
    err: Console,
    *,
    commit: bool,
) -> dict[str, Any]:
    """Land a data set and print what the contract says of it.

    Args:
        workspace, source, task, options, commit: as for `lorax.data.landing.land`.
        out: where the report goes; None prints none.
        err: where progress goes.

    Returns:
        For scripts: task, digest, landed, report (None if the same bytes had landed already), error ("" if none).
    """
    reports: list[Report] = []
    try:
        with progress.counting(err) as shown:
            done = landing.land(
                workspace, source, task, options=options, commit=commit, on_report=reports.append, progress=shown
            )
    except ContractError:
        print_report(reports[-1], out)
        events.publish(workspace, reports[-1])
        return _record(reports[-1], landed=False)
    report = reports[-1] if reports else None
    print_report(report, out)
    if out:
        known = "" if report else ": it had landed already; what was missing of it is back"
        out.print(f"landed {done.name} ({done.digest[:12]}){known}", markup=False)
    _tell(workspace, done.name, report, err, commit=commit)
    found = {"task": done.name, "digest": done.digest, "landed": True, "error": ""}
    return found | {"report": report.record() if report else None}


def try_out(
    workspace: Workspace, source: Path, task: str, options: LandingOptions, out: Console | None, err: Console
) -> dict[str, Any]:
    """Print what landing a data set would find; arguments and result as for `land_one`."""
    with progress.counting(err) as shown:
        report = check_landing(workspace, source, task, options, shown)
    print_report(report, out)
    if out and not report.refused:
        out.print(f"{task} would land ({report.digest[:12]}); nothing was changed.", markup=False)
    return _record(report, landed=False)


def watch(
    workspace: Workspace,
    drop_dir: Path,
    options: LandingOptions,
    out: Console,
    err: Console,
    *,
    commit: bool,
    as_json: bool,
) -> None:
    """Land what becomes complete in a drop folder, until Ctrl-C or a request to terminate.

    Args:
        workspace, options, commit: as for `lorax.data.landing.land`.
        drop_dir: the folder that holds one folder per task.
        out: where reports go, as JSON (one line each) or for people.
        err: where progress goes.
    """

    def bring(folder: Path, task: str, on_report: landing.OnReport) -> LandedTask:
        with progress.counting(err) as shown:
            return landing.land(
                workspace, folder, task, options=options, commit=commit, on_report=on_report, progress=shown
            )

    err.print(f"watching {drop_dir.resolve()}: a folder NAME/ lands as task NAME once it holds {READY}.", markup=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a landing under way is undone
    try:
        for outcome in DropFolder(drop_dir, bring).watch():
            _print_outcome(outcome, out, err, as_json)
            try:
                if outcome.landed:
                    _tell(workspace, outcome.task, outcome.report, err, commit=commit)
                elif outcome.report:
                    events.publish(workspace, outcome.report)
            except LoraxError as error:  # a params.yaml that is being edited, say
                err.print(f"lorax: {outcome.task}: not told to Prefect: {error}", markup=False)
    except KeyboardInterrupt:
        err.print("no longer watching.")


def _tell(workspace: Workspace, task: str, report: Report | None, err: Console, *, commit: bool) -> None:
    """Tell Prefect's server of a landing, and the person whether it heard."""
    if report:
        events.publish(workspace, report)
    if commit:
        err.print(events.announce(workspace, task), markup=False)
    else:
        err.print("not announced, and not learned until data.dvc is committed: 'git add data.dvc', then 'git commit'.")


def _print_outcome(outcome: Outcome, out: Console, err: Console, as_json: bool) -> None:
    if as_json:
        out.print(json.dumps(_outcome_record(outcome), ensure_ascii=False), markup=False)
        return
    print_report(outcome.report, out)
    if outcome.landed:
        out.print(f"landed {outcome.task} ({outcome.landed.digest[:12]})", markup=False)
    else:
        when = "refused until it changes" if outcome.is_refused else "tried again in a minute"
        err.print(f"lorax: {outcome.task} ({when}): {outcome.error}", markup=False)


def _outcome_record(outcome: Outcome) -> dict[str, Any]:
    report = outcome.report.record() if outcome.report else None
    digest = outcome.landed.digest if outcome.landed else (outcome.report.digest if outcome.report else "")
    found = {"task": outcome.task, "digest": digest, "landed": outcome.landed is not None, "error": outcome.error}
    return found | {"report": report}


def _record(report: Report, *, landed: bool) -> dict[str, Any]:
    error = ""
    if report.refused:
        kinds = ", ".join(dict.fromkeys(finding.kind for finding in report.refused))
        error = f"task {report.task!r} does not fulfil the landing contract ({kinds}); nothing was changed."
    found = {"task": report.task, "digest": report.digest, "landed": landed, "error": error}
    return found | {"report": report.record()}


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
    table = Table()
    for name in ("", "finding", "what", "such as"):
        table.add_column(name)
    for finding in (*report.refused, *report.warned):
        severity = Text(finding.severity, style=_COLOURS[finding.severity])
        table.add_row(severity, finding.kind, Text(finding.message), Text(_examples(finding)))
    print_table(table, out)


def _examples(finding: Finding) -> str:
    """Every bad file by name, for each must be mended by hand; of other findings the first few."""
    shown = len(finding.paths) if finding.kind == "undecodable" else _SHOWN
    more = len(finding.paths) - shown
    return "\n".join(finding.paths[:shown]) + (f"\nand {more:,} more" if more > 0 else "")
