"""Lines of descent: which timeline a new state belongs to, and the whole curve that leads up to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lorax.registry.tracking import BINARY_ACCURACY, Point, matrix_metrics, points_at
from lorax.registry.versions import ModelVersion

if TYPE_CHECKING:  # imports torch, which a look-up can do without
    from lorax.learning.state import LearnerState


def line_of(digest: str, parent_digest: str | None, versions: Sequence[ModelVersion]) -> str:
    """The line that a state continues when it becomes champion: its parent's, or one of its own.

    It is one of its own if it has no parent, or another child carries the parent's on already: two children on one
    timeline would give it two points at one step.
    """
    own = next((v for v in versions if v.state_digest == digest), None)
    if own and own.line:
        return own.line
    parent = next((v for v in versions if v.state_digest == parent_digest), None)
    if parent is None or not parent.line:
        return digest
    is_carried_on = any(v.parent_digest == parent_digest and v.line == parent.line for v in versions)
    return digest if is_carried_on else parent.line


def ancestors(version: ModelVersion, versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    """`version` and those that it grew from, newest first, as far as they are still registered."""
    by_digest: dict[str | None, ModelVersion] = {v.state_digest: v for v in versions}
    found, current = [], by_digest.get(version.state_digest)
    while current is not None:
        found.append(current)
        current = by_digest.get(current.parent_digest)
    return found


def detected_first(parent_digest: str | None, versions: Iterable[ModelVersion]) -> dict[str, float]:
    """The detection accuracy of each task when it was learned, by the versions that a new state grew from.

    A task whose version is registered no more is not there.
    """
    by_digest = {v.state_digest: v for v in versions}
    parent = by_digest.get(parent_digest or "")
    line = ancestors(parent, by_digest.values()) if parent else []
    figures = ((version.task, version.metrics.get(f"{BINARY_ACCURACY}/{version.task}")) for version in line)
    return {task: figure for task, figure in figures if figure is not None}


def timeline_points(state: LearnerState, digest: str, versions: Sequence[ModelVersion]) -> list[Point]:
    """The whole curve up to a state: its own metrics, and its ancestors' as far as they are still registered.

    What the accuracy matrix alone gives is there for every episode, since each state holds the whole matrix.

    Args:
        state: the newest state of the curve.
        digest: its digest.
        versions: all versions, that state's among them.
    """
    tasks = state.names
    by_digest: dict[str | None, ModelVersion] = {v.state_digest: v for v in versions}
    points: list[Point] = []
    ancestor = by_digest.get(digest)
    for step in reversed(range(len(tasks))):
        values = matrix_metrics(state.accuracy[: step + 1], tasks)
        points.extend(points_at(values | dict(ancestor.metrics if ancestor else {}), step))
        ancestor = by_digest.get(ancestor.parent_digest) if ancestor else None
    return points[::-1]
