"""Moving the champion: by the gate, by hand, and when several do at once.

A move claims its place behind the one that it was decided on (claims.py), so moves follow each other one by one. Then
it is written to the journal, and last the alias is put where the journal's last move wants it. What was decided on a
champion that has been moved since loses: the gate's challenger is told "base moved", a person that another was faster.
Only a move by hand that finds a promotion by the gate before it goes on top of that: a rollback is not undone by an
episode's end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lorax.drafts import scratch
from lorax.errors import RegistryError
from lorax.params import GateParams
from lorax.registry import claims, journal, tracking
from lorax.registry.client import upsert
from lorax.registry.gate import TaskVerdict, reasons
from lorax.registry.journal import GATE, MLFLOW, Entry, Hold
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
            _finish(registry, state)
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
        n = version.version
        what = f"passed the gate; waits for 'lorax promote {n} --reason TEXT' or 'lorax refuse {n} --reason TEXT'"
        _set(registry, version, journal.WAITING, what)
        registry._note(journal.WAITING, version.version, GATE, "waits for approval", *_key(version))
    else:
        _promote(registry, version, state)


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


def move_by_hand(
    registry: Registry, new: Entry, seen: Sequence[Entry] | None, state: LearnerState | None = None
) -> None:
    """Make a version champion, and hold what the old champion knows beyond it, or free that to be learned anew.

    Args:
        registry: whose champion.
        new: the move.
        seen: the journal as it was when the move was decided on; None: as it is now.
        state: the version's learner state, where it is at hand.

    Raises:
        RegistryError: somebody else has moved the champion since.
    """
    base = journal.last_move(registry.journal() if seen is None else seen)
    while True:
        entries = registry.journal()
        own = journal.numbered(new, entries)
        first, *_ = journal.moves_after(entries, base) or [claims.claim(registry, base, own)]
        _carry_out(registry, first, state if first == own else None)
        if first == own:
            return
        if first.is_by_hand:
            raise RegistryError(_beaten(first))
        base = first


def finished_journal(registry: Registry) -> list[Entry]:
    """The journal, once a move that was cut off is carried out: what a move by hand is decided on.

    Else who repeats a command that was cut off would be beaten by their own move.
    """
    entries = registry.journal()
    if registry.versions() and (pending := claims.following(registry, journal.last_move(entries))):
        _carry_out(registry, pending)
        return registry.journal()
    return entries


def take_note(registry: Registry, champion: ModelVersion) -> None:
    """Finish a move that was cut off, and write to the journal if the alias was moved in MLflow itself."""
    move = journal.last_move(registry.journal())
    if pending := claims.following(registry, move):
        _carry_out(registry, pending)
    elif _is_elsewhere(registry, champion):
        time.sleep(_IN_FLIGHT_S)
        now = registry.champion()
        if now is not None and _is_elsewhere(registry, now):
            move_by_hand(registry, journal.entry(journal.MOVED, now.version, by=MLFLOW, reason=_MOVED_THERE), None)
    elif champion.outcome != journal.PROMOTED:
        _finish(registry)
    now = registry.champion() or champion
    for version in registry.versions():
        if version.outcome == journal.WAITING and version.parent_digest != now.state_digest:
            _base_moved(registry, version, "the champion moved while this waited for approval")


def write_timeline(registry: Registry, version: ModelVersion, state: LearnerState) -> None:
    """Write the curve that leads up to a version that becomes champion, on the line of descent that it continues."""
    client, versions = registry._client, registry.versions()
    line = line_of(version.state_digest, version.parent_digest, versions)
    experiment = tracking.experiment_id(client, registry.uri, registry.name)
    timeline = tracking.timeline_run(client, experiment, line)
    client.set_tag(version.run_id, tracking.PARENT_TAG, timeline)
    upsert(client.set_model_version_tag, registry.name, str(version.version), LINE_TAG, line)
    points = timeline_points(state, version.state_digest, versions)
    tracking.write_timeline(client, timeline, points, version.created_at)
    tracking.finish_run(client, timeline)


def _promote(registry: Registry, version: ModelVersion, state: LearnerState) -> None:
    """Compare and set: the champion is what the journal says, and nobody moves it before this does."""
    entries, champion = registry.journal(), registry.champion()
    move = journal.last_move(entries)
    if move and (move.version, move.by) == (version.version, GATE):  # cut off before the alias was set
        _carry_out(registry, move, state)
    elif (move.version if move else None) != (champion.version if champion else None):
        _base_moved(registry, version, "the champion was being moved at that moment")
    else:
        own = journal.numbered(journal.entry(journal.PROMOTED, version.version, by=GATE, reason=_PASSED), entries)
        first = claims.claim(registry, move, own)
        is_own = (first.version, first.by) == (version.version, GATE)  # of now, or of before it was cut off
        _carry_out(registry, first, state if is_own else None)
        if not is_own:
            _base_moved(registry, version, _beaten(first))


def _carry_out(registry: Registry, move: Entry, state: LearnerState | None = None) -> None:
    """All that a claimed move stands for. Whoever finds it half done, or is at it at the same time, may do it again."""
    version = _found(registry, move.version)
    if version is None:  # deleted since; the journal goes on behind it
        journal.put(registry._client, registry.name, move)
        return
    if not version.line or version.outcome != journal.PROMOTED:  # who named the line may not have written all of it
        write_timeline(registry, version, state or _fetched(registry, version))
    if move.is_by_hand:
        for entry in _beside(registry, move, version):
            journal.put(registry._client, registry.name, entry)
    journal.put(registry._client, registry.name, move)
    _set_alias(registry)
    if version.outcome != journal.PROMOTED or version.promoted_at is None or version.promoted_at < move.at:
        _set_promoted(registry, version, move.by, move.reason)


def _beside(registry: Registry, move: Entry, version: ModelVersion) -> list[Entry]:
    """What a move by hand does to tasks: what the champion before it (by the journal's word, for the alias may be lost)
    knows beyond `version` is held; where it goes back to learn a task anew, that is free, as nothing is held.

    The champion's knowledge hides holds of earlier days: to go back to before it, they are lifted.
    """
    entries = registry.journal()
    base = next((e for e in reversed(entries) if e.is_move and e.number < move.number), None)
    old = _found(registry, base.version) if base else None
    beyond = [known for known in (old.tasks if old else ()) if known not in version.tasks]
    if move.kind == journal.ROLLED_BACK and move.task:
        keys = {(known.name, known.digest) for known in beyond}
        lifted = [h for h in journal.holds(entries) if h.task == move.task or (h.task, h.digest) in keys]
        return [journal.beside(move, journal.RELEASED, hold) for hold in lifted]
    number = old.version if old else 0
    holds = [Hold(known.name, known.digest, move.reason, move.by, move.at, number) for known in beyond]
    return [journal.beside(move, journal.HELD, hold) for hold in holds]


def _set_alias(registry: Registry) -> None:
    """Put the alias where the journal's last move wants it; looked at again afterwards, since another may have come."""
    while True:
        model = registry._model()
        move = journal.last_move(journal.read(model.tags))
        if move is None or str(model.aliases.get(CHAMPION)) == str(move.version) or not _found(registry, move.version):
            return
        upsert(registry._client.set_registered_model_alias, registry.name, CHAMPION, str(move.version))


def _finish(registry: Registry, state: LearnerState | None = None) -> None:
    """The rest of a move that was cut off after the alias was set."""
    if move := journal.last_move(registry.journal()):
        _carry_out(registry, move, state)


def _set_promoted(registry: Registry, version: ModelVersion, by: str, reason: str) -> None:
    """It is no challenger any more; the outcome is written last, since until then the call will be repeated."""
    if str(registry._model().aliases.get(CHALLENGER)) == str(version.version):
        registry._client.delete_registered_model_alias(registry.name, CHALLENGER)
    for tag, value in promotion_tags(by, reason).items():
        upsert(registry._client.set_model_version_tag, registry.name, str(version.version), tag, value)


def _beaten(move: Entry) -> str:
    when = f"{move.at:%Y-%m-%d %H:%M:%S}"
    return (
        f"the champion was moved meanwhile: {move.by} made version {move.version} champion at {when} ({move.reason}). "
        "Nothing else was changed. Look at 'lorax history', and decide anew."
    )


def _found(registry: Registry, number: int) -> ModelVersion | None:
    return next((v for v in registry.versions() if v.version == number), None)


def _fetched(registry: Registry, version: ModelVersion) -> LearnerState:
    from lorax.learning.state import load_state

    with scratch() as folder:
        return load_state(registry.download_state(version.version, folder))


def _base_moved(registry: Registry, version: ModelVersion, reason: str) -> None:
    """The challenger's task is free to be learned again, from the champion of now."""
    registry._note(journal.BASE_MOVED, version.version, GATE, reason, *_key(version))
    _set(registry, version, journal.BASE_MOVED, reason)


def _is_elsewhere(registry: Registry, champion: ModelVersion) -> bool:
    """Whether the journal's last word is another version; it has none where the alias was first set in MLflow."""
    move = journal.last_move(registry.journal())
    return move is None or move.version != champion.version


def _set(registry: Registry, version: ModelVersion, outcome: str, reason: str) -> None:
    for tag, value in {REASON_TAG: reason[:_REASON_LENGTH], OUTCOME_TAG: outcome}.items():
        registry._client.set_model_version_tag(registry.name, str(version.version), tag, value)


def _key(version: ModelVersion) -> tuple[str, str]:
    return version.learned.name, version.learned.digest
