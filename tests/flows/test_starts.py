"""What a branch starts from, as far as no state need be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.steps import choose_start
from lorax.data import pins, withdrawal
from lorax.data.admission import LandingOptions
from lorax.data.landing import land
from lorax.params import Params
from lorax.workspace import Workspace
from tests.conftest import WriteTask

pytestmark = pytest.mark.slow


def test_what_followed_a_withdrawn_task_starts_as_if_that_had_never_landed(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace = landed_workspace
    land(workspace, write_task(tmp_path / "in", seed=3), "gamma", options=LandingOptions(new_version_of="alpha"))
    revision = withdrawal.prepared(workspace, "alpha", "why")
    assert withdrawal.followers(workspace, "alpha") == ["gamma"], "still, until it is carried out"
    settings, commit = Params().model_dump(mode="json"), revision.commit or ""
    assert choose_start(str(workspace.root), "no state is looked at", "gamma", settings, commit) is None
    withdrawal.carry_out(workspace, "alpha")
    assert pins.committed(workspace).notes_of("gamma").new_version_of == ""
