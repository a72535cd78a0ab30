"""Steps as functions, outside of a flow."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from flows import steps
from flows.attribution import versions
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
