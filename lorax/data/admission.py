"""Whether a data set may land in a workspace: with which options, beside which other tasks, under which name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorax.data import pins, versions
from lorax.data.contract import Report, check
from lorax.data.images import Progress
from lorax.data.incoming import Incoming, checked_source, read_incoming
from lorax.data.pins import Pins
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
    """

    split: float | None = None
    replace: bool = False
    accept_leak: str = ""
    contract: LandingParams | None = None


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
    return report_on(
        workspace, read_incoming(checked_source(workspace, source), task, options.split, progress), options
    )


def report_on(workspace: Workspace, incoming: Incoming, options: LandingOptions, beside: Pins | None = None) -> Report:
    """What the landing contract says of a data set that was read.

    Args:
        workspace, incoming, options: what is to land, and how.
        beside: what pins the other tasks; None: the data.dvc on disk.

    Raises:
        DataVersionError: what has landed can't be read.
        ParamsError: params.yaml is not valid.
    """
    beside = beside or pins.on_disk(workspace)
    files = versions.manifest(workspace, beside)
    others = {path: md5 for path, md5 in files.items() if path.partition("/")[0] != incoming.task}
    rules = options.contract or load_params(workspace.params_path).landing
    return check(incoming, others, rules, options.accept_leak, _taken(workspace, incoming, options.replace, beside))


def _taken(workspace: Workspace, incoming: Incoming, replace: bool, beside: Pins) -> str:
    """Why the task's name can't be used; '' if it can."""
    digests = {entry.name: entry.digest for entry in beside.stream}
    found = digests.get(incoming.task, incoming.digest)
    if found != incoming.digest and not replace:
        return (
            f"task {incoming.task!r} has landed already, with other files (digest {found[:12]}, these have "
            f"{incoming.digest[:12]}). Choose another --task name, or replace the landed files with --replace."
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
