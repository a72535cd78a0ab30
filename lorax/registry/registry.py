"""The model registry: learner states as MLflow model versions; which of them is champion, and what is quarantined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lorax.errors import RegistryError
from lorax.params import GateParams
from lorax.registry import journal, promotion, tracking
from lorax.registry.journal import Entry, Quarantine
from lorax.registry.lineage import detected_first
from lorax.registry.package import delete_model
from lorax.registry.reading import RegisteredModel
from lorax.registry.versions import ModelVersion

if TYPE_CHECKING:  # these import torch, which a look-up can do without
    from lorax.learning.folder import Report
    from lorax.learning.state import LearnerState
    from lorax.registry.candidate import Candidate


class Registry(RegisteredModel):
    """One registered model and its experiment, with all that changes them; see `RegisteredModel` for what is read.

    `by` and `reason` say who changes something and why; `seen` is the journal as it was when a move of the champion was
    decided on, None as it is now: a person who has moved it since is told of by a RegistryError.
    """

    def register(self, candidate: Candidate) -> ModelVersion:
        """Register a learner state with its runs and figures, as challenger; the gate has yet to judge it.

        Safe to call again after being cut off anywhere, as are `judge` and `promote_passed`: each thing is looked up by
        the state's digest before it is made, and the version, made in one call, marks that everything before it is
        whole.
        """
        from lorax.registry.registration import make_version, measured_anew

        with self.changing(f"register the state after {candidate.report.task!r}"):
            version = self.find(candidate.digest)
            if version is None:
                return make_version(self, candidate)
            if not version.outcome or version.outcome == journal.REFUSED:
                measured_anew(self, version, candidate)
        return self.version(version.version)

    def judge(self, candidate: Candidate, gate: GateParams) -> ModelVersion:
        """Have the gate judge a registered candidate: one that fails is refused, and its task held.

        Nothing happens to one that is champion, or that a person has decided on.

        Raises:
            RegistryError: it is not registered.
        """
        with self.changing(f"judge the state after {candidate.report.task!r}"):
            known = self.versions()
            version = self._registered(candidate, known)
            if not version.outcome or version.outcome == journal.REFUSED:
                first = detected_first(candidate.state.parent, known)
                version = promotion.with_verdicts(self, version, candidate.judged(gate, first))
            promotion.challenge(self, version)
        return self.version(version.version)

    def promote_passed(self, candidate: Candidate, gate: GateParams) -> ModelVersion:
        """Make a candidate that passed the gate champion, or have it wait for approval where `gate` asks for one.

        Returns:
            The version; its `outcome` says whether it is champion now.

        Raises:
            RegistryError: it is not registered or not judged.
        """
        with self.changing(f"promote the state after {candidate.report.task!r}"):
            version = self._registered(candidate)
            if not version.verdicts:
                raise RegistryError(f"version {version.version} was not judged by the gate: run 'lorax learn' again.")
            promotion.promote_passed(self, version, candidate.state, gate)
        return self.version(version.version)

    def settle(self) -> ModelVersion | None:
        """Take note of what was done to the champion's alias in MLflow itself; returns the champion.

        Asked before an episode, so it also says what would keep its end from being registered.

        An alias that was moved there counts as a rollback or promotion by hand: what the old champion knew beyond the
        new one is quarantined.

        Raises:
            RegistryError: the alias was lost, or the experiment is in MLflow's trash.
        """
        champion = self.champion()
        self._check_experiment(self.name)
        if champion is None:
            return None
        with self.changing("take note of the champion"):
            promotion.take_note(self, champion)
        return self.champion()

    def finished_journal(self) -> list[Entry]:
        """The journal, once a move that was cut off is carried out: what a move by hand is decided on.

        Raises:
            RegistryError: no run is left that a move could be written to.
        """
        if self.is_unused():
            return []
        with self.changing("carry out a move that was cut off"):
            return promotion.finished_journal(self)

    def check_scenarios(self) -> None:
        """Make sure that a scenario's end can be tracked.

        Raises:
            RegistryError: their experiment is in MLflow's trash.
        """
        self._check_experiment(_scenarios_of(self.name))

    def promote(
        self, number: int, state_dir: Path, *, by: str, reason: str, seen: Sequence[Entry] | None = None
    ) -> ModelVersion:
        """Make a version champion by hand, whatever the gate said; also mends a lost alias.

        What the old champion knew beyond it is quarantined. `state_dir` is its learner state (see `download_state`).

        Raises:
            RegistryError: there is no such version.
        """
        from lorax.learning.state_files import load_state

        with self.changing(f"promote version {number}"):
            new = journal.entry(journal.PROMOTED, self.version(number).version, by=by, reason=reason)
            promotion.move_by_hand(self, new, seen, load_state(state_dir))
        return self.version(number)

    def rollback(self, number: int, *, by: str, reason: str, seen: Sequence[Entry] | None = None) -> ModelVersion:
        """Make a version that was champion before champion again, and quarantine what the present one knows beyond it.

        Raises:
            RegistryError: there is no such version, it never was champion, or it is champion already.
        """
        with self.changing(f"roll back to version {number}"):
            version, champion = self.version(number), self.champion()
            if champion and champion.version == number:
                raise RegistryError(f"version {number} is the champion already; nothing was changed.")
            if version.promoted_at is None:
                raise RegistryError(
                    f"version {number} never was champion ({version.outcome}: {version.reason}), so there is nothing "
                    f"to roll back to. To overrule the gate: 'lorax promote {number} --reason TEXT'."
                )
            promotion.move_by_hand(self, journal.entry(journal.ROLLED_BACK, number, by=by, reason=reason), seen)
        return self.version(number)

    def relearn(self, task: str, *, by: str, reason: str, seen: Sequence[Entry] | None = None) -> ModelVersion:
        """Go back to before the champion learned a task, and quarantine nothing: what it knew beyond is learned again.

        Returns:
            The champion now.

        Raises:
            RegistryError: as `version_before`.
        """
        with self.changing(f"go back to before task {task!r}"):
            number = self.version_before(task).version
            new = journal.entry(journal.ROLLED_BACK, number, by=by, reason=reason, task=task)
            promotion.move_by_hand(self, new, seen)
        return self.version(number)

    def hold(self, task: str, digest: str, *, by: str, reason: str) -> None:
        """Have a task not learned while it has these bytes, until it is released."""
        with self.changing(f"hold {task!r}"):
            self.ensure_model()
            self.note(journal.HELD, journal.NO_VERSION, by, reason, task, digest)

    def release(self, task: str, *, by: str, reason: str) -> list[Quarantine]:
        """Let a quarantined task be learned again; returns what was lifted, nothing if it was not quarantined."""
        with self.changing(f"release {task!r}"):
            lifted = [one for one in self.quarantined() if one.task == task]
            for one in lifted:
                self.note(journal.RELEASED, one.version, by, reason, task, one.digest)
        return lifted

    def refuse(self, number: int, *, by: str, reason: str) -> ModelVersion:
        """Refuse a version that waits for approval; its task is quarantined.

        Raises:
            RegistryError: it does not wait.
        """
        with self.changing(f"refuse version {number}"):
            version = self.version(number)
            if version.outcome != journal.WAITING:
                raise RegistryError(
                    f"version {number} does not wait for approval (it is {version.outcome or 'unfinished'}). "
                    "To take a champion back: 'lorax rollback --to VERSION --reason TEXT'."
                )
            promotion.refuse(self, version, by, reason)
        return self.version(number)

    def delete(self, number: int, *, by: str, reason: str) -> ModelVersion:
        """Delete a version with its artifacts; its runs, with their figures, stay. Its task stays quarantined if it is.

        Raises:
            RegistryError: as `check_deletable`.
        """
        version = self.check_deletable(number)
        with self.talking(f"delete version {number}"):
            self.note(journal.DELETED, number, by, reason)
            delete_model(self.client, self.name, number)
        return version

    def track_scenario(
        self,
        scenario: str,
        state: LearnerState,
        reports: Sequence[Report],
        *,
        git_commit: str | None = None,
        files: Sequence[Path] = (),
    ) -> str:
        """Track a scenario learned from scratch; the registered model and its champion stay as they are.

        Args:
            scenario: its name.
            state: after the last episode.
            reports: one per episode, in order.
            git_commit: commit of the workspace, or None.
            files: further files to keep with the run.

        Returns:
            The run's id.
        """
        from lorax.registry.candidate import check_fits

        check_fits(state, reports[-1])
        with self.changing(f"track scenario {scenario!r}"):
            experiment = tracking.experiment_id(
                self.client, self.uri, _scenarios_of(self.name), tracking.SCENARIOS_NOTE
            )
            run = tracking.scenario_run(self.client, experiment, scenario, git_commit)
            tracking.write_scenario(self.client, run, state, reports, files)
            tracking.finish_run(self.client, run)
        return str(run.info.run_id)

    def _registered(self, candidate: Candidate, known: Sequence[ModelVersion] | None = None) -> ModelVersion:
        """A candidate's version, the first if there are several; looked for among those known, if they are given."""
        digest = candidate.digest
        version = self.find(digest) if known is None else next((v for v in known if v.state_digest == digest), None)
        if version is None:
            raise RegistryError(f"state {candidate.digest[:12]} is not registered: 'lorax learn' registers it first.")
        return version

    def _check_experiment(self, name: str) -> None:
        with self.talking("look for the experiment"):
            tracking.find_experiment(self.client, self.uri, name)


def _scenarios_of(model: str) -> str:
    """The experiment that a model's scenarios are tracked in."""
    return f"{model}-scenarios"
