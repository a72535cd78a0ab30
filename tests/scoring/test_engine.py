"""Ray that can't be had."""

from __future__ import annotations

from typing import Any

import pytest

from lorax.errors import ScoringError
from lorax.scoring.engine import engine


def test_ray_that_does_not_start_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare exception where a node takes longer than it waits, as on a machine that is busy."""

    def slow(*_: Any, **__: Any) -> None:
        raise Exception("The current node timed out during startup.\nIt may be busy.")

    monkeypatch.setattr("lorax.scoring.engine._init", slow)  # Ray itself reads its settings when it is imported
    told = pytest.raises(ScoringError, match=r"could not be started here \(The current node timed out during startup")
    with told, engine(None, wants_gpu=False):
        raise AssertionError("began without Ray")
