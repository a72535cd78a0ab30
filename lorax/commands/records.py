"""What the registry knows as plain JSON values, for scripts; and as lines, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorax.text import minute, short

if TYPE_CHECKING:
    from lorax.registry import Entry, ModelVersion, Quarantine, TaskVerdict


def version_record(version: ModelVersion) -> dict[str, Any]:
    """A model version, with all that the gate said."""
    return {
        "version": version.version,
        "aliases": list(version.aliases),
        "task": version.task,
        "tasks": [task.name for task in version.tasks],
        "digests": {task.name: task.digest for task in version.tasks},
        "state_digest": version.state_digest,
        "parent_digest": version.parent_digest,
        "line": version.line,
        "calibrated": version.calibrated,
        "nearest": nearest_record(version),
        "start": version.start or None,
        "data_digest": version.data_digest,
        "data_commit": version.data_commit,
        "metrics": {name: _number(value) for name, value in version.metrics.items()},
        "created_at": version.created_at.isoformat(),
        "outcome": version.outcome,
        "reason": version.reason,
        "verdicts": [verdict_record(verdict) for verdict in version.verdicts],
        "promoted_at": version.promoted_at.isoformat() if version.promoted_at else None,
        "promoted_by": version.promoted_by,
    }


def nearest_record(version: ModelVersion) -> dict[str, Any] | None:
    """Which task's branch is most like the version's newest, and how much so; None where that was not looked up."""
    from lorax.registry.comparison import NEAREST_SIMILARITY

    if not version.nearest:
        return None
    return {"task": version.nearest, "similarity": version.metrics.get(NEAREST_SIMILARITY)}


def verdict_record(verdict: TaskVerdict) -> dict[str, Any]:
    """What the gate said of one task; null where it could not be checked."""
    return {
        "task": verdict.task,
        "kind": verdict.kind,
        "passed": verdict.passed,
        "before": _number(verdict.before),
        "after": _number(verdict.after),
        "chance": _number(verdict.chance),
        "reason": verdict.reason,
    }


def quarantine_record(one: Quarantine) -> dict[str, Any]:
    """A quarantined task."""
    return asdict(one) | {"at": one.at.isoformat()}


def entry_record(entry: Entry) -> dict[str, Any]:
    """A line of the journal."""
    return asdict(entry) | {"at": entry.at.isoformat()}


def nearest_line(version: Mapping[str, Any]) -> str:
    """What the newest branch of a version's record is like, or what it started from; '' where that is not known."""
    if version["start"]:
        return f"started from {version['start']}"
    near = version["nearest"]
    if not near:
        return ""
    return f"nearest {near['task']}" + ("" if near["similarity"] is None else f" {near['similarity']:.2f}")


def quarantine_line(hold: Mapping[str, Any]) -> str:
    """A quarantined task for people, in a line."""
    of = f", version {hold['version']}" if hold["version"] else ""
    return f"{hold['task']} (bytes {short(hold['digest'])}{of}): {brief(hold)} ({hold['by']}, {minute(hold['at'])})"


def print_quarantined(holds: Iterable[Mapping[str, Any]], out: Console, what: str = "held") -> None:
    """Tell what is quarantined, or was, a line each."""
    for hold in holds:
        title = "withdrawn" if hold["is_withdrawn"] and what == "held" else what
        out.print(f"{title}: {quarantine_line(hold)}", markup=False)


def brief(told: Mapping[str, Any]) -> str:
    """Why, for people: of the gate's reasons the first."""
    from lorax.registry.journal import GATE

    first, *more = told["reason"].split("; ") if told["by"] == GATE else [told["reason"]]
    return f"{first}, and {len(more)} more" if more else str(first)


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
