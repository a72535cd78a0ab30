"""`lorax history`: model versions by lines of descent, then what happened to the champion and to tasks, in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from lorax.commands.console import Json, opened, print_record
from lorax.commands.tables import (
    PLAIN,
    brief,
    entry_record,
    nearest_line,
    print_quarantined,
    print_table,
    quarantine_record,
    table,
    version_record,
)
from lorax.errors import RegistryError
from lorax.text import minute, percent, short

if TYPE_CHECKING:
    from lorax.registry import Look

_MOVES = {"promoted": "promoted", "rolled back": "rolled back to", "moved": "made champion"}
_TRUST = {
    "average_binary_accuracy": "detection",
    "calibration_error": "calibration error",
    "unknown_auroc": "unknown AUROC",
    "robustness": "robustness",
    "false_positives/clean": "false positives",
}
_STYLES = {"promoted": "green", "refused": "red", "waiting": "yellow"}


def history(
    gate: Annotated[bool, typer.Option("--gate", help="Show what the gate said of every task.")] = False,
    as_json: Json = False,
) -> None:
    """Draw the tree of model versions, and list what happened to the champion and the tasks.

    A version hangs below the one that it grew from. Example: `lorax history --gate`
    """
    from lorax import reconcile

    print_record(_record(reconcile.look(*opened())), partial(print_history, gate=gate), as_json)


def _record(registry: Look) -> dict[str, Any]:
    """All versions, the journal and the held tasks; `broken` says what was deleted in MLflow itself.

    Raises:
        RegistryError: MLflow doesn't answer.
    """
    broken = registry.breakage()
    try:
        held = registry.quarantined()
    except RegistryError:
        if not broken:
            raise
        held = registry.all_quarantined()  # the champion's alias was lost, and `broken` says so
    return {
        "versions": [version_record(version) for version in registry.versions()],
        "journal": [entry_record(entry) for entry in registry.journal()],
        "held": [quarantine_record(hold) for hold in held],
        "broken": broken,
    }


def print_history(history: Mapping[str, Any], out: Console, *, gate: bool) -> None:
    """The same for people.

    Args:
        history: what `_record` returned.
        out: where it goes.
        gate: show the gate's verdicts on every task, not only those that refused.
    """
    if not history["versions"] and not history["journal"]:
        out.print("no versions yet: land a task, then 'lorax learn'.")
        return
    for sentence in history["broken"]:
        out.print(f"broken: {sentence}", style="red", markup=False)
    for line in _lines(history["versions"], _last_moves(history["journal"]), gate):
        out.print(line, soft_wrap=False)  # else what is wider than the console would be cut off
    out.print("\nchampion and tasks over time:")
    print_table(_journal(history["journal"]), out)
    print_quarantined(history["held"], out)


def _last_moves(entries: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """How each version that ever was champion last became it."""
    return {
        entry["version"]: f"{_MOVES[entry['kind']]} {minute(entry['at'])} by {entry['by']}: {entry['reason']}"
        for entry in entries
        if entry["kind"] in _MOVES
    }


def _lines(versions: Sequence[Mapping[str, Any]], moves: Mapping[int, str], gate: bool) -> list[Tree]:
    """The versions, a line of descent one below the other; what grew beside it hangs where it left it."""
    numbers = {version["state_digest"]: version["version"] for version in versions}
    heirs = _heirs(versions)
    places, lines = dict[str, Tree](), dict[str, list[Tree]]()
    begun = list[tuple[str | None, list[Tree]]]()  # where each line left another
    for version in versions:  # a parent is registered before its children
        digest, parent = version["state_digest"], version["parent_digest"]
        goes_on = parent in numbers and heirs[parent] == digest
        if goes_on:
            whence, lines[digest] = "", lines[parent]
        else:
            whence, lines[digest] = _whence(parent, numbers), []
            begun.append((parent if parent in numbers else None, lines[digest]))
        places[digest] = _place(version, moves, gate, whence)
        lines[digest].append(places[digest])
    shown = list[Tree]()
    for parent, line in begun:
        (places[parent].children if parent else shown).extend(line)
    return shown


def _whence(parent: str | None, numbers: Mapping[str, int]) -> str:
    """Where a line begins."""
    if parent is None:
        return ""
    return f"  (from version {numbers[parent]})" if parent in numbers else "  (parent deleted)"


def _heirs(versions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Of each parent, by digest, the child that goes on its line.

    It leads to the champion, else it was champion itself, else it has the most below it, else it is the newest.
    """
    from lorax.registry import CHAMPION

    heirs, ranks = dict[str, str](), dict[str, tuple[bool, bool, int]]()
    below = defaultdict[str, list[str]](list)
    for version in reversed(versions):
        digest, parent = version["state_digest"], version["parent_digest"]
        leads = CHAMPION in version["aliases"] or any(ranks[child][0] for child in below[digest])
        count = 1 + sum(ranks[child][2] for child in below[digest])
        ranks[digest] = (leads, version["promoted_at"] is not None, count)
        if parent is not None:
            below[parent].append(digest)
            if parent not in heirs or ranks[digest] > ranks[heirs[parent]]:
                heirs[parent] = digest
    return heirs


def _place(version: Mapping[str, Any], moves: Mapping[int, str], gate: bool, whence: str) -> Tree:
    """A version with the gate's verdicts below it."""
    became = moves.get(version["version"], "") if version["promoted_at"] else ""
    place = Tree(_label(version, became or _outcome(version)).append(whence, style="dim"))
    for verdict in version["verdicts"]:
        if gate or (not verdict["passed"] and version["outcome"] != "promoted"):
            judged = f"{'passed' if verdict['passed'] else 'failed'}: " if gate else ""
            place.add(Text(f"{judged}{verdict['reason']}", style="dim" if verdict["passed"] else "red"))
    return place


def _label(version: Mapping[str, Any], outcome: str) -> Text:
    """A version in a line: number, task, aliases, accuracy, what its branch is like, and what became of it."""
    from lorax.registry import CHAMPION

    metrics = version["metrics"]
    label = Text(f"version {version['version']} ")
    label.append(f"+{version['task']}", style="bold")
    for alias in version["aliases"]:
        label.append(f"  [{alias}]", style="bold green" if alias == CHAMPION else "yellow")
    average, forgetting = percent(metrics["average_accuracy"]), percent(metrics["forgetting"])
    nearest = f", {near}" if (near := nearest_line(version)) else ""
    label.append(f"  average {average}, forgetting {forgetting}{_trust(version)}{nearest}, ")
    label.append(f"data {short(version['data_digest'])}  ")
    return label.append(outcome, style=_STYLES.get(version["outcome"], ""))


def _trust(version: Mapping[str, Any]) -> str:
    """How far its verdicts can be trusted, as far as that was measured."""
    metrics = version["metrics"]
    told = [f"{name} {percent(metrics[key])}" for key, name in _TRUST.items() if key in metrics]
    return "".join(f", {part}" for part in [*([] if version["calibrated"] else ["uncalibrated"]), *told])


def _outcome(version: Mapping[str, Any]) -> str:
    """What became of a version that is not known to have been champion."""
    if version["outcome"] == "refused" and not all(verdict["passed"] for verdict in version["verdicts"]):
        return "refused"  # the reasons are the verdicts below it
    return f"{version['outcome'] or 'unfinished'}{': ' if version['reason'] else ''}{version['reason']}"


def _journal(entries: Sequence[Mapping[str, Any]]) -> Table:
    shown = table("when", "what", "version", "task", "by", "why", right=("version",), **PLAIN)
    for entry in entries:
        number = str(entry["version"] or "")
        cells = (minute(entry["at"]), entry["kind"], number, entry["task"], entry["by"], brief(entry))
        shown.add_row(*map(Text, cells))
    return shown
