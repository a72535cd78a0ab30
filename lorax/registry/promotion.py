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
from lorax.registry.gate import TaskVerdict, reasons
from lorax.registry.journal import GATE, MLFLOW, Entry, Quarantine
from lorax.registry.lineage import line_of, timeline_points
from lorax.registry.overview import show_timeline
from lorax.registry.store import CHALLENGER, CHAMPION, Store
from lorax.registry.versions import (
    LINE_TAG,
    ModelVersion,
    describe,
    outcome_tags,
    promotion_tags,
    verdict_tags,
)

if TYPE_CHECKING:
    from lorax.learning.state import LearnerState

_IN_FLIGHT_S = 1.0
"""A move is written to the journal this long before its alias at most, unless its writer dies in between."""

_PASSED = "passed the gate"
_MOVED_THERE = "the alias was moved in MLflow"


def challenge(store: Store, version: ModelVersion) -> None:
    """Make a version challenger, and refuse it where one of its verdicts failed; the champion is beyond that.

    Called again after being cut off, it comes to the same end.
    """
    if _is_champion(store, version):
        return
    if CHALLENGER not in version.aliases:
        store.set_alias(CHALLENGER, version.version)
    if failed := reasons(version.verdicts):
        refuse(store, version, GATE, failed)


def promote_passed(store: Store, version: ModelVersion, state: LearnerState, gate: GateParams) -> None:
    """Promote a judged challenger unless it was refused; nothing happens to one that a person has decided on.

    Called again after being cut off, it comes to the same end.
    """
    champion = store.champion()
    if _is_champion(store, version):
        if not version.outcome:
            _finish(store, state)
    elif reasons(version.verdicts) or _key(version) in {(one.task, one.digest) for one in store.quarantined()}:
        return  # refused, or rolled back, refused by hand or waiting since it was registered
    elif (champion.state_digest if champion else None) != version.parent_digest:
        base = f"version {champion.version}" if champion else "none"
        _base_moved(store, version, f"the champion is {base} by now, which this did not grow from")
    elif gate.approval:
        n = version.version
        what = f"passed the gate; waits for 'lorax promote {n} --reason TEXT' or 'lorax refuse {n} --reason TEXT'"
        _set(store, version, journal.WAITING, what)
        store.note(journal.WAITING, version.version, GATE, "waits for approval", *_key(version))
    else:
        _promote(store, version, state)


def with_verdicts(store: Store, version: ModelVersion, verdicts: Sequence[TaskVerdict]) -> ModelVersion:
    """Give a version today's verdicts: a task released after the thresholds were changed comes out the same again."""
    if verdicts == list(version.verdicts):
        return version
    store.set_tags(version.version, verdict_tags(verdicts, is_first=not version.verdicts))
    store.set_description(version.version, describe(version.tasks, version.metrics, verdicts, version.origin))
    return replace(version, verdicts=tuple(verdicts))


def refuse(store: Store, version: ModelVersion, by: str, reason: str) -> None:
    """Refuse a challenger and quarantine its task; that comes last, since until then the call will be repeated."""
    _set(store, version, journal.REFUSED, reason)
    store.note(journal.REFUSED, version.version, by, reason, *_key(version))


def move_by_hand(store: Store, new: Entry, seen: Sequence[Entry] | None, state: LearnerState | None = None) -> None:
    """Make a version champion, and quarantine what the old champion knows beyond it, or free that to be learned anew.

    Args:
        store: of the model whose champion it is to be.
        new: the move.
        seen: the journal as it was when the move was decided on; None: as it is now.
        state: the version's learner state, where it is at hand.

    Raises:
        RegistryError: somebody else has moved the champion since.
    """
    base = journal.last_move(store.journal() if seen is None else seen)
    while True:
        entries = store.journal()
        own = journal.numbered(new, entries)
        first, *_ = journal.moves_after(entries, base) or [claims.claim(store, base, own)]
        _carry_out(store, first, state if first == own else None)
        if first == own:
            return
        if first.is_by_hand:
            raise RegistryError(_beaten(first))
        base = first


def finished_journal(store: Store) -> list[Entry]:
    """The journal, once a move that was cut off is carried out: what a move by hand is decided on.

    Else who repeats a command that was cut off would be beaten by their own move.
    """
    entries = store.journal()
    if store.versions() and (pending := claims.following(store, journal.last_move(entries))):
        _carry_out(store, pending)
        return store.journal()
    return entries


def take_note(store: Store, champion: ModelVersion) -> None:
    """Finish a move that was cut off, and write to the journal if the alias was moved in MLflow itself."""
    move = journal.last_move(store.journal())
    if pending := claims.following(store, move):
        _carry_out(store, pending)
    elif _is_elsewhere(store, champion):
        time.sleep(_IN_FLIGHT_S)
        now = store.champion()
        if now is not None and _is_elsewhere(store, now):
            move_by_hand(store, journal.entry(journal.MOVED, now.version, by=MLFLOW, reason=_MOVED_THERE), None)
    elif champion.outcome != journal.PROMOTED:
        _finish(store)
    now = store.champion() or champion
    for version in store.versions(journal.WAITING):
        if version.parent_digest != now.state_digest:
            _base_moved(store, version, "the champion moved while this waited for approval")


def write_timeline(store: Store, version: ModelVersion, state: LearnerState) -> None:
    """Write the curve that leads up to a version that becomes champion, on the line of descent that it continues."""
    client, versions = store.client, store.versions()
    line = line_of(version.state_digest, version.parent_digest, versions)
    experiment = tracking.experiment_id(client, store.uri, store.name)
    timeline = tracking.timeline_run(client, experiment, line)
    client.set_tag(version.run_id, tracking.PARENT_TAG, timeline.info.run_id)
    store.set_tags(version.version, {LINE_TAG: line})
    points = timeline_points(state, version.state_digest, versions)
    tracking.write_timeline(client, timeline.info.run_id, points, version.created_at)
    show_timeline(client, experiment, timeline.info.run_id, state, version, versions)
    tracking.finish_run(client, timeline)


def _promote(store: Store, version: ModelVersion, state: LearnerState) -> None:
    """Compare and set: the champion is what the journal says, and nobody moves it before this does."""
    entries, champion = store.journal(), store.champion()
    move = journal.last_move(entries)
    if move and (move.version, move.by) == (version.version, GATE):  # cut off before the alias was set
        _carry_out(store, move, state)
    elif (move.version if move else None) != (champion.version if champion else None):
        _base_moved(store, version, "the champion was being moved at that moment")
    else:
        own = journal.numbered(journal.entry(journal.PROMOTED, version.version, by=GATE, reason=_PASSED), entries)
        first = claims.claim(store, move, own)
        is_own = (first.version, first.by) == (version.version, GATE)  # of now, or of before it was cut off
        _carry_out(store, first, state if is_own else None)
        if not is_own:
            _base_moved(store, version, _beaten(first))


def _carry_out(store: Store, move: Entry, state: LearnerState | None = None) -> None:
    """All that a claimed move stands for. Whoever finds it half done, or is at it at the same time, may do it again."""
    version = store.existing(move.version)
    if version is None:  # deleted since; the journal goes on behind it
        journal.put(store.client, store.name, move)
        return
    if not version.line or version.outcome != journal.PROMOTED:  # who named the line may not have written all of it
        write_timeline(store, version, state or _fetched(store, version))
    if move.is_by_hand:
        for entry in _beside(store, move, version):
            journal.put(store.client, store.name, entry)
    journal.put(store.client, store.name, move)
    _set_alias(store)
    if version.outcome != journal.PROMOTED or version.promoted_at is None or version.promoted_at < move.at:
        _set_promoted(store, version, move.by, move.reason)


def _beside(store: Store, move: Entry, version: ModelVersion) -> list[Entry]:
    """What a move by hand does to tasks: what the champion before it (by the journal's word, for the alias may be lost)
    knows beyond `version` is quarantined; where it goes back to learn a task anew, that is free, as is all else.

    The champion's knowledge hides quarantines of earlier days: to go back to before it, they are lifted.
    """
    entries = store.journal()
    base = next((e for e in reversed(entries) if e.is_move and e.number < move.number), None)
    old = store.existing(base.version) if base else None
    beyond = [known for known in (old.tasks if old else ()) if known not in version.tasks]
    if move.kind == journal.ROLLED_BACK and move.task:
        keys = {(known.name, known.digest) for known in beyond}
        lifted = [q for q in journal.quarantined(entries) if q.task == move.task or (q.task, q.digest) in keys]
        return [journal.beside(move, journal.RELEASED, one) for one in lifted]
    number = old.version if old else 0
    new = [Quarantine(known.name, known.digest, move.reason, move.by, move.at, number) for known in beyond]
    before = {(q.task, q.digest) for q in journal.quarantined(entries) if q.is_withdrawn}
    withdrawn = {one for one in beyond if one.name == move.task or (one.name, one.digest) in before}
    kinds = [journal.WITHDRAWN if one in withdrawn else journal.HELD for one in beyond]
    return [journal.beside(move, kind, one) for kind, one in zip(kinds, new, strict=True)]


def _set_alias(store: Store) -> None:
    """Put the alias where the journal's last move wants it; looked at again afterwards, since another may have come."""
    while True:
        model = store.registered_model()
        move = journal.last_move(journal.read(model.tags))
        if move is None or str(model.aliases.get(CHAMPION)) == str(move.version) or not store.existing(move.version):
            return
        store.set_alias(CHAMPION, move.version)


def _finish(store: Store, state: LearnerState | None = None) -> None:
    """The rest of a move that was cut off after the alias was set."""
    if move := journal.last_move(store.journal()):
        _carry_out(store, move, state)


def _set_promoted(store: Store, version: ModelVersion, by: str, reason: str) -> None:
    """It is no challenger any more; the outcome is written last, since until then the call will be repeated."""
    if str(store.registered_model().aliases.get(CHALLENGER)) == str(version.version):
        store.client.delete_registered_model_alias(store.name, CHALLENGER)
    store.set_tags(version.version, promotion_tags(by, reason))


def _beaten(move: Entry) -> str:
    when = f"{move.at:%Y-%m-%d %H:%M:%S}"
    return (
        f"the champion was moved meanwhile: {move.by} made version {move.version} champion at {when} ({move.reason}). "
        "Nothing else was changed. Look at 'lorax history', and decide anew."
    )


def _is_champion(store: Store, version: ModelVersion) -> bool:
    champion = store.champion()
    return champion is not None and champion.version == version.version


def _fetched(store: Store, version: ModelVersion) -> LearnerState:
    from lorax.learning.state_files import load_state

    with scratch() as folder:
        return load_state(store.download_state(version.version, folder))


def _base_moved(store: Store, version: ModelVersion, reason: str) -> None:
    """The challenger's task is free to be learned again, from the champion of now."""
    store.note(journal.BASE_MOVED, version.version, GATE, reason, *_key(version))
    _set(store, version, journal.BASE_MOVED, reason)


def _is_elsewhere(store: Store, champion: ModelVersion) -> bool:
    """Whether the journal's last word is another version; it has none where the alias was first set in MLflow."""
    move = journal.last_move(store.journal())
    return move is None or move.version != champion.version


def _set(store: Store, version: ModelVersion, outcome: str, reason: str) -> None:
    store.set_tags(version.version, outcome_tags(outcome, reason))


def _key(version: ModelVersion) -> tuple[str, str]:
    return version.learned.name, version.learned.digest
