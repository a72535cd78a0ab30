"""What there is to learn is decided without a server."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from lorax.data.admission import LandingOptions
from lorax.data.landing import land
from lorax.errors import DataVersionError, RegistryError
from lorax.params import Params
from lorax.reconcile import (
    accuracy_rows,
    behind,
    changed_tasks,
    missing_tasks,
    one_at_a_time,
    scenario_orders,
    scenario_tasks,
    waiting_tasks,
)
from lorax.registry import ModelVersion, Quarantine
from lorax.services import embedded
from lorax.stream import PinnedTask
from lorax.workspace import Workspace
from tests.conftest import WriteTask

LANDED = [PinnedTask("a", "1"), PinnedTask("b", "2"), PinnedTask("c", "3")]


def version(number: int, tasks: dict[str, str], row: list[float]) -> ModelVersion:
    """A version that learned one task more than the version before it."""
    return ModelVersion(
        version=number,
        run_id="",
        state_digest=f"state {number}",
        parent_digest=f"state {number - 1}" if number > 1 else None,
        line="state 1",
        episode=number - 1,
        task=list(tasks)[-1],
        tasks=tuple(PinnedTask(name, digest) for name, digest in tasks.items()),
        data_digest="",
        data_commit=None,
        metrics={f"accuracy/{task}": value for task, value in zip(tasks, row, strict=True)},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_with_no_champion_everything_that_landed_is_missing() -> None:
    assert missing_tasks(LANDED, None, ()) == LANDED


def test_missing_tasks_keep_their_landing_order() -> None:
    assert missing_tasks(LANDED, version(1, {"b": "2"}, [1.0]), ()) == [LANDED[0], LANDED[2]]


def test_an_extension_is_missing_once_what_it_extends_is_known_or_comes_before_it() -> None:
    extends_a, knows_a = {"b": "a", "c": "a"}, version(1, {"a": "1"}, [1.0])
    assert missing_tasks(LANDED, None, (), extends_a) == LANDED
    assert missing_tasks(LANDED, knows_a, (), extends_a) == LANDED[1:]
    held = [Quarantine("a", "1", "rolled back", "somebody", datetime(2026, 1, 1, tzinfo=UTC), 1)]
    assert missing_tasks(LANDED, None, held, {"b": "a"}) == [LANDED[2]]
    assert behind(LANDED, None, held, {"b": "a"}) == {"b": "a"}


def test_a_learned_task_that_landed_again_with_other_bytes_is_changed_not_missing() -> None:
    champion = version(1, {"a": "1", "b": "another", "c": "3"}, [1.0, 1.0, 1.0])
    assert changed_tasks(LANDED, champion) == [LANDED[1]]
    assert missing_tasks(LANDED, champion, ()) == []


def test_where_nothing_landed_the_registry_is_not_asked(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert waiting_tasks(workspace, Params()) == []


def test_a_registry_of_the_environment_that_is_silent_is_an_error_not_an_empty_registry(
    shared_landed_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RegistryError, match="does not answer"):
        waiting_tasks(shared_landed_workspace, Params())


def test_the_accuracy_matrix_is_read_from_the_champions_ancestors() -> None:
    first = version(1, {"a": "1"}, [0.9])
    aside = version(2, {"a": "1", "c": "3"}, [0.1, 0.1])
    third = version(3, {"a": "1", "b": "2"}, [0.8, 0.7])
    third = ModelVersion(**{**vars(third), "parent_digest": "state 1"})
    assert accuracy_rows(third, [first, aside, third]) == [[0.9], [0.8, 0.7]]


def test_a_scenario_names_the_tasks_that_have_not_landed(shared_landed_workspace: Workspace) -> None:
    with pytest.raises(DataVersionError, match=r"needs tasks that have not landed.*gaugan, biggan, wild"):
        scenario_tasks(shared_landed_workspace, "hard")
    with pytest.raises(DataVersionError, match="no scenario 'harder'; there are easy, hard, landed, long"):
        scenario_tasks(shared_landed_workspace, "harder")


def test_the_scenario_landed_is_all_that_landed_in_landing_order(
    shared_landed_workspace: Workspace, workspace: Workspace
) -> None:
    assert scenario_tasks(shared_landed_workspace, "landed") == ["alpha", "beta"]
    with pytest.raises(DataVersionError, match="nothing has landed"):
        scenario_tasks(workspace, "landed")


def test_a_scenario_s_orders_are_drawn_alike_and_what_extends_a_task_comes_after_it(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    with pytest.raises(DataVersionError, match="3 orders of scenario 'landed' were asked for, but its 2 tasks have 2"):
        scenario_orders(landed_workspace, "landed", 3, seed=0)
    land(landed_workspace, write_task(tmp_path / "more", seed=5), "alpha", options=LandingOptions(extend=True))
    found = scenario_orders(landed_workspace, "landed", 3, seed=0)
    assert found[0] == ["alpha", "beta", "alpha-2"]
    assert sorted(map(tuple, found[1:])) == [("alpha", "alpha-2", "beta"), ("beta", "alpha", "alpha-2")]
    assert scenario_orders(landed_workspace, "landed", 3, seed=0) == found
    with pytest.raises(DataVersionError, match="have 3"):
        scenario_orders(landed_workspace, "landed", 4, seed=0)


def test_the_learning_lock_admits_one_at_a_time(tmp_path: Path) -> None:
    waits: list[str] = []
    order: list[str] = []

    def second() -> None:
        with one_at_a_time(Workspace(tmp_path), lambda: waits.append("second")):
            order.append("second")

    with one_at_a_time(Workspace(tmp_path), lambda: waits.append("first")):
        other = threading.Thread(target=second)
        other.start()
        while not waits:
            other.join(0.01)
        order.append("first")
    other.join()
    assert (waits, order) == (["second"], ["first", "second"])


def test_down_ends_who_learns_by_hand_and_who_waits_to(tmp_path: Path) -> None:
    code = "from pathlib import Path; from lorax.reconcile import one_at_a_time; import time\n"
    code += "from lorax.workspace import Workspace\n"
    code += f"with one_at_a_time(Workspace(Path({str(tmp_path)!r})), lambda: print('waits', flush=True)):\n"
    code += "    print('learns', flush=True); time.sleep(600)"
    learners = []
    for said in ("learns\n", "waits\n"):
        learners.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
        assert learners[-1].stdout is not None
        assert learners[-1].stdout.readline() == said
    assert sorted(embedded.stop_learning_by_hand(Workspace(tmp_path))) == sorted(p.pid for p in learners)
    assert not any(psutil.pid_exists(process.pid) for process in learners)
    for process in learners:
        process.communicate()
    assert embedded.stop_learning_by_hand(Workspace(tmp_path)) == []
