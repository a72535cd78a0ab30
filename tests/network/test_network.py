"""The growing network."""

from __future__ import annotations

import torch

from lorax.network.backbone import Backbone
from lorax.network.features import compute_features
from lorax.network.network import Network
from lorax.params import LoraParams

LORA = LoraParams(rank=2, alpha=2, targets=(r"blocks\.\d+\.attn\.(qk|v)",))


def _grown(backbone: Backbone, tasks: int) -> Network:
    network = Network.empty(backbone)
    for task in range(tasks):
        network.grow(LORA, 2, branch_seed=0, head_seed=task)
        for parameter in backbone.branch_parameters(task):
            parameter.data += 0.05 * (task + 1)
    return network


def test_growing_keeps_the_old_block_bit_for_bit(backbone: Backbone) -> None:
    network = _grown(backbone, 2)
    with torch.no_grad():
        network.head.bias += 1
    weight, bias = network.head.weight.clone(), network.head.bias.clone()
    network.grow(LORA, 3, branch_seed=0, head_seed=9)
    width = backbone.width
    assert network.head.weight.shape == (7, 3 * width)
    assert torch.equal(network.head.weight[:4, : 2 * width], weight)
    assert torch.equal(network.head.bias[:4], bias)
    assert torch.count_nonzero(network.head.bias[4:]) == 0
    assert torch.count_nonzero(network.head.weight[:, 2 * width :]) == 7 * width


def test_a_feature_is_the_same_number_whatever_set_it_is_computed_in(backbone: Backbone) -> None:
    network = _grown(backbone, 2)
    images = torch.randint(0, 256, (11, 3, 16, 16), dtype=torch.uint8)
    together = compute_features(network, lambda rows: images[rows], 11, batch_size=4)
    assert together.shape == (11, 2 * backbone.width)
    for n in (0, 7, 10):
        alone = compute_features(network, lambda rows, n=n: images[n][None].expand(len(rows), -1, -1, -1), 1, 4)
        assert torch.equal(alone[0], together[n])


def test_features_of_no_branch_are_zero_wide(backbone: Backbone) -> None:
    network = _grown(backbone, 1)
    images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    assert compute_features(network, lambda rows: images[rows], 3, 2, range(0)).shape == (3, 0)


def test_probabilities_sum_to_one(backbone: Backbone, images: torch.Tensor) -> None:
    probabilities = _grown(backbone, 2).predict(images)
    assert probabilities.shape == (5, 4)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(5))
