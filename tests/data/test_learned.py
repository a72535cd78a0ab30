from __future__ import annotations

from pathlib import Path

import pytest

from lorax.data import versions
from lorax.data.admission import LandingOptions
from lorax.data.landing import land
from lorax.data.learned import read_learned
from lorax.workspace import Workspace
from tests.conftest import WriteTask

pytestmark = pytest.mark.slow


def test_a_known_task_that_was_replaced_is_still_tested_with_the_images_that_it_was_learned_with(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace, known = landed_workspace, versions.landed(landed_workspace)[0]
    then = versions.read_task(workspace, "alpha")
    assert read_learned(workspace, known) == then
    land(workspace, write_task(tmp_path / "in", seed=3), "alpha", options=LandingOptions(replace=True))
    now = versions.read_task(workspace, "alpha")
    assert now.digest != known.digest
    assert read_learned(workspace, known) == then

    md5 = then.test[0].md5
    next((workspace.root / ".dvc" / "cache").rglob(f"{md5[:2]}/{md5[2:]}")).unlink()
    assert read_learned(workspace, known) == now, "its images are nowhere to be had any more"
