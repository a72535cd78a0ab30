"""What a task left in work/ goes with it, whatever way it came there."""

from __future__ import annotations

import pytest

from lorax.data.forgetting import Images
from lorax.forgetting import Traces, forget
from lorax.learning.cutting import cut_out
from lorax.params import Params
from lorax.registry import Registry
from lorax.stream import DataRevision
from lorax.workspace import Workspace
from tests.registry.conftest import params as params
from tests.registry.conftest import registry as registry
from tests.registry.conftest import stream as stream
from tests.registry.conftest import stream_dir as stream_dir
from tests.tiny_learner import Learned

pytestmark = pytest.mark.slow


def test_the_lists_of_exemplars_of_another_task_s_fast_withdrawal_and_of_a_sweep_go(
    landed_workspace: Workspace, registry: Registry, stream: list[Learned], params: Params
) -> None:
    workspace, tasks = landed_workspace, {learned.task.name: learned.task for learned in stream}
    files = {md5: path for learned in stream for md5, path in learned.files.items()}
    reads = (tasks.__getitem__, lambda samples: {sample.md5: files[sample.md5] for sample in samples})
    revision = DataRevision("1" * 32, "c0ffee")
    for folder in (workspace.episodes_dir, workspace.work_dir / "sweeps" / "one" / "episodes"):
        cut_out(folder, stream[-1].state_dir, "beta", *reads, params, revision)
    images = Images(frozenset(stream[0].files), frozenset(), (), frozenset({"alpha"}))
    places = forget(workspace, registry, Traces("alpha", images, ()), by="somebody", told=lambda _: None)
    assert {place.name: place.found for place in places}["lists below work/"] == ()
