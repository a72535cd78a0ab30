"""Steps as functions, outside of a flow."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows import steps
from lorax.attribution import versions
from lorax.errors import DataVersionError
from lorax.learning.assessment import Assessment
from lorax.learning.episode import learn_episode
from lorax.learning.folder import EpisodeFolder
from lorax.learning.loading import base_state
from lorax.params import Params, RealsParams, RobustnessParams
from lorax.workspace import Workspace
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
    task, folder = versions.read_task(landed_workspace, "alpha"), EpisodeFolder(Path(home))
    fetch = lambda samples: versions.fetch(landed_workspace, samples)  # noqa: E731
    learn_episode(folder, base_state(None, params), task, (), fetch, params)
    monkeypatch.setattr(steps, "get_run_logger", lambda: logging.getLogger("step"))
    caplog.set_level(logging.INFO)
    steps.assess.fn(root, home, None, settings)
    found = Assessment.read(folder.assessment_path).false_positives
    assert (found.clean.perturbation, found.clean.images) == ("clean", 3)
    assert f"false positives {100 * found.clean.share:.1f} %" in caplog.text
    steps.assess.fn(root, home, None, settings)
    assert "already done" in caplog.text
