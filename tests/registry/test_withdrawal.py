"""A task leaves the registry: the champion moves once, and versions that know the task go with their artifacts."""

from __future__ import annotations

import pytest

from lorax.errors import RegistryError
from lorax.registry import CHALLENGER, Registry, journal, withdrawal
from lorax.registry.candidate import open_candidate
from lorax.stream import PinnedTask
from tests.mlflow_server import Server
from tests.registry.conftest import OPEN, enter
from tests.tiny_learner import Learned

pytestmark = pytest.mark.slow

WHY = {"by": "somebody", "reason": "its licence ended"}


def test_the_champion_moves_once_and_what_it_knew_beyond_is_told_apart(
    registry: Registry, stream: list[Learned], other_second: Learned
) -> None:
    for episode in stream:
        enter(registry, episode)
    champion, beta = registry.version(3), PinnedTask("beta", stream[1].task.digest)
    base = registry.base_without(champion, "beta")
    assert (base and base.version, registry.base_without(champion, "alpha")) == (1, None)
    candidate = open_candidate(other_second.state_dir, other_second.report, None, None)
    high = OPEN.model_copy(update={"attribution_floor": 1.0})
    before = registry.journal()
    with pytest.raises(RegistryError, match=r"the gate would refuse 'delta' \(delta: attribution .*same"):
        withdrawal.check_gate(registry, [candidate], high, "beta")
    withdrawal.check_gate(registry, [candidate], OPEN, "beta")
    assert (registry.journal(), len(registry.versions())) == (before, 3)

    registry.register(candidate)
    registry.judge(candidate, OPEN)
    with pytest.raises(RegistryError, match="version 2 knows task 'beta'"):
        withdrawal.withdraw(registry, beta, 2, **WHY, seen=before)
    now = withdrawal.withdraw(registry, beta, 4, **WHY, seen=registry.journal())
    assert (now.aliases, now.outcome, now.reason) == (
        ("champion",),
        "promoted",
        "to withdraw beta: its licence ended",
    )
    told = {(e.kind, e.task) for e in registry.journal()[-3:]}
    assert told == {("withdrawn", "beta"), ("held", "gamma"), ("promoted", "beta")}
    assert {(q.task, q.is_withdrawn) for q in registry.quarantined()} == {("beta", True), ("gamma", False)}
    assert registry.settle() == now
    registry.rollback(3, **WHY)
    registry.promote(4, other_second.state_dir, **WHY)
    assert {(q.task, q.is_withdrawn) for q in registry.quarantined()} == {("beta", True), ("gamma", False)}, "still"


def test_a_task_that_no_champion_knows_is_noted_once(registry: Registry) -> None:
    for _ in range(2):
        withdrawal.note(registry, PinnedTask("beta", "b" * 64), **WHY)
    [held] = registry.quarantined()
    assert (held.task, held.version, held.is_withdrawn) == ("beta", 0, True)
    assert [entry.kind for entry in registry.journal()] == ["withdrawn"]


def test_a_version_that_knows_it_and_waits_for_approval_waits_no_more(
    registry: Registry, stream: list[Learned]
) -> None:
    enter(registry, stream[0])
    enter(registry, stream[1], gate=OPEN.model_copy(update={"approval": True}))
    beta = PinnedTask("beta", stream[1].task.digest)
    withdrawal.note(registry, PinnedTask("other", "b" * 64), **WHY)
    assert registry.waiting()
    withdrawal.note(registry, beta, **WHY)
    assert (registry.waiting(), registry.version(2).outcome) == (None, "refused")
    assert {(q.task, q.is_withdrawn) for q in registry.quarantined()} == {("other", True), ("beta", True)}


def test_versions_that_know_a_task_go_for_good_wherever_that_is_cut_off(
    server: Server, registry: Registry, stream: list[Learned]
) -> None:
    for episode in stream:
        enter(registry, episode)
    with pytest.raises(RegistryError, match=r"the champion, version 3, knows task 'gamma'. Withdraw it first"):
        withdrawal.knowing(registry, "gamma")
    registry.rollback(1, **WHY)
    registry.set_alias(CHALLENGER, 3)
    newest, second = withdrawal.knowing(registry, "beta")
    assert (newest.version, second.version) == (3, 2)
    lists = lambda: set(server.folder.glob("artifacts/*/models/*/artifacts/**/exemplars.csv"))  # noqa: E731
    everybody = lists()
    withdrawal.erase_artifacts(registry, 3)  # and cut off
    assert len(everybody - lists()) == 1
    for version in (newest, second):
        withdrawal.erase(registry, version, by="somebody", reason="to forget beta")
    assert len(everybody - lists()) == 2
    assert [version.version for version in registry.versions()] == [1]
    assert [entry.version for entry in registry.journal() if entry.kind == journal.DELETED] == [3, 2]
    assert (registry.breakage(), withdrawal.knowing(registry, "beta")) == ([], [])
    registry.release("beta", **WHY)
    assert enter(registry, stream[1]).outcome == "promoted", "the runs stay, in which moves are written"
