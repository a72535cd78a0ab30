"""The gate's decision carried out, moves by hand, and both at once: on a real MLflow server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace
from typing import Any

import pytest

from lorax.errors import RegistryError
from lorax.learning.metrics import Paired
from lorax.learning.state import LearnerState
from lorax.network.backbone import BackboneIdentity
from lorax.params import GateParams
from lorax.registry import CHALLENGER, CHAMPION, Registry, TaskVerdict, claims, journal
from lorax.registry.candidate import open_candidate
from lorax.registry.overview import accuracy_view
from lorax.registry.versions import describe, promotion_tags, read_version, verdict_tags, version_tags
from lorax.stream import PinnedTask
from tests.mlflow_server import Server
from tests.registry.conftest import OPEN, enter
from tests.tiny_learner import Learned

pytestmark = pytest.mark.slow

STRICT = OPEN.model_copy(update={"attribution_drop": 0.05, "significance": 0.5})
"""Refuses an episode that lost more of an old task than chance explains."""

HIGH = OPEN.model_copy(update={"attribution_floor": 1.0})


def register(registry: Registry, *episodes: Learned, gate: GateParams = OPEN) -> list[str]:
    """Outcomes."""
    return [enter(registry, e, gate=gate).outcome for e in episodes]


def champion(registry: Registry) -> int | None:
    found = registry.champion()
    return found.version if found else None


def held(registry: Registry) -> list[str]:
    return [hold.task for hold in registry.quarantined()]


def kinds(registry: Registry) -> list[tuple[str, int]]:
    return [(e.kind, e.version) for e in registry.journal()]


def experiment_of(registry: Registry) -> str:
    return str(registry.client.get_experiment_by_name(registry.name).experiment_id)


def steps_of(registry: Registry, line: str, key: str) -> list[int]:
    client = registry.client
    (run,) = client.search_runs([experiment_of(registry)], f"tags.`lorax.line` = '{line}'")
    return sorted(m.step for m in client.get_metric_history(run.info.run_id, key))


class Meanwhile:
    """MLflow's client, with something done right before or after the champion's alias is set for the first time."""

    def __init__(self, client: Any, before: Callable[[], Any], after: Callable[[], Any]) -> None:
        self.client, self.before, self.after, self.is_done = client, before, after, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def set_registered_model_alias(self, model: str, alias: str, version: str) -> None:
        if alias != CHAMPION or self.is_done:
            self.client.set_registered_model_alias(model, alias, version)
            return
        self.is_done = True
        self.before()
        self.client.set_registered_model_alias(model, alias, version)
        self.after()


def nothing() -> None:
    return


def test_a_challenger_that_lost_an_old_task_is_refused_named_and_held(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, *stream[:2])
    lost = {task: Paired(8, 4, 0) for task in ("alpha", "beta")}  # whatever such small learners make of it
    version = enter(registry, replace(stream[2], report=replace(stream[2].report, against_base=lost)), gate=STRICT)
    assert version.outcome == "refused"
    assert version.reason.startswith("alpha: attribution")
    assert "; beta: attribution" in version.reason
    assert [(v.task, v.kind) for v in version.verdicts if not v.passed] == [("alpha", "drop"), ("beta", "drop")]
    assert version.aliases == (CHALLENGER,)
    assert champion(registry) == 2
    assert [(h.task, h.digest, h.by, h.version) for h in registry.quarantined()] == [
        ("gamma", stream[2].task.digest, journal.GATE, 3)
    ]
    assert steps_of(registry, stream[0].digest, "accuracy/alpha") == [0, 1]


def test_the_next_task_grows_from_the_champion_on_the_same_line(
    registry: Registry, stream: list[Learned], other_second: Learned
) -> None:
    register(registry, stream[0])
    assert register(registry, stream[1], gate=HIGH) == ["refused"]
    assert register(registry, other_second) == ["promoted"]
    assert champion(registry) == 3
    assert registry.version(3).line == stream[0].digest
    assert steps_of(registry, stream[0].digest, "accuracy/alpha") == [0, 1]


def test_a_challenger_whose_parent_is_not_champion_any_more_is_told_so_and_not_held(
    registry: Registry, stream: list[Learned], other_second: Learned
) -> None:
    register(registry, *stream[:2])
    version = enter(registry, other_second)
    assert (version.outcome, champion(registry), held(registry)) == ("base moved", 2, [])
    assert "version 2" in version.reason


def test_a_promotion_by_hand_that_was_cut_off_after_the_alias_is_finished(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, stream[0])
    register(registry, stream[1], gate=HIGH)
    registry.note(journal.PROMOTED, 2, "ann", "alpha is retired")
    registry.client.set_registered_model_alias(registry.name, CHAMPION, "2")
    registry.settle()
    version = registry.version(2)
    assert (version.outcome, version.promoted_by, version.reason) == ("promoted", "ann", "alpha is retired")
    assert version.aliases == (CHAMPION,)


def test_a_rollback_brings_the_state_back_and_holds_what_was_learned_after_it_until_released(
    registry: Registry, stream: list[Learned], tmp_path: Path
) -> None:
    register(registry, *stream)
    registry.rollback(1, by="ann", reason="beta flags real photos")
    assert champion(registry) == 1
    assert registry.download_state(1, tmp_path).name == stream[0].digest
    assert [(h.task, h.reason, h.by) for h in registry.quarantined()] == [
        ("beta", "beta flags real photos", "ann"),
        ("gamma", "beta flags real photos", "ann"),
    ]
    assert [h.task for h in registry.release("beta", by="ann", reason="mended")] == ["beta"]
    assert held(registry) == ["gamma"]
    assert registry.release("beta", by="ann", reason="again") == []


def test_a_refused_task_that_is_released_is_judged_by_the_thresholds_of_then(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, stream[0])
    assert register(registry, stream[1], gate=HIGH) == ["refused"]
    registry.release("beta", by="ann", reason="try once more")
    assert register(registry, stream[1], gate=HIGH) == ["refused"]
    assert held(registry) == ["beta"]
    registry.release("beta", by="ann", reason="the floor was too high")
    assert register(registry, stream[1], gate=OPEN) == ["promoted"]
    assert [v.before for v in registry.version(2).verdicts if v.kind == "new"] == [
        OPEN.detection_floor,
        OPEN.attribution_floor,
    ]


def test_a_task_learned_again_to_the_same_state_is_champion_again_once_it_is_released(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, *stream[:2])
    registry.rollback(1, by="ann", reason="no")
    register(registry, stream[1])
    assert (champion(registry), held(registry)) == (1, ["beta"])
    registry.release("beta", by="ann", reason="it was right")
    assert register(registry, stream[1]) == ["promoted"]
    assert champion(registry) == 2
    assert len(registry.versions()) == 2


def test_what_was_refused_becomes_champion_by_promoting_not_by_rolling_back(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, stream[0])
    register(registry, stream[1], gate=HIGH)
    before = kinds(registry)
    with pytest.raises(RegistryError, match="is the champion already"):
        registry.rollback(1, by="ann", reason="x")
    with pytest.raises(RegistryError, match=r"never was champion.*lorax promote 2"):
        registry.rollback(2, by="ann", reason="x")
    with pytest.raises(RegistryError, match="has no version 7; there are: 1, 2"):
        registry.rollback(7, by="ann", reason="x")
    assert (kinds(registry), champion(registry)) == (before, 1)
    version = registry.promote(2, stream[1].state_dir, by="ann@desk", reason="alpha is retired")
    assert (version.outcome, version.promoted_by, version.reason) == ("promoted", "ann@desk", "alpha is retired")
    assert version.promoted_at is not None
    assert version.aliases == (CHAMPION,)
    assert held(registry) == []
    assert steps_of(registry, stream[0].digest, "accuracy/alpha") == [0, 1]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_rollback_while_the_gate_promotes_wins(
    server: Server, registry: Registry, stream: list[Learned], moment: str
) -> None:
    register(registry, *stream[:2])
    person = Registry(server.uri, registry.name)
    roll = lambda: person.rollback(1, by="ann", reason="stop")  # noqa: E731
    hooks = {"before": nothing, "after": nothing, moment: roll}
    registry.__dict__["client"] = Meanwhile(registry.client, **hooks)
    register(registry, stream[2])
    assert champion(registry) == 1
    assert held(registry) == ["beta", "gamma"]
    assert kinds(registry)[-1] == ("rolled back", 1)


def test_of_moves_by_hand_at_once_one_is_made_and_the_others_are_told(
    server: Server, registry: Registry, stream: list[Learned]
) -> None:
    register(registry, stream[0])
    register(registry, stream[1], stream[2], gate=OPEN.model_copy(update={"attribution_floor": 1.0}))
    for _ in range(2):
        start, told = Barrier(3), list[str]()

        def move(number: int, start: Barrier = start, told: list[str] = told) -> None:
            person = Registry(server.uri, registry.name)
            seen = person.journal()
            start.wait()
            try:
                if number == 1:
                    person.rollback(1, by="p1", reason="back", seen=seen)
                else:
                    state_dir = stream[number - 1].state_dir
                    person.promote(number, state_dir, by=f"p{number}", reason="so be it", seen=seen)
            except RegistryError as error:
                told.append(str(error))

        others = [number for number in (1, 2, 3) if number != champion(registry)]
        threads = [Thread(target=move, args=(number,)) for number in [*others, others[0]]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        last = journal.last_move(registry.journal())
        assert last is not None
        assert len(told) == 2
        assert all("was moved meanwhile" in text or "is the champion already" in text for text in told), told
        assert (last.version, champion(registry)) == (champion(registry), last.version)
    for run in registry.client.search_runs([experiment_of(registry)], "tags.`lorax.role` = 'timeline'"):
        points = registry.client.get_metric_history(run.info.run_id, "accuracy/alpha")
        assert len({m.step for m in points}) == len(points)


@pytest.mark.parametrize("letter", ['"', "\n", "\x01", "\\", "é", "a"])
def test_reasons_of_whatever_letters_fit_mlflow_s_tags_and_parameters(letter: str) -> None:
    """Behind the key of some 60 characters, as a claim; MLflow would cut the JSON off."""
    entry = journal.entry(
        journal.PROMOTED, 10**9, by=letter * 9000, reason=letter * 9000, task="t" * 99, digest="d" * 64
    )
    assert len(journal.text_of(entry)) <= 5000
    assert len(entry.reason) >= 3000 // len(json.dumps(letter))
    assert journal.entry(journal.PROMOTED, 1, by="ann", reason=letter * 400).reason == letter * 400


def test_a_move_that_was_cut_off_behind_its_claim_is_carried_out_by_who_comes_next(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, *stream[:2])
    entries = registry.journal()
    claimed = journal.numbered(journal.entry(journal.ROLLED_BACK, 1, by="ann", reason='"' * 9000), entries)
    assert claims.claim(registry, journal.last_move(entries), claimed) == claimed
    assert champion(registry) == 2
    settled = registry.settle()
    assert settled is not None
    assert (settled.version, held(registry)) == (1, ["beta"])
    assert registry.journal()[-1] == claimed
    assert [e for e in registry.journal() if e.kind == journal.HELD] == [registry.journal()[-2]]


def test_who_repeats_a_move_by_hand_that_was_cut_off_behind_its_claim_is_not_beaten_by_it(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, *stream[:2])
    entries = registry.journal()
    claims.claim(
        registry,
        journal.last_move(entries),
        journal.numbered(journal.entry(journal.ROLLED_BACK, 1, by="ann", reason="stop"), entries),
    )
    seen = registry.finished_journal()
    assert (champion(registry), kinds(registry)[-1]) == (1, ("rolled back", 1))
    with pytest.raises(RegistryError, match="is the champion already"):
        registry.rollback(1, by="ann", reason="stop", seen=seen)
    assert registry.finished_journal() == seen


def test_with_no_champion_only_the_floor_is_asked_and_an_alias_set_in_mlflow_is_taken_note_of(
    registry: Registry, stream: list[Learned]
) -> None:
    assert register(registry, stream[0], gate=GateParams(attribution_floor=1.0)) == ["refused"]
    assert (champion(registry), held(registry)) == (None, ["alpha"])
    registry.client.set_registered_model_alias(registry.name, CHAMPION, "1")
    registry.settle()
    assert kinds(registry)[-1] == ("moved", 1)
    assert register(registry, stream[1]) == ["promoted"]


def test_a_rollback_that_has_not_set_the_alias_yet_wins(registry: Registry, stream: list[Learned]) -> None:
    register(registry, *stream[:2])
    registry.note(journal.ROLLED_BACK, 1, "ann", "stop")
    assert register(registry, stream[2]) == ["base moved"]
    assert champion(registry) == 2


def test_an_alias_moved_in_mlflow_counts_as_a_move_by_hand_and_deletions_there_are_told(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, *stream)
    registry.client.set_registered_model_alias(registry.name, CHAMPION, "2")
    settled = registry.settle()
    assert settled is not None
    assert settled.version == 2
    assert held(registry) == ["gamma"]
    assert kinds(registry)[-1] == ("moved", 2)
    registry.settle()
    assert kinds(registry).count(("moved", 2)) == 1
    assert registry.breakage() == []
    registry.client.delete_model_version(registry.name, "1")
    assert [text.partition(":")[0] for text in registry.breakage()] == [
        "version 1 was deleted in MLflow",
        f"the champion's ancestor before version 2 (state {stream[0].digest[:12]}) is gone",
    ]


@pytest.mark.parametrize("what", ["alias", "version"])
def test_a_lost_alias_is_told_and_mended_by_promoting(registry: Registry, stream: list[Learned], what: str) -> None:
    register(registry, *stream[:2])
    if what == "alias":
        registry.client.delete_registered_model_alias(registry.name, CHAMPION)
    else:
        registry.client.delete_model_version(registry.name, "2")
    (told, *_) = registry.breakage()
    assert "lorax promote VERSION --reason TEXT" in told
    with pytest.raises(RegistryError, match="it was on version 2"):
        registry.settle()
    registry.promote(1, stream[0].state_dir, by="ann", reason="mend")
    assert champion(registry) == 1


def test_what_the_champion_needs_is_not_deleted_and_what_is_deleted_stays_held(
    registry: Registry, stream: list[Learned], other_second: Learned
) -> None:
    register(registry, *stream[:2])
    registry.rollback(1, by="ann", reason="no")
    register(registry, other_second)
    for number, what in ((3, "is the champion"), (1, "is an ancestor of the champion, 3")):
        with pytest.raises(RegistryError, match=what):
            registry.delete(number, by="ann", reason="room")
    registry.delete(2, by="ann", reason="room")
    assert [v.version for v in registry.versions()] == [1, 3]
    assert held(registry) == ["beta"]
    assert registry.breakage() == []


def test_with_approval_a_passed_challenger_waits_for_a_person(registry: Registry, stream: list[Learned]) -> None:
    asking = OPEN.model_copy(update={"approval": True})
    assert register(registry, stream[0], gate=asking) == ["waiting"]
    waiting = registry.waiting()
    assert waiting is not None
    assert champion(registry) is None
    registry.promote(1, stream[0].state_dir, by="ann", reason="looks good")
    assert (champion(registry), held(registry), registry.waiting()) == (1, [], None)
    assert register(registry, stream[1], gate=asking) == ["waiting"]
    assert registry.refuse(2, by="ann", reason="does not").outcome == "refused"
    assert (champion(registry), held(registry), registry.waiting()) == (1, ["beta"], None)
    with pytest.raises(RegistryError, match="does not wait for approval"):
        registry.refuse(2, by="ann", reason="again")


def test_what_waits_for_a_past_champion_is_free_to_be_learned_again(registry: Registry, stream: list[Learned]) -> None:
    register(registry, *stream[:2])
    register(registry, stream[2], gate=OPEN.model_copy(update={"approval": True}))
    registry.rollback(1, by="ann", reason="no")
    registry.settle()
    assert registry.version(3).outcome == "base moved"
    assert held(registry) == ["beta"]


def test_a_version_that_knows_many_tasks_fits_mlflow_s_tags() -> None:
    names = [f"generator-of-the-month-{i:03d}" for i in range(200)]
    tasks = tuple(PinnedTask(name, f"{i:064d}") for i, name in enumerate(names))
    metrics = {f"accuracy/{name}": 0.9123456789 for name in names}
    metrics |= {"average_accuracy": 0.9, "average_incremental_accuracy": 0.9, "forgetting": 0.0}
    verdicts = [TaskVerdict(name, kind, 0.91, 0.9, 0.4, True) for name in names for kind in ("drop", "forgetting")]
    backbone = BackboneIdentity("", {}, "", "", 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    tags = version_tags("s", LearnerState(backbone, tasks=tasks), metrics, {})
    tags |= verdict_tags(verdicts, is_first=True)
    assert max(map(len, tags.values())) <= 4000
    tags |= promotion_tags("ann", "why")
    found = read_version(SimpleNamespace(tags=tags, version=1, run_id="", creation_timestamp=0, aliases=[]))
    assert (found.tasks, dict(found.metrics), list(found.verdicts)) == (tasks, metrics, verdicts)
    assert len(describe(tasks, metrics, verdicts, found.origin)) <= 5000
    assert len(accuracy_view(names, found.created_at)) <= 5000


def test_people_are_shown_a_few_short_tags(registry: Registry, stream: list[Learned]) -> None:
    register(registry, stream[0])
    tags = registry.client.get_model_version(registry.name, "1").tags
    shown = {key: value for key, value in tags.items() if not key.startswith("mlflow.")}
    assert sorted(shown) == ["lorax.accuracy", "lorax.data", "lorax.forgetting", "lorax.outcome", "lorax.task"]
    assert max(map(len, shown.values())) <= 12


def as_before(registry: Registry, number: int) -> None:
    """Give a version the tags that it would have had before any were hidden."""
    client, name, version = registry.client, registry.name, str(number)
    for tag, value in client.get_model_version(name, version).tags.items():
        if tag.startswith("mlflow.lorax."):
            client.delete_model_version_tag(name, version, tag)
            client.set_model_version_tag(name, version, tag.removeprefix("mlflow."), value.removeprefix("mlflow."))


def test_versions_whose_tags_are_all_shown_are_read_grown_from_and_rolled_back_to(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, *stream[:2])
    before = registry.versions()
    for number in (1, 2):
        as_before(registry, number)
    assert registry.versions() == before
    assert registry.find(stream[0].digest) == before[0]
    assert register(registry, stream[2]) == ["promoted"]
    (line,) = {version.line for version in registry.versions()}
    assert steps_of(registry, line, "average_accuracy") == [0, 1, 2]
    assert registry.rollback(1, by="ann", reason="no").version == 1
    assert (champion(registry), held(registry)) == (1, ["beta", "gamma"])


def test_a_version_that_waited_before_tags_were_hidden_is_approved(registry: Registry, stream: list[Learned]) -> None:
    register(registry, stream[0], gate=OPEN.model_copy(update={"approval": True}))
    as_before(registry, 1)
    waiting = registry.waiting()
    assert waiting is not None
    assert registry.promote(waiting.version, stream[0].state_dir, by="ann", reason="good").outcome == "promoted"


def test_a_journal_edited_by_hand_is_an_error_that_names_the_tag(registry: Registry, stream: list[Learned]) -> None:
    register(registry, stream[0])
    registry.client.set_registered_model_tag(registry.name, "lorax.journal.000009.abc", "scribble")
    with pytest.raises(RegistryError, match=r"tag 'lorax.journal.000009.abc'"):
        registry.journal()


def test_a_registered_state_is_no_champion_before_the_gate_has_judged_it(
    registry: Registry, stream: list[Learned]
) -> None:
    candidate = open_candidate(stream[0].state_dir, stream[0].report, None, None)
    with pytest.raises(RegistryError, match="is not registered"):
        registry.judge(candidate, OPEN)
    registered = registry.register(candidate)
    assert (registered.verdicts, registered.outcome, registered.aliases) == ((), "", (CHALLENGER,))
    with pytest.raises(RegistryError, match="version 1 was not judged by the gate"):
        registry.promote_passed(candidate, OPEN)
    judged = registry.judge(candidate, OPEN)
    assert ([v.kind for v in judged.verdicts], judged.outcome) == (["new", "new"], "")
    assert registry.champion() is None
    assert registry.promote_passed(candidate, OPEN).aliases == (CHAMPION,)
