"""`lorax land`: a data set is checked and landed, or those that come into a drop folder; what was found is told."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from lorax.commands.console import Json, err, here, out, print_json
from lorax.commands.plans import (
    asked,
    print_plan,
    print_report,
    print_reports,
    publish,
    record_of,
    refusal,
    task_record,
)
from lorax.commands.tasks import held_again
from lorax.errors import ContractError, LoraxError
from lorax.text import short

if TYPE_CHECKING:
    from lorax.data.admission import LandingOptions
    from lorax.data.contract import OnReport, Report
    from lorax.data.landing import OnPlan
    from lorax.data.layouts.arrangement import Plan
    from lorax.data.watch import Outcome
    from lorax.stream import PinnedTask
    from lorax.workspace import Workspace


def land(
    path: Annotated[
        Path | None,
        typer.Argument(help="A data set: a tree of images, Parquet, Arrow or tar files, or a list (CSV, TSV, JSONL)."),
    ] = None,
    task: Annotated[
        str, typer.Option(help="The only task's name; without it, a task for each generator, called like it.")
    ] = "",
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
    split: Annotated[
        float | None, typer.Option(help="For data without a test split: the share that goes to train/.")
    ] = None,
    list_: Annotated[
        list[Path] | None,
        typer.Option(
            "--list",
            metavar="FILE|DIR",
            help="A list of PATH's images (CSV, TSV, JSONL, JSON, text), or a folder of lists, wherever it lies. "
            "Repeatable.",
        ),
    ] = None,
    split_list: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A data set's own list of files by split: *train*.txt, ..., split.json. Repeatable."
        ),
    ] = None,
    real: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|DIR|none",
            help="The folder, or generator by name, that is real; or a folder that lends real images. Repeatable.",
        ),
    ] = None,
    label: Annotated[
        str, typer.Option(metavar="VALUE=real,...", help="What labels mean, as 0=real,1=fake; * is all others.")
    ] = "",
    generators: Annotated[
        str, typer.Option(metavar="NAME,...", help="Only these, in this order; NAME=TASK gives another name.")
    ] = "",
    levels: Annotated[
        str,
        typer.Option(metavar="LEVEL/...", help="What folders are: split, class, generator, subject, * (from the top)."),
    ] = "",
    order: Annotated[
        str, typer.Option(metavar="release|name|given", help="Of the tasks; by release where dates are told.")
    ] = "",
    limit: Annotated[int | None, typer.Option(help="Most images of each class in each split.", min=1)] = None,
    recode: Annotated[
        str, typer.Option(metavar="jpeg:QUALITY", help="Encode every image anew, real and synthetic alike.")
    ] = "",
    source: Annotated[str, typer.Option(metavar="URL", help="Where the images come from; kept with each task.")] = "",
    licence: Annotated[str, typer.Option(help="What may be done with them; kept with each task.")] = "",
    image_column: Annotated[str, typer.Option(help="Of a table: the images.")] = "",
    path_column: Annotated[str, typer.Option(help="The images' paths.")] = "",
    label_column: Annotated[str, typer.Option(help="Real or synthetic.")] = "",
    generator_column: Annotated[str, typer.Option(help="The generator.")] = "",
    split_column: Annotated[str, typer.Option(help="The split.")] = "",
    date_column: Annotated[str, typer.Option(help="When the generator came out.")] = "",
    commit: Annotated[bool, typer.Option(help="Commit data.dvc, and push where a remote is set.")] = True,
    as_json: Json = False,
) -> None:
    """Check a data set, copy each of its tasks to data/NAME, and pin them with DVC and git. All or nothing lands.

    All that is wrong is told at once. Example: `lorax land ~/downloads/GenImage --dry-run`
    """
    from lorax.data.admission import LandingOptions

    columns = {
        "image": image_column, "path": path_column, "label": label_column, "generator": generator_column,
        "split": split_column, "date": date_column,
    }  # fmt: skip
    reading = asked(
        split, list_ or (), split_list or (), real or (), label, generators, columns, levels, order, limit, recode
    )
    options = LandingOptions(
        reading, replace, accept_leak, source, licence, extend=extend, new_version_of=new_version_of
    )
    if watch is not None:
        if path or task or dry_run or accept_leak or extend or new_version_of:
            raise typer.BadParameter(
                "--watch goes without PATH, --task, --dry-run, --accept-leak, --extend and --new-version-of"
            )
        _watch(here(), watch, options, commit=commit, as_json=as_json)
        return
    if path is None:
        raise typer.BadParameter("expected PATH, or --watch DIR")
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
    """Land a data set and print what it was taken for and what the contract says of it.

    Args:
        workspace, source, task, options, commit: as for `lorax.data.landing.land`.
        out: where the report goes; None prints none.

    Returns:
        For scripts, see `record_of`.
    """
    plans: list[Plan] = []
    reports: list[Report] = []
    try:
        landed = _bring(workspace, options, commit, source, task, reports.append, plans.append)
    except ContractError:
        print_plan(plans[-1], out)
        print_reports(reports, out)
        for report in reports:
            if report.refused:
                publish(workspace, report)
        return record_of(plans[-1], (), reports, refusal(reports))
    print_plan(plans[-1], out)
    print_reports(reports, out)
    known = {report.task for report in reports}
    for one in landed:
        again = "" if one.name in known else ": it had landed already, and all of it is here"
        if out:
            out.print(f"landed {one.name} ({short(one.digest)}){again}", markup=False)
    _tell(workspace, [one.name for one in landed], reports, commit=commit)
    return record_of(plans[-1], landed, reports)


def _try_out(
    workspace: Workspace, source: Path, task: str, options: LandingOptions, out: Console | None
) -> dict[str, Any]:
    """Print what landing a data set would find; arguments and result as for `land_one`."""
    from lorax import progress
    from lorax.data.admission import check_landing

    with progress.counting(err) as shown:
        plan, reports = check_landing(workspace, source, task, options, shown)
    print_plan(plan, out)
    print_reports(reports, out)
    if out and not refusal(reports):
        names = ", ".join(f"{report.task} ({short(report.digest)})" for report in reports)
        out.print(f"would land: {names}; nothing was changed.", markup=False)
    return record_of(plan, (), reports, refusal(reports))


def _watch(workspace: Workspace, drop_dir: Path, options: LandingOptions, *, commit: bool, as_json: bool) -> None:
    """Land what becomes complete in a drop folder, which holds one folder per task; until Ctrl-C or SIGTERM."""
    from lorax.data.layout import READY
    from lorax.data.watch import DropFolder

    err.print(f"watching {drop_dir.resolve()}: a folder NAME/ lands as task NAME once it holds {READY}.", markup=False)
    for told in _ENDINGS:
        signal.signal(told, _stop)  # which undoes a landing under way
    try:
        for outcome in DropFolder(drop_dir, partial(_bring_one, workspace, options, commit)).watch():
            _print_outcome(outcome, as_json)
            try:
                if outcome.landed:
                    _tell(workspace, [outcome.task], [outcome.report] if outcome.report else [], commit=commit)
                elif outcome.report:
                    publish(workspace, outcome.report)
            except LoraxError as error:  # a params.yaml that is being edited, say
                err.print(f"lorax: {outcome.task}: not told to Prefect: {error}", markup=False)
    except KeyboardInterrupt:
        for told in _ENDINGS:
            signal.signal(told, signal.SIG_IGN)  # it ends now: a second one would only leave a traceback
        err.print("no longer watching.")


_ENDINGS = (signal.SIGINT, signal.SIGTERM)


class _Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, as a kind of its own.

    Once a plain one has come out of text that `exec` ran, as dataclasses do while they are imported, Python ends by
    SIGINT in place of its exit code, although it was caught (seen with 3.11).
    """


def _stop(*_: object) -> NoReturn:
    raise _Stopped


def _bring_one(
    workspace: Workspace, options: LandingOptions, commit: bool, folder: Path, task: str, on_report: OnReport
) -> PinnedTask:
    [landed] = _bring(workspace, options, commit, folder, task, on_report, lambda plan: None)
    return landed


def _bring(
    workspace: Workspace,
    options: LandingOptions,
    commit: bool,
    source: Path,
    task: str,
    on_report: OnReport,
    on_plan: OnPlan,
) -> tuple[PinnedTask, ...]:
    from lorax import lineage, progress
    from lorax.data import landing, versions

    with progress.counting(err) as shown, lineage.run("land") as told:
        landed = landing.land(
            workspace,
            source,
            task,
            options=options,
            commit=commit,
            on_plan=on_plan,
            on_report=on_report,
            progress=shown,
        )
        told.outputs += [lineage.task(one.name, one.digest) for one in landed]
        if commit:
            told.outputs.append(lineage.data(versions.revision(workspace).digest))
        return landed


def _tell(workspace: Workspace, tasks: Sequence[str], reports: Sequence[Report], *, commit: bool) -> None:
    """Tell Prefect's server of a landing, and the person whether it heard."""
    from flows import announcer

    for report in reports:
        publish(workspace, report)
    if commit:
        err.print(announcer.announce(workspace, tasks), markup=False)
        for line in held_again(workspace, tasks):
            err.print(line, markup=False)
    else:
        err.print("not announced, and not learned until data.dvc is committed: 'git add data.dvc', then 'git commit'.")


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        record = task_record(outcome.task, outcome.landed, outcome.report, outcome.error)
        out.print(json.dumps(record, ensure_ascii=False), markup=False)
        return
    print_report(outcome.report, out)
    if outcome.landed:
        out.print(f"landed {outcome.task} ({short(outcome.landed.digest)})", markup=False)
    else:
        when = "refused until it changes" if outcome.is_refused else "tried again in a minute"
        err.print(f"lorax: {outcome.task} ({when}): {outcome.error}", markup=False)
