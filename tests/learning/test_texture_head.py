"""Sums over textures, the head that is solved from them, and which of its parts is asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from lorax.learning.texture_head import Statistics, kind_scores
from lorax.network.network import TextureHead
from lorax.stream import ClassTable, TaskClass

WIDTH, COUNT, PENALTY = 5, 60, 5.0


@pytest.fixture
def kinds() -> dict[str, torch.Tensor]:
    """Textures of clean images and of such as were saved as JPEG; a tenth of the clean ones were before, too."""
    random = torch.Generator().manual_seed(0)
    clean, jpeg = (torch.randn(COUNT, WIDTH, generator=random) for _ in range(2))
    clean[: COUNT // 10, 0] += 4
    jpeg[:, 0] += 8
    return {"clean": clean, "jpeg": jpeg}


def statistics(kinds: dict[str, torch.Tensor]) -> dict[str, Statistics]:
    ids = torch.arange(COUNT) % 2
    return {kind: Statistics.empty(WIDTH).with_images(textures, ids, 2) for kind, textures in kinds.items()}


def test_pooled_sums_are_those_of_all_images_with_the_kinds_as_classes(kinds: dict[str, torch.Tensor]) -> None:
    pooled = Statistics.pooled(list(statistics(kinds).values()))
    ids = torch.arange(2).repeat_interleave(COUNT)
    once = Statistics.empty(WIDTH).with_images(torch.cat(list(kinds.values())), ids, 2)
    for one, other in zip(vars(pooled).values(), vars(once).values(), strict=True):
        torch.testing.assert_close(one, other)


def test_an_image_is_clean_until_held_out_ones_say_that_it_is_surely_not(kinds: dict[str, torch.Tensor]) -> None:
    told = {}
    for name, held in (("evenly", None), ("by held-out images", kinds)):
        weight, bias = kind_scores(statistics(kinds), PENALTY, held)
        told[name] = [int((textures @ weight.T + bias).argmax(1).sum()) for textures in kinds.values()]
    assert told["evenly"][0] > 0, "photographs that were compressed once are taken for compressed ones"
    clean, jpeg = told["by held-out images"]
    assert clean == 0 and jpeg >= 0.95 * COUNT


def test_the_kind_decides_which_regression_is_asked() -> None:
    weight = torch.tensor([[[1.0, 0], [0, 1]], [[0.0, 2], [2, 0]]])
    head = TextureHead(weight, torch.zeros(2, 2), torch.tensor([[1.0, 0], [0, 1]]), torch.zeros(2))
    logits, kinds = head.answer(torch.tensor([[3.0, 1], [1, 3]]))
    assert logits.tolist() == [[3, 1], [6, 2]] and kinds.tolist() == [0, 1]


WIDTH, COUNT, PENALTY = 6, 40, 5.0


def classes(tasks: int) -> ClassTable:
    table = ClassTable()
    for k in range(tasks):
        table = table.with_task(f"t{k}", (TaskClass(0, "real"), TaskClass(1, f"t{k}")))
    return table


@pytest.fixture
def tasks() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Textures and class ids of three tasks; classes lie apart, and numbers have scales of their own."""
    random = torch.Generator().manual_seed(0)
    found = []
    for k in range(3):
        ids = torch.arange(COUNT) % 2 + 2 * k
        places = torch.randn(2, WIDTH, generator=random)[ids % 2]
        found.append(((torch.randn(COUNT, WIDTH, generator=random) + places) * 10.0 ** torch.arange(-2, 4) + 50, ids))
    return found


def kept(tasks: list[tuple[torch.Tensor, torch.Tensor]]) -> Statistics:
    statistics = Statistics.empty(WIDTH)
    for textures, ids in tasks:
        statistics = Statistics.parse(statistics.with_images(textures, ids, 6).tensors())
    return statistics


def test_task_by_task_it_is_the_ridge_regression_of_all_images_with_one_real_answer(
    tasks: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    weight, bias = kept(tasks).solve(PENALTY, classes(3).multi_real())
    textures, ids = (torch.cat(part).numpy() for part in zip(*tasks, strict=True))
    spread = textures.std(0) + 1e-3
    targets = np.stack([ids % 2 == 0, *(ids == 2 * k + 1 for k in range(3))], 1).astype(float)
    peer = Ridge(alpha=PENALTY).fit(textures / spread, targets)
    said = textures @ weight.double().numpy().T + bias.double().numpy()
    np.testing.assert_allclose(said[:, [0, 1, 3, 5]], peer.predict(textures / spread), atol=2e-3)
    assert np.array_equal(said[:, 0], said[:, 2]) and np.array_equal(said[:, 0], said[:, 4])


def test_the_order_of_tasks_does_not_count(tasks: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    forth, back = (kept(order).solve(PENALTY, classes(3).multi_real())[0] for order in (tasks, tasks[::-1]))
    torch.testing.assert_close(forth, back, rtol=1e-3, atol=1e-5)


def test_of_no_image_all_scores_are_none() -> None:
    empty = Statistics.empty(WIDTH).with_images(torch.zeros(0, WIDTH), torch.zeros(0, dtype=torch.long), 4)
    assert all(torch.equal(part, torch.zeros_like(part)) for part in empty.solve(PENALTY, classes(2).multi_real()))


def test_parts_that_do_not_belong_together_are_refused(tasks: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    tensors = kept(tasks).tensors()
    with pytest.raises(ValueError, match="belong together"):
        Statistics.parse(tensors | {"scatter": tensors["scatter"][:-1]})


def test_what_is_taken_out_leaves_what_the_others_alone_give_and_no_negative_variance(
    tasks: list[tuple[torch.Tensor, torch.Tensor]],
) -> None:
    still = [(textures.index_fill(1, torch.tensor([5]), 0.1), ids) for textures, ids in tasks]
    still[1] = tasks[1]  # alone varies in the last number, by a million
    others = [(still[0][0], still[0][1]), (still[2][0], still[2][1] - 2)]
    left, alone = kept(still).without(still[1][0], [0, 1, 4, 5]), Statistics.empty(WIDTH)
    for textures, ids in others:
        alone = alone.with_images(textures, ids, 4)
    assert torch.equal(left.counts, alone.counts)
    torch.testing.assert_close(left.means, alone.means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(left.scatter[:5, :5], alone.scatter[:5, :5], rtol=1e-3, atol=1e-2)
    assert left.scatter.diagonal().min() >= 0
    assert all(part.isfinite().all() for part in left.solve(PENALTY, [0, 1, 0, 2]))
