"""A learner state that is to become a model version, and all that was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorax.errors import StateError
from lorax.learning.assessment import Assessment
from lorax.learning.branch_similarity import BranchComparison
from lorax.learning.folder import Report
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state, state_digest
from lorax.params import GateParams
from lorax.registry import tracking
from lorax.registry.assessment_log import assessment_metrics, comparison_metrics
from lorax.registry.gate import TaskVerdict, judge
from lorax.registry.versions import nearest_tags


@dataclass(frozen=True)
class Candidate:
    """A learner state that is to become a version, and all that was measured of it."""

    state_dir: Path
    state: LearnerState
    digest: str
    report: Report
    assessment: Assessment | None
    git_commit: str | None
    atlas_dir: Path | None = None  # what `comparison` was read from, with what else its run is to keep of the atlas
    comparison: BranchComparison | None = None
    origins: Mapping[str, str] = field(default_factory=dict)  # of tasks, as far as it was told when they landed
    flow_run: str = ""  # address of the page of Prefect's run that learned it; '' where none did

    @property
    def metrics(self) -> dict[str, float]:
        """All that is logged of it, by name."""
        measured = assessment_metrics(self.assessment) | comparison_metrics(self.comparison)
        return tracking.episode_metrics(self.state.accuracy, self.state.names, self.report) | measured

    @property
    def nearest_tags(self) -> dict[str, str]:
        """The tags that tell what its new branch is like, or what it started from."""
        start = None if self.extends else self.state.branches[-1].start
        return nearest_tags(self.comparison.nearest if self.comparison else None, start)

    @property
    def extends(self) -> str:
        """The task of which the newest brought more images; '' where it is a generator of its own."""
        return self.state.extensions.get(self.state.names[-1], "")

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
        return judge(self.report, rows, self.state.names, gate, detected_first, robustness, self.replaced, photographs)


def open_candidate(
    state_dir: Path,
    report: Report,
    assessment: Assessment | None,
    git_commit: str | None,
    atlas_dir: Path | None = None,
    state: LearnerState | None = None,
) -> Candidate:
    """Hold to a state what was measured of it; the state is read unless it is given.

    Raises:
        StateError: the state is damaged, or something belongs to another episode.
    """
    state, comparison = state or load_state(state_dir), BranchComparison.read(atlas_dir) if atlas_dir else None
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
