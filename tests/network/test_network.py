"""The growing network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lorax.network.backbone import Backbone
from lorax.network.network import Network, grown_head
from lorax.params import LoraParams
from tests.network.conftest import learned_branch

LORA = LoraParams(rank=2, alpha=2, targets=(r"blocks\.\d+\.attn\.(qk|v)",))


def _grown(backbone: Backbone, tasks: int) -> Network:
    network = Network.empty(backbone)
    for task in range(tasks):
        network.grow(LORA, 2, branch_seed=0, head_seed=task)
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


def test_the_head_between_a_new_branch_and_its_classes_starts_alike_in_every_episode(backbone: Backbone) -> None:
    network, width = _grown(backbone, 2), backbone.width
    first, second = network.head.weight[:2, :width], network.head.weight[2:, width:]
    assert torch.equal(first, second)
    assert not torch.equal(network.head.weight[2:, :width], first)
    network.grow(LORA, 1, branch_seed=0, head_seed=9, brings_real=False)
    assert torch.equal(network.head.weight[4:, 2 * width :], first[1:]), "without a real class, the synthetic one's row"


def test_a_branch_that_is_moved_last_changes_nothing_that_is_said(backbone: Backbone, images: torch.Tensor) -> None:
    network = Network.empty(backbone)
    for number in range(3):
        learned_branch(backbone, LORA, number)
    network.head = grown_head(network.head, 3 * backbone.width, 4, torch.Generator().manual_seed(0), branch_seed=0)
    before, branches = network.predict(images), [backbone.branch(k) for k in range(3)]
    network.move_last(0)
    assert [backbone.branch(k) for k in range(3)] == [branches[1], branches[2], branches[0]]
    assert torch.allclose(network.predict(images), before, atol=1e-6)


def test_probabilities_sum_to_one(backbone: Backbone, images: torch.Tensor) -> None:
    probabilities = _grown(backbone, 2).predict(images)
    assert probabilities.shape == (5, 4)
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(5))


def test_features_of_no_branch_are_zero_wide(backbone: Backbone, images: torch.Tensor) -> None:
    assert _grown(backbone, 1).features(images, range(0)).shape == (5, 0)


def test_mixed_precision_is_near_and_gives_float32(backbone: Backbone, images: torch.Tensor) -> None:
    network = Network.empty(backbone)
    for number in range(2):
        learned_branch(backbone, LORA, number)
    exact = network.features(images)
    network.mixed_precision = True
    mixed = network.features(images)
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, exact)
    assert torch.allclose(mixed, exact, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_threads_that_share_branches_say_what_one_says(
    backbone: Backbone, images: torch.Tensor, mixed_precision: bool
) -> None:
    network, threads = Network.empty(backbone, mixed_precision=mixed_precision), torch.get_num_threads()
    for number in range(3):
        learned_branch(backbone, LORA, number)
    try:
        torch.set_num_threads(1)
        alone = network.features(images[:1])
        torch.set_num_threads(2)
        shared = network.features(images[:1])
    finally:
        torch.set_num_threads(threads)
    assert torch.allclose(shared, alone, atol=1e-5)
    assert not shared.requires_grad


def test_predictions_side_by_side_are_those_made_one_by_one(backbone: Backbone) -> None:
    """MLflow's server judges requests in several threads; each pass has its own branches and batch."""
    network = Network.empty(backbone)
    for number in range(4):
        learned_branch(backbone, LORA, number)
    pictures = torch.randint(0, 256, (60, 3, 16, 16), dtype=torch.uint8)

    def say(n: int) -> torch.Tensor:
        branches = range(n % 3, 4)
        return network.features(pictures[n : n + 1 + n % 2], branches)

    alone = [say(n) for n in range(59)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(say, list(range(59)) * 4))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(alone * 4, together, strict=True))
