"""From what an episode left behind to a model version: its run, the MLflow model, the version over both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lorax.errors import StateError
from lorax.learning.assessment import Assessment
from lorax.learning.branch_similarity import BranchComparison
from lorax.learning.folder import Report
from lorax.learning.state import LearnerState, load_state, state_digest
from lorax.params import GateParams
from lorax.registry import tracking
from lorax.registry.card import model_card
from lorax.registry.client import sent_once
from lorax.registry.comparison import comparison_metrics, write_comparison
from lorax.registry.gate import TaskVerdict, judge
from lorax.registry.lineage import detected_first
from lorax.registry.package import CARD, logged_model, model_address, replace_card
from lorax.registry.reading import CHALLENGER
from lorax.registry.trust import trust_metrics, write_trust
from lorax.registry.versions import (
    KnownTask,
    ModelVersion,
    describe,
    nearest_tags,
    newer_metric_tags,
    version_tags,
)

if TYPE_CHECKING:
    from lorax.registry.registry import Registry


@dataclass(frozen=True)
class Candidate:
    """A learner state that is to become a version, and all that was measured of it.

    `atlas_dir` is the folder that `comparison` was read from, with what else its run is to keep of the atlas.
    """

    state_dir: Path
    state: LearnerState
    digest: str
    report: Report
    assessment: Assessment | None
    git_commit: str | None
    atlas_dir: Path | None = None
    comparison: BranchComparison | None = None

    @property
    def names(self) -> list[str]:
        """Of the tasks known, in the order of learning."""
        return [task.name for task in self.state.tasks]

    @property
    def metrics(self) -> dict[str, float]:
        """All that is logged of it, by name."""
        measured = trust_metrics(self.assessment) | comparison_metrics(self.comparison)
        return tracking.episode_metrics(self.state.accuracy, self.names, self.report) | measured

    @property
    def nearest_tags(self) -> dict[str, str]:
        """The tags that tell what its new branch is like, or what it started from."""
        return nearest_tags(self.comparison.nearest if self.comparison else None, self.state.branches[-1].start)

    @property
    def replaced(self) -> list[str]:
        """Tasks that were tested on other images than when they were learned, as their data has been replaced since."""
        tested = self.report.tested
        return [task.name for task in self.state.tasks if tested.get(task.name, task.digest) != task.digest]

    def judged(self, gate: GateParams, detected_first: Mapping[str, float]) -> list[TaskVerdict]:
        """What the gate says of it, given the detection accuracy of old tasks when each was learned."""
        robustness = self.assessment.robustness if self.assessment else None
        told = self.assessment.false_positives if self.assessment else None
        photographs = told.clean if told else None
        rows = self.state.accuracy
        return judge(self.report, rows, self.names, gate, detected_first, robustness, self.replaced, photographs)


def open_candidate(
    state_dir: Path,
    report: Report,
    assessment: Assessment | None,
    git_commit: str | None,
    atlas_dir: Path | None = None,
) -> Candidate:
    """Read the state and hold to it what was measured of it.

    Raises:
        StateError: the state is damaged, or something belongs to another episode.
    """
    state, comparison = load_state(state_dir), BranchComparison.read(atlas_dir) if atlas_dir else None
    for measured in (report, assessment, comparison):
        if measured:
            check_fits(state, measured)
    return Candidate(state_dir, state, state_digest(state_dir), report, assessment, git_commit, atlas_dir, comparison)


def check_fits(state: LearnerState, measured: Report | Assessment | BranchComparison) -> None:
    """Refuse what was measured after another episode than the state's last.

    Raises:
        StateError: it was.
    """
    if not state.tasks or (measured.episode, measured.task) != (len(state.tasks) - 1, state.tasks[-1].name):
        newest, what = state.tasks[-1].name if state.tasks else "nothing", type(measured).__name__.lower()
        raise StateError(
            f"the {what} is of episode {measured.episode} ({measured.task!r}), but the learner state knows "
            f"{len(state.tasks)} tasks and learned {newest!r} last. Give the {what} beside that state."
        )


def make_version(registry: Registry, candidate: Candidate, gate: GateParams) -> ModelVersion:
    """The episode's run, the model, and last the version that names both."""
    client, state = registry._client, candidate.state
    experiment = tracking.experiment_id(client, registry.uri, registry.name)
    parent = registry.find(state.parent) if state.parent else None
    above = tracking.timeline_run(client, experiment, parent.line) if parent and parent.line else None
    run_id = tracking.episode_run(client, experiment, above, state, candidate.digest, candidate.git_commit)
    card = model_card(registry.name, candidate)
    _fill_run(registry, run_id, candidate, card)
    model_id = logged_model(client, experiment, run_id, registry.name, candidate.state_dir, state.classes, card)
    tracking.finish_run(client, run_id)
    return _create_version(registry, candidate, gate, run_id, model_id)


def measured_anew(registry: Registry, version: ModelVersion, candidate: Candidate) -> ModelVersion:
    """The version with what was measured since: in its run, its card and its tags, which come last.

    A point that the run has already stays as it is, since MLflow would keep both: the newest figures are the version's.
    """
    metrics = dict(version.metrics) | candidate.metrics
    if candidate.assessment is None or metrics == version.metrics:
        return version
    client, card = registry._client, model_card(registry.name, candidate)
    _fill_run(registry, version.run_id, candidate, card)
    replace_card(client, registry.name, version.version, card)
    text = describe(version.tasks, metrics, version.verdicts)
    client.update_model_version(registry.name, str(version.version), text)
    for tag, value in (candidate.nearest_tags | newer_metric_tags(metrics)).items():
        client.set_model_version_tag(registry.name, str(version.version), tag, value)
    return replace(version, metrics=metrics)


def _fill_run(registry: Registry, run_id: str, candidate: Candidate, card: str) -> None:
    """Metrics, parameters, data, figures and files."""
    client, assessment = registry._client, candidate.assessment
    tracking.write_episode(client, run_id, candidate.state, candidate.report, candidate.metrics)
    if assessment:
        write_trust(client, run_id, assessment)
    if candidate.atlas_dir:
        write_comparison(client, run_id, candidate.atlas_dir)
    client.log_text(run_id, card, CARD)


def _create_version(
    registry: Registry, candidate: Candidate, gate: GateParams, run_id: str, model_id: str
) -> ModelVersion:
    client, state, metrics = registry._client, candidate.state, candidate.metrics
    tasks = tuple(KnownTask(task.name, task.digest) for task in state.tasks)
    verdicts = candidate.judged(gate, detected_first(state.parent, registry.versions()))
    tags = version_tags(
        state_digest=candidate.digest,
        parent_digest=state.parent,
        tasks=tasks,
        data_digest=state.revision.digest,
        data_commit=state.revision.commit,
        calibrated=state.calibration is not None,
        metrics=metrics,
        verdicts=verdicts,
        nearest=candidate.nearest_tags,
    )
    registry.ensure_model()
    with sent_once():
        created = client.create_model_version(
            registry.name,
            source=model_address(model_id),
            run_id=run_id,
            tags=tags,
            description=describe(tasks, metrics, verdicts),
            model_id=model_id,
        )
    client.set_registered_model_alias(registry.name, CHALLENGER, created.version)
    return registry._version(int(created.version))
