"""Steps as functions, outside of a flow."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows import step as making
from flows import steps
from lorax.attribution import versions
from lorax.data import pins, withdrawal
from lorax.data.admission import LandingOptions
from lorax.data.landing import land
from lorax.errors import DataVersionError
from lorax.learning.assessment import Assessment
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.state_files import load_state
from lorax.network.building import _build
from lorax.params import GateParams, Params, RealsParams, RobustnessParams
from lorax.registry.candidate import open_candidate
from lorax.registry.card import model_card
from lorax.workspace import Workspace
from tests.conftest import WriteTask
from tests.data.test_reals import add_photographs
from tests.tiny_learner import learn_stream, make_task, tiny_params


def test_where_the_memory_has_no_real_images_a_branch_starts_fresh_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    params = tiny_params(tmp_path)
    params = params.model_copy(update={"exemplars": params.exemplars.model_copy(update={"budget": 0})})
    [first] = learn_stream(tmp_path, params, ["alpha"])
    new, _ = make_task(tmp_path / "data", "beta")
    monkeypatch.setattr(versions, "read_task", lambda *_: new)
    monkeypatch.setattr(steps, "get_run_logger", lambda: logging.getLogger("step"))
    assert steps.find_nearest.fn(str(tmp_path), str(first.state_dir), "beta", params.model_dump(mode="json")) is None
    assert "the branch starts fresh: the exemplar memory has no real images" in caplog.text


def test_photographs_that_nothing_pins_are_missed_before_anything_is_learned(
    shared_landed_workspace: Workspace,
) -> None:
    settings = Params.model_validate({"reals": {"path": "photographs"}}).model_dump(mode="json")
    root = shared_landed_workspace.root
    with pytest.raises(DataVersionError, match="'dvc add photographs'"):
        steps.plan_episode(str(root), root / "work" / "episodes", None, "alpha", settings)
    assert not (root / "work" / "episodes").exists()


def test_an_episode_is_measured_on_photographs_that_dvc_tracks(
    landed_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_photographs(landed_workspace, 4)
    params = tiny_params(tmp_path).model_copy(
        update={"reals": RealsParams(path="photographs", images=3), "robustness": RobustnessParams(per_class=0)}
    )
    settings, root = params.model_dump(mode="json"), str(landed_workspace.root)
    home = steps.plan_episode(root, landed_workspace.episodes_dir, None, "alpha", settings)
    folder, read_task = EpisodeFolder(Path(home)), partial(versions.read_task, landed_workspace)
    learn_episode(Episode.open(folder, read_task, partial(versions.fetch, landed_workspace)))
    monkeypatch.setattr(steps, "get_run_logger", lambda: logging.getLogger("step"))
    caplog.set_level(logging.INFO)
    steps.assess.fn(root, home)
    found = Assessment.read(folder.assessment_path).false_positives
    assert (found.clean.perturbation, found.clean.images) == ("clean", 3)
    assert f"false positives {100 * found.clean.share:.1f} %" in caplog.text
    steps.assess.fn(root, home)
    assert "already done" in caplog.text


METHOD = (steps.grow, steps.fit, steps.herd, steps.calibrate, steps.score, steps.assess, steps.update_atlas)


@pytest.fixture
def outside_a_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps as functions, without Prefect's server to tell of them."""
    for module in (steps, making):
        monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("step"))
    for name in ("create_progress_artifact", "update_progress_artifact", "create_table_artifact"):
        monkeypatch.setattr(making, name, lambda *_, **__: None)


def count_calls(monkeypatch: pytest.MonkeyPatch, calls: Counter[str], function: Callable[..., Any]) -> None:
    """Count the calls of a function, whichever module has it."""

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[function.__name__] += 1
        return function(*arguments, **named)

    for module in [m for name, m in sys.modules.items() if name.startswith(("lorax", "flows"))]:
        if getattr(module, function.__name__, None) is function:
            monkeypatch.setattr(module, function.__name__, counted)


@pytest.mark.usefixtures("outside_a_flow")
def test_the_steps_of_an_episode_read_each_state_once_and_build_the_network_once(
    landed_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tiny_params(tmp_path).model_copy(update={"robustness": RobustnessParams(per_class=1)})
    settings, root = params.model_dump(mode="json"), str(landed_workspace.root)

    def learn(name: str, base: str | None) -> str:
        home = steps.plan_episode(root, landed_workspace.episodes_dir, base, name, settings)
        for step in METHOD:
            step.fn(root, home)
        return home

    base = str(EpisodeFolder(Path(learn("alpha", None))).state_dir)
    calls = Counter[str]()
    count_calls(monkeypatch, calls, load_state)
    count_calls(monkeypatch, calls, _build)
    home = learn("beta", base)
    assert calls == {"load_state": 1, "_build": 1}
    calls.clear()
    steps.find_older.fn(root, base, "alpha", settings)  # whose branch the new one could start from
    steps.grow.fn(root, steps.plan_episode(root, tmp_path, base, "beta", settings, "alpha"))
    assert calls == {"load_state": 1, "_build": 2}, "of the base; its form is compared with a second network"
    calls.clear()
    for step in METHOD:
        steps._open.clear()  # as if each ran in a process of its own, after a kill
        step.fn(root, home)
    assert calls == {"load_state": 2}, "of the base and of the episode's state, for the atlas: all else is done"


@pytest.mark.usefixtures("outside_a_flow")
def test_a_generator_grows_by_the_same_steps_and_its_new_version_starts_from_its_branch(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "find_older", steps.find_older.fn)
    params = tiny_params(tmp_path).model_copy(update={"robustness": RobustnessParams(per_class=1)})
    settings, root = params.model_dump(mode="json"), str(landed_workspace.root)
    land(landed_workspace, write_task(tmp_path / "more", seed=3), "alpha", options=LandingOptions(extend=True))
    land(
        landed_workspace, write_task(tmp_path / "next", seed=4), "gamma", options=LandingOptions(new_version_of="beta")
    )
    folders: list[EpisodeFolder] = []
    for name in ("alpha", "beta", "alpha-2", "gamma"):
        base = str(folders[-1].state_dir) if folders else None
        start = steps.choose_start(root, base, name, settings)
        home = steps.plan_episode(root, landed_workspace.episodes_dir, base, name, settings, start)
        folders.append(EpisodeFolder(Path(home)))
        for step in METHOD:
            step.fn(root, home)
    extended, last = (load_state(folder.state_dir) for folder in folders[2:])
    assert [branch.task for branch in extended.branches] == ["beta", "alpha"]
    assert [(branch.task, branch.start) for branch in last.branches][-1] == ("gamma", "beta")
    assert last.extensions == {"alpha-2": "alpha"}

    assessed = Assessment.read(folders[2].assessment_path)
    assert assessed.foreseen is None
    clean = {row.task: row.images for row in assessed.card if row.perturbation == "clean"}
    assert [*clean.values()] == [2, 2, 2, 6]
    candidate = open_candidate(folders[2].state_dir, Report.read(folders[2].report_path), assessed, None)
    card = model_card("lorax", candidate)
    assert "| alpha-2, more of alpha | `" in card
    assert "The last episode fitted alpha's branch on, to more of its images." in card
    assert candidate.metrics.keys() > {"accuracy/alpha", "accuracy/alpha-2"}
    assert [v.task for v in candidate.judged(GateParams(), {}) if v.kind == "drop"] == ["alpha", "beta"] * 2


@pytest.mark.usefixtures("outside_a_flow")
def test_a_new_version_of_what_is_not_known_starts_fresh_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = tiny_params(tmp_path)
    [first] = learn_stream(tmp_path, params, ["alpha"])
    told = (str(tmp_path), str(first.state_dir))
    assert steps.find_older.fn(*told, "alpha", params.model_dump(mode="json")) == "alpha"
    assert steps.find_older.fn(*told, "beta", params.model_dump(mode="json")) is None
    assert "the branch starts fresh: the champion does not know beta" in caplog.text


@pytest.mark.usefixtures("outside_a_flow")
def test_an_episode_in_hand_is_used_again_but_not_after_an_error(landed_workspace: Workspace, tmp_path: Path) -> None:
    settings, root = tiny_params(tmp_path).model_dump(mode="json"), str(landed_workspace.root)
    home = steps.plan_episode(root, landed_workspace.episodes_dir, None, "alpha", settings)
    with steps._opened(root, home) as first:
        first.grow()
    with pytest.raises(ZeroDivisionError), steps._opened(root, home) as second:
        assert second is first
        raise ZeroDivisionError
    with steps._opened(root, home) as third:
        assert third is not first, "it is opened from what lies on disk, whatever the error left in memory"


@pytest.mark.slow
def test_what_followed_a_withdrawn_task_starts_as_if_that_had_never_landed(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace = landed_workspace
    land(workspace, write_task(tmp_path / "in", seed=3), "gamma", options=LandingOptions(new_version_of="alpha"))
    revision = withdrawal.prepared(workspace, "alpha", "why")
    assert withdrawal.followers(workspace, "alpha") == ["gamma"], "still, until it is carried out"
    settings, commit = Params().model_dump(mode="json"), revision.commit or ""
    assert steps.choose_start(str(workspace.root), "no state is looked at", "gamma", settings, commit) is None
    withdrawal.carry_out(workspace, "alpha")
    assert pins.committed(workspace).notes_of("gamma").new_version_of == ""
