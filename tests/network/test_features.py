"""What frozen branches said of images is kept, found again, and the same number whichever way it came."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lorax.network.backbone import Backbone, open_backbone, reopen_backbone
from lorax.network.features import CENTER, FeatureStore, Views, views_of
from lorax.network.network import Network
from lorax.network.team import Team
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
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


@pytest.fixture
def shown() -> Shown:
    return Shown()


def _kept(store: FeatureStore, network: Network, branches: range, views: Views) -> torch.Tensor:
    return torch.cat([kept.take() for kept in store.kept(network, branches, views, BATCH)], dim=1)


def test_kept_features_are_the_networks_to_1e_5(store: FeatureStore, network: Network, shown: Shown) -> None:
    store.keep(network, range(3), shown.views, shown.read, BATCH)
    found = _kept(store, network, range(3), shown.views)
    assert torch.allclose(found, network.features(shown.images), atol=1e-5, rtol=1e-5)


def test_images_are_read_once_for_all_branches_and_never_again(
    store: FeatureStore, network: Network, shown: Shown
) -> None:
    store.keep(network, range(2), shown.views[:8], shown.read, BATCH)
    assert shown.asked == list(range(8))
    store.keep(network, range(2), shown.views[:8], shown.read, BATCH)
    assert shown.asked == list(range(8))
    shown.asked.clear()
    told: list[tuple[int, int]] = []
    store.keep(network, range(3), shown.views, shown.read, BATCH, on_kept=lambda *done: told.append(done))
    assert sorted(shown.asked) == list(range(11))  # the third branch knows none, the others lack three
    assert told[-1] == (8 + 3 * 3, 8 + 3 * 3)


def test_another_process_finds_them(store: FeatureStore, network: Network, shown: Shown) -> None:
    store.keep(network, range(3), shown.views, shown.read, BATCH)
    again = Network.empty(reopen_backbone(network.backbone.identity))
    for number in range(3):
        branch = network.backbone.branch(number)
        again.backbone.load_branch(branch.config, branch.weights)
    shown.asked.clear()
    FeatureStore(store.root).keep(again, range(3), shown.views, shown.read, BATCH)
    assert not shown.asked


def test_a_feature_is_the_same_number_whatever_set_it_is_computed_in(
    store: FeatureStore, network: Network, shown: Shown, tmp_path: Path
) -> None:
    store.keep(network, range(3), shown.views, shown.read, BATCH)
    together = _kept(store, network, range(3), shown.views)
    for n in (0, 7, 10):
        other, one = FeatureStore(tmp_path / f"other{n}"), shown.views[[n]]
        other.keep(network, range(1, 2), one, lambda rows, n=n: shown.read(rows + n), BATCH)
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
            store = FeatureStore(tmp_path / str(len(found)))
            store.keep(network, range(1), views[order], lambda rows, order=order: images[order[rows]], 32)
            found.append(store.kept(network, range(1), views, 32)[0].take())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


def test_other_views_batches_and_branches_are_other_features(
    store: FeatureStore, network: Network, shown: Shown
) -> None:
    store.keep(network, range(1), shown.views[:4], shown.read, BATCH)
    store.keep(network, range(1, 2), shown.views[:4], shown.read, BATCH)
    md5s = [hashlib.md5(bytes([n])).hexdigest() for n in range(4)]
    corners = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    store.keep(network, range(1), views_of(md5s, corners), shown.read, BATCH)
    network.mixed_precision = True
    store.keep(network, range(1), shown.views[:4], shown.read, BATCH)
    assert shown.asked == [0, 1, 2, 3] * 4


def test_a_damaged_or_half_written_feature_is_computed_again(
    store: FeatureStore, network: Network, shown: Shown
) -> None:
    store.keep(network, range(1), shown.views, shown.read, BATCH)
    before = _kept(store, network, range(1), shown.views)
    [path] = store.root.glob("*.features")
    whole = path.read_bytes()
    size = len(whole) // COUNT
    changed = bytearray(whole)
    changed[3 * size - 2] ^= 1  # in the last number of the third record
    changed[5 * size + 24 : 6 * size] = bytes(size - 24)  # the sixth lost all but its name
    words = changed[8 * size - 8 : 8 * size]
    changed[8 * size - 8 : 8 * size] = words[4:] + words[:4]  # the eighth's last two numbers changed places
    path.write_bytes(changed[:-5])
    shown.asked.clear()
    store.keep(network, range(1), shown.views, shown.read, BATCH)
    assert shown.asked == [2, 5, 7, 10]
    assert torch.equal(_kept(store, network, range(1), shown.views), before)
    shown.asked.clear()
    store.keep(network, range(1), shown.views, shown.read, BATCH)
    assert not shown.asked


def test_what_was_not_asked_for_the_longest_goes_first(store: FeatureStore, network: Network, shown: Shown) -> None:
    store.keep(network, range(2), shown.views, shown.read, BATCH)
    total = store.shrink(2**40)
    row = total // (2 * COUNT)
    wanted = shown.views[[1, 5, 9]]
    kept = store.kept(network, range(1, 2), wanted, BATCH)
    before = [part.take() for part in kept]
    assert store.shrink(4 * row) == 4 * row
    assert torch.equal(kept[0].take(), before[0])  # who reads goes on reading
    shown.asked.clear()
    store.keep(network, range(1, 2), wanted, shown.read, BATCH)
    assert not shown.asked
    left_behind = store.root / f".{next(store.root.glob('*.features')).name}-killed"
    left_behind.write_bytes(b"half of a file")
    assert store.shrink(0) == 0
    assert not list(store.root.glob("*features*"))


def test_a_team_shares_the_batches(store: FeatureStore, network: Network) -> None:
    asked = []
    for rank in range(2):
        team, shown = Team(), Shown()
        team.rank, team.size = rank, 2
        alone = FeatureStore(store.root / str(rank))  # as if both were at work at the same time
        alone.keep(network, range(2), shown.views, shown.read, BATCH, team=team)
        asked.append(set(shown.asked))
    assert not asked[0] & asked[1]
    assert asked[0] | asked[1] == set(range(COUNT))
