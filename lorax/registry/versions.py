"""What the registry knows of a model version, and the tags that carry it.

Everything that names a version's place in the stream is written as tags in the one call that creates it, so a version
is either complete or not there. MLflow's page shows a few of them, for people: those of what lorax reads back it hides,
and with them their delete buttons.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from lorax.errors import RegistryError
from lorax.learning.branch_similarity import SimilarBranch
from lorax.registry import pages
from lorax.registry.gate import TaskVerdict
from lorax.registry.package import CARD
from lorax.stream import PinnedTask
from lorax.text import percent, short

if TYPE_CHECKING:  # imports torch, which a look-up can do without
    from lorax.learning.state import LearnerState

HIDDEN = "mlflow."
"""MLflow's page hides tags whose names begin so."""

OLD_DIGEST_TAG = "lorax.state_digest"
"""Of versions from before the end of November 2026, whose tags are all shown. MLflow looks for one name at a time."""

DIGEST_TAG = f"{HIDDEN}{OLD_DIGEST_TAG}"
LINE_TAG = f"{HIDDEN}lorax.line"
OUTCOME_TAG, _REASON_TAG = "lorax.outcome", f"{HIDDEN}lorax.reason"
_PARENT_TAG = f"{HIDDEN}lorax.parent_digest"
_TASKS_TAG, _METRICS_TAG, _VERDICTS_TAG = (f"{HIDDEN}lorax.{what}" for what in ("tasks", "metrics", "verdicts"))
_NEWER = "_newer"
"""After the verdicts' or metrics' tag: names the tags that hold them, where they were made more than once."""

_PROMOTED_AT_TAG, _PROMOTED_BY_TAG = f"{HIDDEN}lorax.promoted_at", f"{HIDDEN}lorax.promoted_by"
_PART_LENGTH, _NAMES_LENGTH = 4000, 2000
"""MLflow keeps up to 5000 characters of a tag; what may be longer, as with fifty tasks, goes into several."""

_DATA_TAG, _COMMIT_TAG = f"{HIDDEN}lorax.data_digest", f"{HIDDEN}lorax.data_commit"
_EXPERIMENT_TAG, _FLOW_RUN_TAG = f"{HIDDEN}lorax.experiment", f"{HIDDEN}lorax.flow_run"
_CALIBRATED_TAG = f"{HIDDEN}lorax.calibrated"
_NEAREST_TAG, _START_TAG = f"{HIDDEN}lorax.nearest", f"{HIDDEN}lorax.start"

MODEL_DESCRIPTION = (
    "Tells real from synthetic images and names the generator. Grown by lorax, one LoRA branch per task; "
    "one version per episode. Versions hold the learner state without the backbone, which is named and hashed."
)


@dataclass(frozen=True)
class Origin:
    """Where a version comes from: what its page on MLflow's server leads to."""

    run_id: str
    experiment: str  # MLflow's, of the run; '' of versions whose tags are all shown
    flow_run: str  # address of the page of Prefect's run that made it; '' where none did
    data_digest: str
    data_commit: str | None

    @property
    def told(self) -> str:
        """Links, and the data, in Markdown."""
        links = {
            "all tasks' accuracy over the versions": pages.accuracy(self.experiment),
            "model card": pages.artifact(self.experiment, self.run_id, CARD),
            "episode's run": pages.run(self.experiment, self.run_id),
        }
        links = links if self.experiment else {}
        links |= {"Prefect's run": self.flow_run} if self.flow_run else {}
        back = f"git checkout {self.data_commit} -- data.dvc && dvc checkout data.dvc"
        data = f"data.dvc `{self.data_digest}`{f', which `{back}` brings back' if self.data_commit else ''}"
        return f"{pages.listed(links)}\n\nLearned from {data}"


@dataclass(frozen=True)
class ModelVersion:
    """A learner state registered in MLflow."""

    version: int
    run_id: str
    state_digest: str
    parent_digest: str | None
    line: str  # of descent: the digest of its first state; '' until promoted
    episode: int
    task: str
    tasks: tuple[PinnedTask, ...]
    data_digest: str
    data_commit: str | None
    metrics: Mapping[str, float]
    created_at: datetime
    verdicts: tuple[TaskVerdict, ...] = ()  # the gate's part of the reason
    outcome: str = ""  # promoted, refused, base moved (the champion was no longer its parent), waiting; '' undecided
    reason: str = ""  # of the outcome
    promoted_at: datetime | None = None  # for the last time
    promoted_by: str = ""
    calibrated: bool = False  # whether its probabilities are
    nearest: str = ""  # the task whose branch is most like its episode's; '' where that was not looked up
    start: str = ""  # the task from whose weights its episode's branch started; '' for none
    aliases: tuple[str, ...] = ()
    experiment: str = ""  # MLflow's, of its run; '' of versions whose tags are all shown
    flow_run: str = ""  # address of the page of Prefect's run that made it; '' where none did

    @property
    def origin(self) -> Origin:
        return Origin(self.run_id, self.experiment, self.flow_run, self.data_digest, self.data_commit)

    @property
    def names(self) -> list[str]:
        """Of the tasks that it knows, in the order of learning."""
        return [task.name for task in self.tasks]

    @property
    def learned(self) -> PinnedTask:
        """The task that its own episode learned."""
        return self.tasks[-1]


def version_tags(
    digest: str,
    state: LearnerState,
    metrics: Mapping[str, float],
    nearest: Mapping[str, str],
    experiment: str = "",
    flow_run: str = "",
) -> dict[str, str]:
    """The tags of a new version that no gate has judged, from which `read_version` makes the record again.

    `nearest` are `nearest_tags`.
    """
    return {
        "lorax.task": state.names[-1],
        "lorax.data": short(state.revision.digest),
        **_headlines(metrics),
        DIGEST_TAG: digest,
        _PARENT_TAG: state.parent or "",
        **_parts(_TASKS_TAG, [[task.name, task.digest] for task in state.tasks]),
        _DATA_TAG: state.revision.digest,
        _COMMIT_TAG: state.revision.commit or "",
        _EXPERIMENT_TAG: experiment,
        _FLOW_RUN_TAG: flow_run,
        _CALIBRATED_TAG: "yes" if state.calibration else "no",
        **_parts(_METRICS_TAG, dict(sorted(metrics.items()))),
        **nearest,
    }


def nearest_tags(nearest: SimilarBranch | None, start: str | None) -> dict[str, str]:
    """The tags of what a version's new branch is like, such as "tiles 0.63", and of what it started from."""
    told = {_NEAREST_TAG: f"{nearest.task} {nearest.similarity:.2f}"} if nearest else {}
    return told | ({_START_TAG: start} if start else {})


def verdict_tags(verdicts: Sequence[TaskVerdict], *, is_first: bool) -> dict[str, str]:
    """The tags that make a version's verdicts these, one call each: until the last is written, the old ones stand."""
    tags = _parts(_VERDICTS_TAG, _values(verdicts))
    return tags if is_first and len(tags) == 1 else _newer_parts(_VERDICTS_TAG, _values(verdicts))


def newer_metric_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    """The same for a version's metrics."""
    return {**_headlines(metrics), **_newer_parts(_METRICS_TAG, dict(sorted(metrics.items())))}


def promotion_tags(by: str, reason: str) -> dict[str, str]:
    """The tags of a version that becomes champion now."""
    at = datetime.now(UTC).isoformat()
    return {_PROMOTED_AT_TAG: at, _PROMOTED_BY_TAG: by} | outcome_tags("promoted", reason)


def outcome_tags(outcome: str, reason: str) -> dict[str, str]:
    """The tags of what became of a version, that last, and why."""
    return {_REASON_TAG: reason[:_PART_LENGTH], OUTCOME_TAG: outcome}


def read_version(found: Any) -> ModelVersion:
    """The record of one of MLflow's model versions.

    Args:
        found: MLflow's ModelVersion, with its aliases.

    Raises:
        RegistryError: it was not registered by lorax, or its tags were edited.
    """
    # the names of older versions' tags begin with lorax, and so do the values that name tags
    tags = {f"{HIDDEN}{tag}": value for tag, value in found.tags.items() if tag.startswith("lorax.")} | found.tags
    try:
        tasks = tuple(PinnedTask(name, digest) for name, digest in _joined(tags, _TASKS_TAG))
        return ModelVersion(
            version=int(found.version),
            run_id=found.run_id,
            state_digest=tags[DIGEST_TAG],
            parent_digest=tags[_PARENT_TAG] or None,
            line=tags.get(LINE_TAG, ""),
            episode=len(tasks) - 1,
            task=tasks[-1].name,
            tasks=tasks,
            data_digest=tags[_DATA_TAG],
            data_commit=tags[_COMMIT_TAG] or None,
            metrics=_newest(tags, _METRICS_TAG),
            created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
            verdicts=tuple(TaskVerdict(*values) for values in _newest(tags, _VERDICTS_TAG, [])),
            outcome=tags.get(OUTCOME_TAG, ""),
            reason=tags.get(_REASON_TAG, ""),
            promoted_at=datetime.fromisoformat(tags[_PROMOTED_AT_TAG]) if _PROMOTED_AT_TAG in tags else None,
            promoted_by=tags.get(_PROMOTED_BY_TAG, ""),
            calibrated=tags.get(_CALIBRATED_TAG) == "yes",
            nearest=tags.get(_NEAREST_TAG, "").split(" ")[0],
            start=tags.get(_START_TAG, ""),
            aliases=tuple(sorted(found.aliases)),
            experiment=tags.get(_EXPERIMENT_TAG, ""),
            flow_run=tags.get(_FLOW_RUN_TAG, ""),
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise RegistryError(
            f"version {found.version} of model {found.name!r} lacks a usable tag ({error}): it was not registered by "
            "lorax, or was edited by hand. Delete that version, or move its alias to one that lorax registered."
        ) from error


def is_ours(found: Any) -> bool:
    """Whether lorax registered this version of MLflow's."""
    return DIGEST_TAG in found.tags or OLD_DIGEST_TAG in found.tags


def describe(
    tasks: Sequence[PinnedTask], metrics: Mapping[str, float], verdicts: Sequence[TaskVerdict], origin: Origin
) -> str:
    """A version's description on MLflow's page: its model card in short, where it comes from, the gate's verdicts."""
    names = shorten(", ".join(task.name for task in tasks), _NAMES_LENGTH, placeholder=" ...")
    detection = metrics.get("average_binary_accuracy")
    detected = "" if detection is None else f", detection {100 * detection:.1f} %"
    text = (
        f"Episode {len(tasks) - 1}: learned **{tasks[-1].name}**. Knows {names}.\n\n"
        f"Average accuracy {100 * metrics['average_accuracy']:.1f} %{detected}, "
        f"forgetting {100 * metrics['forgetting']:.1f} %. {_trust(metrics)}\n\n"
        f"{origin.told}\n"
    )
    if verdicts:
        text += f"\n**Gate**: {sum(verdict.passed for verdict in verdicts)} of {len(verdicts)} conditions hold\n"
    for verdict in sorted(verdicts, key=lambda verdict: verdict.passed):  # what failed first: long lists are cut
        row = f"\n- {'passed' if verdict.passed else '**failed**'}: {verdict.reason}"
        if len(text) + len(row) > _PART_LENGTH:
            return text
        text += row
    return text


def _trust(metrics: Mapping[str, float]) -> str:
    """What is known of the verdicts' trustworthiness, in sentences; '' where nothing was measured."""
    if "calibration_error_before" not in metrics:
        return ""
    told = "Uncalibrated: its probabilities are not to be relied on, and it calls nothing unknown. "
    if "calibration_error" in metrics:
        error, floor = (100 * metrics[name] for name in ("calibration_error", "calibration_error_floor"))
        told = f"Calibration error {error:.1f} % ({floor:.1f} % by chance alone). "
    if "unknown_auroc" in metrics:
        told += f"To the version before, what it learned last was unknown with AUROC {metrics['unknown_auroc']:.2f}. "
    if "robustness" in metrics:
        told += f"Robustness {100 * metrics['robustness']:.0f} %: accuracy on perturbed images, as a share of clean. "
    if "false_positives/clean" in metrics:
        told += f"False positives on other real photographs {100 * metrics['false_positives/clean']:.1f} %. "
    return told


def _headlines(metrics: Mapping[str, float]) -> dict[str, str]:
    """For people who read MLflow's list of versions."""
    average, forgetting = percent(metrics["average_accuracy"]), percent(metrics["forgetting"])
    return {"lorax.accuracy": average, "lorax.forgetting": forgetting}


def _values(verdicts: Sequence[TaskVerdict]) -> list[list[Any]]:
    return [list(asdict(verdict).values()) for verdict in verdicts]


def _parts(tag: str, value: Any) -> dict[str, str]:
    """`value` as JSON in as many tags as it takes: tag, tag.1, tag.2, ..."""
    text = json.dumps(value)
    pieces = [text[i : i + _PART_LENGTH] for i in range(0, len(text), _PART_LENGTH)]
    return {f"{tag}.{i}" if i else tag: piece for i, piece in enumerate(pieces)}


def _newer_parts(tag: str, value: Any) -> dict[str, str]:
    """The same under a new name, and last the tag that says which: until then the old ones stand."""
    fresh = f"{tag}.judged-{secrets.token_hex(3)}"
    return {**_parts(fresh, value), f"{tag}{_NEWER}": fresh}


def _newest(tags: Mapping[str, str], tag: str, default: Any = None) -> Any:
    newest = tags.get(f"{tag}{_NEWER}", tag)
    return default if default is not None and newest not in tags else _joined(tags, newest)


def _joined(tags: Mapping[str, str], tag: str) -> Any:
    pieces = [tags[tag]]
    while (name := f"{tag}.{len(pieces)}") in tags:
        pieces.append(tags[name])
    return json.loads("".join(pieces))
