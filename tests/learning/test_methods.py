"""What LoRAX is compared with, on three tiny tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

from lorax.data.images import Images
from lorax.learning.methods import linear
from lorax.network.building import open_backbone
from lorax.params import HeadParams, Params
from tests.learning.conftest import Stream


@pytest.mark.parametrize("solver", ["gradient", "ridge"])
def test_it_gives_an_accuracy_matrix_and_the_same_one_again(
    stream: Stream, params: Params, solver: Literal["gradient", "ridge"], tmp_path: Path
) -> None:
    params = params.model_copy(update={"head": HeadParams(solver=solver)})
    rows = linear.learn(stream.tasks, stream.fetch, params, tmp_path)
    assert [len(row) for row in rows] == [1, 2, 3]
    assert all(0 <= value <= 1 for row in rows for value in row)
    assert rows == linear.learn(stream.tasks, stream.fetch, params, tmp_path)


def test_a_solved_head_is_the_one_that_all_images_at_once_would_give(
    stream: Stream, params: Params, tmp_path: Path
) -> None:
    params = params.model_copy(update={"head": HeadParams(solver="ridge", penalty=1e-6)})
    [*_, row] = linear.learn(stream.tasks, stream.fetch, params, tmp_path)
    backbone, inputs, answers = open_backbone(params.backbone), {}, {}
    for split in ("train", "test"):
        samples = [sample for task in stream.tasks for sample in getattr(task, split)]
        images = Images.load(samples, stream.fetch(samples), backbone.identity.crop, center_only=True)
        inputs[split] = backbone.texture(images.batch(list(range(len(samples))), images.center()[:, 0])).double()
        answers[split] = torch.tensor(
            [task if sample.class_index else -1 for task, t in enumerate(stream.tasks) for sample in getattr(t, split)]
        )
    wanted = torch.stack([answers["train"] == answer for answer in (-1, 0, 1, 2)], dim=1).double()
    with_bias = {split: torch.nn.functional.pad(said, (0, 1), value=1.0) for split, said in inputs.items()}
    weight = torch.linalg.lstsq(with_bias["train"], wanted, driver="gelsd").solution
    said = (with_bias["test"] @ weight).argmax(dim=1) - 1
    right = (said == answers["test"]).double().split([len(task.test) for task in stream.tasks])
    assert row == pytest.approx([float(part.mean()) for part in right], abs=1e-9)
