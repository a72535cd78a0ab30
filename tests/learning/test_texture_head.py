"""Which head is asked is told by the texture; branches say nothing of what was perturbed."""

from __future__ import annotations

import pytest
import torch

from lorax.learning.texture_head import Statistics, kind_scores
from lorax.network.network import TextureHead

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
