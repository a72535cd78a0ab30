"""Moving the champion: by the gate, by hand, and when both happen at once.

MLflow can't compare and set an alias, so a move is written to the journal first and the alias is set after it. The gate
then looks at the journal once more: a move by hand that it did not know of when it decided wins, and the alias is put
where that one wanted it. So a rollback during an episode is never undone by the episode's end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lorax.params import GateParams
from lorax.registry import journal, tracking
from lorax.registry.gate import TaskVerdict, reasons
from lorax.registry.journal import GATE, MLFLOW
from lorax.registry.lineage import line_of, timeline_points
from lorax.registry.reading import CHALLENGER, CHAMPION
from lorax.registry.versions import (
    LINE_TAG,
    OUTCOME_TAG,
    REASON_TAG,
    ModelVersion,
    describe,
    newer_verdict_tags,
    promotion_tags,
)

if TYPE_CHECKING:
    from lorax.learning.state import LearnerState
    from lorax.registry.registry import Registry

_IN_FLIGHT_S = 1.0
"""A move is written to the journal this long before its alias at most, unless its writer dies in between."""

_REASON_LENGTH = 4000
_PASSED = "passed the gate"
_MOVED_THERE = "the alias was moved in MLflow"


def decide(registry: Registry, version: ModelVersion, state: LearnerState, gate: GateParams) -> None:
    """Promote a registered challenger, or refuse it; nothing happens to one that a person has decided on.

    Called again after being cut off, it comes to the same end.
    """
    champion = registry.champion()
    if champion and champion.version == version.version:
        if not version.outcome:
            _confirm(registry, version)
        return
    registry._client.set_registered_model_alias(registry.name, CHALLENGER, str(version.version))
    if failed := reasons(version.verdicts):
        refuse(registry, version, GATE, failed)
    elif _key(version) in {(hold.task, hold.digest) for hold in registry.held()}:
        return  # rolled back, refused or waiting since it was registered
    elif (champion.state_digest if champion else None) != version.parent_digest:
        base = f"version {champion.version}" if champion else "none"
        _base_moved(registry, version, f"the champion is {base} by now, which this did not grow from")
    elif gate.approval:
        _set(registry, version, journal.WAITING, "passed the gate; waits for 'lorax promote' or 'lorax refuse'")
        registry._note(journal.WAITING, version.version, GATE, "waits for approval", *_key(version))
    else:
        write_timeline(registry, version, state)
        _promote(registry, version)


def judge_again(registry: Registry, version: ModelVersion, verdicts: Sequence[TaskVerdict]) -> ModelVersion:
    """Give a version today's verdicts: a task released after the thresholds were changed comes out the same again."""
    if verdicts == list(version.verdicts):
        return version
    for tag, value in newer_verdict_tags(verdicts).items():
        registry._client.set_model_version_tag(registry.name, str(version.version), tag, value)
    text = describe(version.tasks, version.metrics, verdicts)
    registry._client.update_model_version(registry.name, str(version.version), text)
    return replace(version, verdicts=tuple(verdicts))


def refuse(registry: Registry, version: ModelVersion, by: str, reason: str) -> None:
    """Refuse a challenger and hold its task; the hold comes last, since until then the call will be repeated."""
    _set(registry, version, journal.REFUSED, reason)
    registry._note(journal.REFUSED, version.version, by, reason, *_key(version))


def move_by_hand(registry: Registry, version: ModelVersion, kind: str, by: str, reason: str) -> None:
    """Hold what the old champion knows beyond `version`, then make that champion; the alias comes last."""
    _hold_beyond(registry, version, by, reason)
    registry._note(kind, version.version, by, reason)
    registry._client.set_registered_model_alias(registry.name, CHAMPION, str(version.version))
    _set_promoted(registry, version, by, reason)


def relearn_from(registry: Registry, version: ModelVersion, task: str, by: str, reason: str) -> None:
    """Make an ancestor of the champion champion, such that what was learned since is not held but missing.

    Holds of earlier days, which the champion's knowledge hides, are lifted first: the move is one entry and one alias.
    """
    champion = registry.champion()
    tasks = champion.tasks if champion else ()
    beyond = {(known.name, known.digest) for known in tasks if known not in version.tasks}
    for hold in registry.all_holds():
        if hold.task == task or (hold.task, hold.digest) in beyond:
            registry._note(journal.RELEASED, hold.version, by, reason, hold.task, hold.digest)
    registry._note(journal.ROLLED_BACK, version.version, by, reason)
    registry._client.set_registered_model_alias(registry.name, CHAMPION, str(version.version))
    _set_promoted(registry, version, by, reason)


def take_note(registry: Registry, champion: ModelVersion) -> None:
    """Finish a promotion that was cut off, and write to the journal if the alias was moved in MLflow itself."""
    if _is_elsewhere(registry, champion):
        time.sleep(_IN_FLIGHT_S)
        now = registry.champion()
        if now is not None and _is_elsewhere(registry, now):
            _hold_beyond(registry, now, MLFLOW, _MOVED_THERE)
            registry._note(journal.MOVED, now.version, MLFLOW, _MOVED_THERE)
            _set_promoted(registry, now, MLFLOW, _MOVED_THERE)
    elif champion.outcome != journal.PROMOTED:
        _finish(registry, champion)
    for version in registry.versions():
        if version.outcome == journal.WAITING and version.parent_digest != champion.state_digest:
            _base_moved(registry, version, "the champion moved while this waited for approval")


def write_timeline(registry: Registry, version: ModelVersion, state: LearnerState) -> None:
    """Write the curve that leads up to a version that becomes champion, on the line of descent that it continues."""
    client, versions = registry._client, registry.versions()
    line = line_of(version.state_digest, version.parent_digest, versions)
    experiment = tracking.experiment_id(client, registry.name)
    timeline = tracking.timeline_run(client, experiment, line)
    client.set_tag(version.run_id, tracking.PARENT_TAG, timeline)
    client.set_model_version_tag(registry.name, str(version.version), LINE_TAG, line)
    tracking.write_timeline(client, timeline, timeline_points(state, version.state_digest, versions))
    tracking.finish_run(client, timeline)


def _promote(registry: Registry, version: ModelVersion) -> None:
    """Compare and set: note the promotion, set the alias, and give way to a move by hand that was not seen before."""
    entries, champion = registry.journal(), registry.champion()
    move = journal.last_move(entries)
    if move is None or move.version != version.version or move.is_by_hand:  # else cut off before the alias was set
        if (move.version if move else None) != (champion.version if champion else None):
            _base_moved(registry, version, "the champion was being moved at that moment")
            return
        new = journal.entry(journal.PROMOTED, version.version, by=GATE, reason=_PASSED)
        journal.write(registry._client, registry.name, new, seen=entries)
    registry._client.set_registered_model_alias(registry.name, CHAMPION, str(version.version))
    _confirm(registry, version)


def _confirm(registry: Registry, version: ModelVersion) -> None:
    """After the gate set the alias: put it where a move by hand wanted it that the gate had not seen, if there is one.

    The alias is not set again otherwise: such a move may come at any moment.
    """
    entries = registry.journal()
    own = next((e for e in reversed(entries) if e.kind == journal.PROMOTED and e.version == version.version), None)
    if own is None:
        return
    other = next((e for e in reversed(entries) if e.is_by_hand and e.number >= own.number and e is not own), None)
    if other is None:
        _set_promoted(registry, version, GATE, _PASSED)
    else:
        registry._client.set_registered_model_alias(registry.name, CHAMPION, str(other.version))
        _base_moved(registry, version, f"{other.by} made version {other.version} champion meanwhile: {other.reason}")


def _finish(registry: Registry, champion: ModelVersion) -> None:
    """The rest of a promotion that was cut off after the alias was set."""
    move = journal.last_move(registry.journal())
    if move and move.is_by_hand:
        _set_promoted(registry, champion, move.by, move.reason)
    else:
        _confirm(registry, champion)


def _set_promoted(registry: Registry, version: ModelVersion, by: str, reason: str) -> None:
    """It is no challenger any more; the outcome is written last, since until then the call will be repeated."""
    if str(registry._model().aliases.get(CHALLENGER)) == str(version.version):
        registry._client.delete_registered_model_alias(registry.name, CHALLENGER)
    for tag, value in promotion_tags(by, reason).items():
        registry._client.set_model_version_tag(registry.name, str(version.version), tag, value)


def _hold_beyond(registry: Registry, version: ModelVersion, by: str, reason: str) -> None:
    """Hold what the champion (by the journal's word, for the alias may be lost) knows and `version` does not."""
    move = journal.last_move(registry.journal())
    old = next((v for v in registry.versions() if move and v.version == move.version), None)
    known = {(task.name, task.digest) for task in version.tasks}
    for task in old.tasks if old else ():
        if (task.name, task.digest) not in known and old:
            registry._note(journal.HELD, old.version, by, reason, task.name, task.digest)


def _base_moved(registry: Registry, version: ModelVersion, reason: str) -> None:
    """The challenger's task is free to be learned again, from the champion of now."""
    registry._note(journal.BASE_MOVED, version.version, GATE, reason, *_key(version))
    _set(registry, version, journal.BASE_MOVED, reason)


def _is_elsewhere(registry: Registry, champion: ModelVersion) -> bool:
    """Whether the journal's last word is another version, other than in a promotion that was cut off."""
    move = journal.last_move(registry.journal())
    if move is None or move.version == champion.version:
        return False
    return not registry.is_cut_off(move)


def _set(registry: Registry, version: ModelVersion, outcome: str, reason: str) -> None:
    for tag, value in {REASON_TAG: reason[:_REASON_LENGTH], OUTCOME_TAG: outcome}.items():
        registry._client.set_model_version_tag(registry.name, str(version.version), tag, value)


def _key(version: ModelVersion) -> tuple[str, str]:
    return version.learned.name, version.learned.digest
