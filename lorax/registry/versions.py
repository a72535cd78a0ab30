"""What the registry knows of a model version, and the tags that carry it.

Everything that names a version's place in the stream is written as tags in the one call that creates it, so a version
is either complete or not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lorax.errors import RegistryError

DIGEST_TAG = "lorax.state_digest"
LINE_TAG = "lorax.line"
ROLE_TAG = "lorax.role"
_METRICS_TAG = "lorax.metrics"
_HEADLINES = ("average_accuracy", "average_incremental_accuracy", "forgetting")
"""Metrics that get a tag of their own, for people who read MLflow's model page."""


MODEL_DESCRIPTION = (
    "Tells real from synthetic images and names the generator. Grown by lorax, one LoRA branch per task; "
    "one version per episode. Versions hold the learner state without the backbone, which is named and hashed."
)


@dataclass(frozen=True)
class KnownTask:
    """A task that a version has learned, with the digest of the data it was learned from."""

    name: str
    digest: str


@dataclass(frozen=True)
class ModelVersion:
    """A learner state registered in MLflow. `line` names its line of descent: the digest of the line's first state."""

    version: int
    run_id: str
    state_digest: str
    parent_digest: str | None
    line: str
    episode: int
    task: str
    tasks: tuple[KnownTask, ...]
    data_digest: str
    data_commit: str | None
    metrics: Mapping[str, float]
    created_at: datetime
    aliases: tuple[str, ...] = ()


def version_tags(
    *,
    state_digest: str,
    parent_digest: str | None,
    line: str,
    tasks: tuple[KnownTask, ...],
    data_digest: str,
    data_commit: str | None,
    metrics: Mapping[str, float],
) -> dict[str, str]:
    """The tags of a new version, from which `read_version` makes the record again."""
    return {
        DIGEST_TAG: state_digest,
        "lorax.parent_digest": parent_digest or "",
        LINE_TAG: line,
        "lorax.episode": str(len(tasks) - 1),
        "lorax.task": tasks[-1].name,
        "lorax.tasks": json.dumps([[task.name, task.digest] for task in tasks]),
        "lorax.data_digest": data_digest,
        "lorax.data_commit": data_commit or "",
        _METRICS_TAG: json.dumps(dict(metrics), sort_keys=True),
        **{f"lorax.{name}": f"{metrics[name]:.4f}" for name in _HEADLINES},
    }


def read_version(found: Any, aliases: tuple[str, ...]) -> ModelVersion:
    """The record of one of MLflow's model versions.

    Args:
        found: MLflow's ModelVersion.
        aliases: those of its aliases that the registered model lists (searches return none).

    Raises:
        RegistryError: it was not registered by lorax, or its tags were edited.
    """
    tags = found.tags
    try:
        return ModelVersion(
            version=int(found.version),
            run_id=found.run_id,
            state_digest=tags[DIGEST_TAG],
            parent_digest=tags["lorax.parent_digest"] or None,
            line=tags[LINE_TAG],
            episode=int(tags["lorax.episode"]),
            task=tags["lorax.task"],
            tasks=tuple(KnownTask(name, digest) for name, digest in json.loads(tags["lorax.tasks"])),
            data_digest=tags["lorax.data_digest"],
            data_commit=tags["lorax.data_commit"] or None,
            metrics=json.loads(tags[_METRICS_TAG]),
            created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
            aliases=aliases,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise RegistryError(
            f"version {found.version} of model {found.name!r} lacks a usable tag ({error}): it was not registered by "
            "lorax, or was edited by hand. Delete that version, or move its alias to one that lorax registered."
        ) from error


def is_ours(found: Any) -> bool:
    """Whether lorax registered this version of MLflow's."""
    return DIGEST_TAG in found.tags


def describe(tasks: Sequence[KnownTask], metrics: Mapping[str, float]) -> str:
    """A version's description on MLflow's page."""
    names = ", ".join(task.name for task in tasks)
    return (
        f"Episode {len(tasks) - 1}: learned **{tasks[-1].name}**. Knows {names}.\n\n"
        f"Average accuracy {metrics['average_accuracy']:.4f}, forgetting {metrics['forgetting']:.4f}."
    )
