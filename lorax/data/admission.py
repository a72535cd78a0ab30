"""Whether a data set may land in a workspace: with which options, beside which other tasks, under which name."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lorax.data import extending, pins, prints, versions
from lorax.data.contract import Report, check
from lorax.data.duplicates import Landed
from lorax.data.images import Progress
from lorax.data.incoming import Incoming, checked_source, read_incoming
from lorax.data.layouts.arrangement import Plan
from lorax.data.layouts.items import Reading
from lorax.data.pins import Pins, TaskNotes
from lorax.drafts import scratch, sweep
from lorax.errors import DataVersionError, StorageError
from lorax.params import LandingParams, load_params
from lorax.stream import check_new_name
from lorax.workspace import Workspace

_AS_IT_IS = Reading()


@dataclass(frozen=True)
class LandingOptions:
    """How a data set is to land.

    Args:
        reading: how it is to be read, as far as it does not say so itself.
        replace: whether its tasks take the place of what has landed under their names.
        accept_leak: why a format leak is accepted; '' if it is not.
        source, licence: where the images come from and what may be done with them; '' if that was not said.
        contract: the thresholds of the landing contract; None takes those of the workspace's params.yaml.
        extend: whether it brings more images of a task that has landed, and lands beside it.
        new_version_of: the task from whose branch its own is to start; '' for none.
    """

    reading: Reading = _AS_IT_IS
    replace: bool = False
    accept_leak: str = ""
    source: str = ""
    licence: str = ""
    contract: LandingParams | None = None
    extend: bool = False
    new_version_of: str = ""

    def notes(self, found: Pins, task: str) -> TaskNotes:
        """What is to be kept with task `task`; as `extending.notes_for`."""
        if self.extend and self.replace:
            raise DataVersionError(
                f"more images of {task!r} take no other's place. Give --extend or --replace, not both; an extension is "
                f"replaced under its own name, such as '{task}-2'."
            )
        recoded = f"jpeg:{self.reading.recode}" if self.reading.recode else ""
        of_others = extending.notes_for(found, task, self.extend, self.new_version_of, self.accept_leak)
        return replace(of_others, source=self.source, licence=self.licence, recoded=recoded)


DEFAULTS = LandingOptions()
"""A complete data set under a new name, held against the workspace's own contract."""


def check_landing(
    workspace: Workspace,
    source: Path,
    task: str = "",
    options: LandingOptions = DEFAULTS,
    progress: Progress | None = None,
) -> tuple[Plan, list[Report]]:
    """What a data set was taken for, and what the landing contract says of each task; changes nothing.

    Raises:
        LayoutError: unsafe name, nothing that can be landed, or it can't be told what is what.
        DataVersionError: what has landed can't be read.
        StorageError: the disk is full or refuses to be written.
    """
    if task:
        check_new_name(task)
    with landing_errors(workspace), images_apart(workspace) as apart:
        plan, incoming = read_incoming(checked_source(workspace, source), task, options.reading, apart, progress)
        tasks = named(incoming, pins.on_disk(workspace), options)
        return plan, reports_on(workspace, tasks, options, progress=progress)


def named(incoming: Sequence[Incoming], found: Pins, options: LandingOptions) -> list[Incoming]:
    """Tasks under the names that they land under, which differ from the given ones where they extend those.

    Raises:
        DataVersionError: such a one has not landed.
    """
    if options.new_version_of and len(incoming) > 1:
        tasks = ", ".join(one.task for one in incoming)
        raise DataVersionError(f"only one task can be the next version of {options.new_version_of!r}; found {tasks}.")
    extends = [options.notes(found, one.task).extends for one in incoming]
    names = [
        extending.extension_name(found, base, one.digest) if options.extend else one.task
        for one, base in zip(incoming, extends, strict=True)
    ]
    return [replace(one, task=name, extends=base) for one, name, base in zip(incoming, names, extends, strict=True)]


@contextmanager
def landing_errors(workspace: Workspace) -> Iterator[None]:
    """Turn what a full or unreadable disk raises while something lands, or is tried, into a StorageError."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        what = "the disk is full" if full else f"{error.filename or workspace.root}: {error.strerror or error}"
        raise StorageError(
            f"landing into {workspace.root} failed and changed nothing: {what}. "
            f"{'Make room' if full else 'Mend that'} and land again."
        ) from error


@contextmanager
def images_apart(workspace: Workspace) -> Iterator[Path]:
    """A folder for images that are no files in their source; on the disk of data/, so that they can be moved there."""
    folder = workspace.work_dir / "landing"
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    with scratch(folder) as apart:
        yield apart


def reports_on(
    workspace: Workspace,
    incoming: Sequence[Incoming],
    options: LandingOptions,
    beside: Pins | None = None,
    progress: Progress | None = None,
) -> list[Report]:
    """What the landing contract says of tasks that were read, each beside what has landed and those before it.

    Args:
        workspace, incoming, options: what is to land, and how.
        beside: what pins the other tasks; None: the data.dvc on disk.
        progress: told of images that have landed and must be looked at, since it is not known how they look.

    Raises:
        DataVersionError: what has landed can't be read.
        ParamsError: params.yaml is not valid.
    """
    beside = beside or pins.on_disk(workspace)
    names = {one.task for one in incoming}
    others = {p: md5 for p, md5 in versions.manifest(workspace, beside).items() if p.partition("/")[0] not in names}
    rules = options.contract or load_params(workspace.params_path).landing
    tasks = [task for task in beside.stream if task.name not in names]
    seen = prints.known(workspace, tasks, others, progress)
    reports, own = [], pins.on_disk(workspace)
    landed = versions.manifest(workspace, own)
    for one in incoming:
        taken = _taken(workspace, one, options.replace, beside)
        report = check(one, Landed(others, seen, extending.family_of(one, beside)), rules, options.accept_leak, taken)
        problems = extending.problems(one, own, Landed(landed, seen))
        reports.append(replace(report, findings=(*problems, *report.findings)))
        others |= {f"{one.task}/{path}": file.md5 for path, file in one.files.items() if not file.problem}
        seen |= prints.prints_of(one.files.values())
    return reports


def _taken(workspace: Workspace, incoming: Incoming, replace: bool, beside: Pins) -> str:
    """Why the task's name can't be used; '' if it can."""
    digests = {entry.name: entry.digest for entry in beside.stream}
    found = digests.get(incoming.task, incoming.digest)
    if found != incoming.digest and not replace:
        return (
            f"task {incoming.task!r} has landed already, with other files (digest {found[:12]}, these have "
            f"{incoming.digest[:12]}). Choose another --task name, add these to it with --extend, or replace those "
            "that landed with --replace."
        )
    here = {entry.name for entry in pins.on_disk(workspace).stream}
    return "" if incoming.task in here else _strangers(workspace, incoming.task)


def _strangers(workspace: Workspace, task: str) -> str:
    """What of data/ is in the way although no landing brought it; '' if nothing is."""
    if workspace.data_dvc_path.exists():
        strangers = [workspace.data_dir / task] if (workspace.data_dir / task).exists() else []
    else:  # the first landing pins all that lies below data/
        strangers = sorted(workspace.data_dir.iterdir()) if workspace.data_dir.exists() else []
    names = ", ".join(path.name for path in strangers)
    return (
        f"{workspace.data_dir} holds {names}, which data.dvc does not know; only landing writes there. "
        "Move it away and land again."
        if strangers
        else ""
    )
