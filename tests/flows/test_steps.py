"""Steps as functions, outside of a flow."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows import steps
from flows.attribution import versions
from lorax.errors import DataVersionError
from lorax.params import Params
from lorax.workspace import Workspace
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
