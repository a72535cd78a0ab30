"""`lorax diff`: what is different between two model versions. Values come in pairs; None where a version has none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorax.commands import access
from lorax.commands.console import Json, VersionNumber, opened, print_record
from lorax.commands.tables import HEADLINES, TRUST, nearest_line, nearest_record, print_table, table
from lorax.text import short

if TYPE_CHECKING:
    from lorax.learning.state import LearnerState
    from lorax.registry import ModelVersion


def diff(first: VersionNumber, second: VersionNumber, as_json: Json = False) -> None:
    """Compare two model versions: accuracy on each task, classes, data, parameters.

    Example: `lorax diff 2 3`
    """
    print_record(_record((first, second)), print_differences, as_json)


def _record(numbers: Sequence[int]) -> dict[str, Any]:
    """Accuracy on each task, data, metrics, classes and parameters of two versions; of parameters only what differs."""
    from lorax import reconcile
    from lorax.learning.state_files import load_state

    workspace, params = opened()
    registry = reconcile.look(workspace, params)
    versions = [registry.version(number) for number in numbers]
    states = [load_state(access.fetched(workspace, params, str(number))[1]) for number in numbers]
    parameters = [_flat(state.parameters) for state in states]
    return {
        "versions": list(numbers),
        "tasks": _tasks(versions),
        "metrics": {name: [version.metrics.get(name) for version in versions] for name in (*HEADLINES, *TRUST)},
        "calibrated": [version.calibrated for version in versions],
        "newest": [{"task": v.task, "nearest": nearest_record(v), "start": v.start or None} for v in versions],
        "classes": _classes(states),
        "data": [{"digest": version.data_digest, "commit": version.data_commit} for version in versions],
        "parameters": {
            key: pair for key in _union(parameters) if (pair := _pair(parameters, key))[0] != pair[1]
        },
    }  # fmt: skip


def print_differences(record: Mapping[str, Any], out: Console) -> None:
    """The same for people: accuracies in percent, what is equal left out."""
    names = [f"version {number}" for number in record["versions"]]
    numbers = (*names, "difference")
    compared = table("accuracy, %", *numbers, "data", right=numbers)
    for task, row in record["tasks"].items():
        contents = " -> ".join(short(digest) for digest in row["digests"] if digest)
        data = f"changed: {contents}" if row["data"] == "changed" else row["data"]
        compared.add_row(task, *_percent(row["accuracy"]), data)
    compared.add_section()
    for key, title in (HEADLINES | TRUST).items():
        if any(value is not None for value in record["metrics"][key]):
            compared.add_row(title, *_percent(record["metrics"][key]), "")
    print_table(compared, out)
    for name, calibrated in zip(names, record["calibrated"], strict=True):
        if not calibrated:
            out.print(f"{name} is uncalibrated")
    for name, newest in zip(names, record["newest"], strict=True):
        if near := nearest_line(newest):
            out.print(f"{name} +{newest['task']}: {near}", markup=False)
    for kind, labels in record["classes"].items():
        if labels:
            out.print(f"classes {kind}: {', '.join(labels)}", markup=False)
    one, other = (f"{d['digest'] or 'none'} (commit {short(d['commit'])})" for d in record["data"])
    out.print(f"data revision: {one}" + (" in both" if one == other else f" -> {other}"), markup=False)
    for key, (before, after) in record["parameters"].items():
        out.print(f"{key}: {before} -> {after}", markup=False)
    if not record["parameters"]:
        out.print("the same parameters")


def _tasks(versions: Sequence[ModelVersion]) -> dict[str, Any]:
    digests = [{task.name: task.digest for task in version.tasks} for version in versions]
    accuracy = [{task.name: version.metrics[f"accuracy/{task.name}"] for task in version.tasks} for version in versions]
    return {
        name: {
            "accuracy": _pair(accuracy, name),
            "digests": _pair(digests, name),
            "data": _compared(*_pair(digests, name), versions),
        }
        for name in _union(digests)
    }


def _compared(one: str | None, other: str | None, versions: Sequence[ModelVersion]) -> str:
    if one and other:
        return "same" if one == other else "changed"
    return f"only in version {versions[0 if one else 1].version}"


def _classes(states: Sequence[LearnerState]) -> dict[str, list[str]]:
    """Labels of the classes that both know, and that only one does."""
    one, other = ([entry.label for entry in state.classes.entries] for state in states)
    return {
        "in both": [label for label in one if label in other],
        "gone": [label for label in one if label not in other],
        "new": [label for label in other if label not in one],
    }


def _percent(pair: Sequence[float | None]) -> list[str]:
    """Two cells, and their difference where both have a value."""
    one, other = pair
    difference = "" if one is None or other is None else f"{100 * (other - one):+.1f}"
    return [*("" if value is None else f"{100 * value:.1f}" for value in pair), difference]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """`section.key` -> value."""
    return {f"{section}.{key}": value for section, keys in values.items() for key, value in keys.items()}


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def _pair(mappings: Sequence[Mapping[str, Any]], key: str) -> tuple[Any, Any]:
    one, other = mappings
    return one.get(key), other.get(key)
