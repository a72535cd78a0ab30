"""What frozen branches said of images is kept, found again, and the same number whichever way it came."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lorax.network.backbone import Backbone
from lorax.network.building import open_backbone, reopen_backbone
from lorax.network.features import CENTER, FeatureCache, Views, views_of
from lorax.network.network import Network
from lorax.network.process_group import ProcessGroup
from lorax.params import BackboneParams, LoraParams
from tests.network.conftest import learned_branch

LORA = LoraParams(rank=2, alpha=2, targets=(r"blocks\.\d+\.attn\.(qk|v)",))
COUNT, BATCH = 11, 4


class Shown:
    """Images by view, which remembers what it was asked for."""

    def __init__(self, count: int = COUNT) -> None:
        self.images = torch.randint(
            0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        self.views = views_of([hashlib.md5(bytes([n])).hexdigest() for n in range(count)], np.full((count, 2), CENTER))
        self.asked: list[int] = []

    def read(self, rows: np.ndarray) -> torch.Tensor:
        assert len(rows) <= BATCH
        self.asked += rows.tolist()
        return self.images[rows]


@pytest.fixture
def network(backbone: Backbone) -> Network:
    network = Network.empty(backbone)
    for number in range(3):
        learned_branch(backbone, LORA, number)
    return network


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


@pytest.fixture
def shown() -> Shown:
    return Shown()


def _kept(cache: FeatureCache, network: Network, branches: range, views: Views) -> torch.Tensor:
    return torch.cat([kept.take() for kept in cache.lookup(network, branches, views, BATCH)], dim=1)


def test_kept_features_are_the_networks_to_1e_5(cache: FeatureCache, network: Network, shown: Shown) -> None:
    cache.fill(network, range(3), shown.views, shown.read, BATCH)
    found = _kept(cache, network, range(3), shown.views)
    assert torch.allclose(found, network.features(shown.images), atol=1e-5, rtol=1e-5)


def test_images_are_read_once_for_all_branches_and_never_again(
    cache: FeatureCache, network: Network, shown: Shown
) -> None:
    cache.fill(network, range(2), shown.views[:8], shown.read, BATCH)
    assert shown.asked == list(range(8))
    cache.fill(network, range(2), shown.views[:8], shown.read, BATCH)
    assert shown.asked == list(range(8))
    shown.asked.clear()
    told: list[tuple[int, int]] = []
    cache.fill(network, range(3), shown.views, shown.read, BATCH, on_cached=lambda *done: told.append(done))
    assert sorted(shown.asked) == list(range(11))  # the third branch knows none, the others lack three
    assert told[-1] == (8 + 3 * 3, 8 + 3 * 3)


def test_another_process_finds_them(cache: FeatureCache, network: Network, shown: Shown) -> None:
    cache.fill(network, range(3), shown.views, shown.read, BATCH)
    again = Network.empty(reopen_backbone(network.backbone.identity))
    for number in range(3):
        branch = network.backbone.branch(number)
        again.backbone.load_branch(branch.config, branch.weights)
    shown.asked.clear()
    FeatureCache(cache.root).fill(again, range(3), shown.views, shown.read, BATCH)
    assert not shown.asked


def test_a_feature_is_the_same_number_whatever_set_it_is_computed_in(
    cache: FeatureCache, network: Network, shown: Shown, tmp_path: Path
) -> None:
    cache.fill(network, range(3), shown.views, shown.read, BATCH)
    together = _kept(cache, network, range(3), shown.views)
    for n in (0, 7, 10):
        other, one = FeatureCache(tmp_path / f"other{n}"), shown.views[[n]]
        other.fill(network, range(1, 2), one, lambda rows, n=n: shown.read(rows + n), BATCH)
        width = network.backbone.width
        assert torch.equal(_kept(other, network, range(1, 2), one)[0], together[n, width : 2 * width])


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_a_feature_does_not_depend_on_its_place_in_the_batch(tmp_path: Path, mixed_precision: bool) -> None:
    """With several threads in one matrix product it would: the shipped backbone, two threads, another order."""
    network = Network.empty(open_backbone(BackboneParams()), mixed_precision=mixed_precision)
    learned_branch(network.backbone, LORA, 0)
    images = torch.randint(0, 256, (64, 3, 64, 64), dtype=torch.uint8)
    views = views_of([hashlib.md5(bytes([n])).hexdigest() for n in range(64)], np.full((64, 2), CENTER))
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for order in (np.arange(64), np.random.default_rng(0).permutation(64)):
            cache = FeatureCache(tmp_path / str(len(found)))
            cache.fill(network, range(1), views[order], lambda rows, order=order: images[order[rows]], 32)
            found.append(cache.lookup(network, range(1), views, 32)[0].take())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_other_views_batches_and_branches_are_other_features(
    cache: FeatureCache, network: Network, shown: Shown
) -> None:
    cache.fill(network, range(1), shown.views[:4], shown.read, BATCH)
    cache.fill(network, range(1, 2), shown.views[:4], shown.read, BATCH)
    md5s = [hashlib.md5(bytes([n])).hexdigest() for n in range(4)]
    corners = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    cache.fill(network, range(1), views_of(md5s, corners), shown.read, BATCH)
    network.mixed_precision = True
    cache.fill(network, range(1), shown.views[:4], shown.read, BATCH)
    assert shown.asked == [0, 1, 2, 3] * 4


def test_a_damaged_or_half_written_feature_is_computed_again(
    cache: FeatureCache, network: Network, shown: Shown
) -> None:
    cache.fill(network, range(1), shown.views, shown.read, BATCH)
    before = _kept(cache, network, range(1), shown.views)
    [path] = cache.root.glob("*.features")
    whole = path.read_bytes()
    size = len(whole) // COUNT
    changed = bytearray(whole)
    changed[3 * size - 2] ^= 1  # in the last number of the third record
    changed[5 * size + 24 : 6 * size] = bytes(size - 24)  # the sixth lost all but its name
    words = changed[8 * size - 8 : 8 * size]
    changed[8 * size - 8 : 8 * size] = words[4:] + words[:4]  # the eighth's last two numbers changed places
    path.write_bytes(changed[:-5])
    shown.asked.clear()
    cache.fill(network, range(1), shown.views, shown.read, BATCH)
    assert shown.asked == [2, 5, 7, 10]
    assert torch.equal(_kept(cache, network, range(1), shown.views), before)
    shown.asked.clear()
    cache.fill(network, range(1), shown.views, shown.read, BATCH)
    assert not shown.asked


def test_what_was_not_asked_for_the_longest_goes_first(cache: FeatureCache, network: Network, shown: Shown) -> None:
    cache.fill(network, range(2), shown.views, shown.read, BATCH)
    total = cache.evict(2**40)
    row = total // (2 * COUNT)
    wanted = shown.views[[1, 5, 9]]
    kept = cache.lookup(network, range(1, 2), wanted, BATCH)
    before = [part.take() for part in kept]
    assert cache.evict(4 * row) == 4 * row
    assert torch.equal(kept[0].take(), before[0])  # who reads goes on reading
    shown.asked.clear()
    cache.fill(network, range(1, 2), wanted, shown.read, BATCH)
    assert not shown.asked
    left_behind = cache.root / f".{next(cache.root.glob('*.features')).name}-killed"
    left_behind.write_bytes(b"half of a file")
    assert cache.evict(0) == 0
    assert not list(cache.root.glob("*features*"))


def test_a_process_group_shares_the_batches(cache: FeatureCache, network: Network) -> None:
    asked = []
    for rank in range(2):
        group, shown = ProcessGroup(), Shown()
        group.rank, group.size = rank, 2
        alone = FeatureCache(cache.root / str(rank))  # as if both were at work at the same time
        alone.fill(network, range(2), shown.views, shown.read, BATCH, group=group)
        asked.append(set(shown.asked))
    assert not asked[0] & asked[1]
    assert asked[0] | asked[1] == set(range(COUNT))
