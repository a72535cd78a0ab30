"""Whether a data set may land in a workspace: with which options, beside which other tasks, under which name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lorax.data import extending, pins, prints, versions
from lorax.data.contract import Report, check
from lorax.data.duplicates import Landed
from lorax.data.images import Progress
from lorax.data.incoming import Incoming, checked_source, read_incoming
from lorax.data.pins import Pins, TaskNotes
from lorax.errors import DataVersionError
from lorax.params import LandingParams, load_params
from lorax.stream import check_new_name
from lorax.workspace import Workspace


@dataclass(frozen=True)
class LandingOptions:
    """How a data set is to land.

    Args:
        split: for data without val/: the share of images, by content, that goes to train/.
        replace: whether it takes the place of what has landed under its name.
        accept_leak: why a format leak is accepted; '' if it is not.
        contract: the thresholds of the landing contract; None takes those of the workspace's params.yaml.
        extend: whether it brings more images of the task that is named, and lands beside it.
        new_version_of: the task from whose branch its own is to start; '' for none.
    """

    split: float | None = None
    replace: bool = False
    accept_leak: str = ""
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
        return extending.notes_for(found, task, self.extend, self.new_version_of, self.accept_leak)


DEFAULTS = LandingOptions()
"""A complete data set under a new name, held against the workspace's own contract."""


def check_landing(
    workspace: Workspace, source: Path, task: str, options: LandingOptions = DEFAULTS, progress: Progress | None = None
) -> Report:
    """What the landing contract says of the data set in folder `source`; changes nothing.

    Raises:
        LayoutError: unsafe name, no folder, or one that landing must not read.
        DataVersionError: what has landed can't be read.
    """
    check_new_name(task)
    incoming = read_incoming(checked_source(workspace, source), task, options.split, progress)
    return report_on(workspace, named(incoming, pins.on_disk(workspace), options), options, progress=progress)


def named(incoming: Incoming, found: Pins, options: LandingOptions) -> Incoming:
    """The data set under the name that it lands under, which differs from the given one where it extends that task.

    Raises:
        DataVersionError: that one has not landed.
    """
    extends = options.notes(found, incoming.task).extends
    name = extending.extension_name(found, extends, incoming.digest) if options.extend else incoming.task
    return replace(incoming, task=name, extends=extends)


def report_on(
    workspace: Workspace,
    incoming: Incoming,
    options: LandingOptions,
    beside: Pins | None = None,
    progress: Progress | None = None,
) -> Report:
    """What the landing contract says of a data set that was read.

    Args:
        workspace, incoming, options: what is to land, and how.
        beside: what pins the other tasks; None: the data.dvc on disk.
        progress: told of images that have landed and must be looked at, since it is not known how they look.

    Raises:
        DataVersionError: what has landed can't be read.
        ParamsError: params.yaml is not valid.
    """
    beside = beside or pins.on_disk(workspace)
    files = versions.manifest(workspace, beside)
    others = {path: md5 for path, md5 in files.items() if path.partition("/")[0] != incoming.task}
    rules = options.contract or load_params(workspace.params_path).landing
    tasks = [task for task in beside.stream if task.name != incoming.task]
    landed = Landed(others, prints.known(workspace, tasks, others, progress))
    report = check(incoming, landed, rules, options.accept_leak, _taken(workspace, incoming, options.replace, beside))
    own = pins.on_disk(workspace)
    problems = extending.problems(incoming, own, versions.manifest(workspace, own))
    return replace(report, findings=(*problems, *report.findings))


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
