"""The schedule, and training that goes on where it was interrupted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lorax.data.images import Images
from lorax.errors import StateError
from lorax.learning.batches import TrainingSet
from lorax.learning.training import EpochRow, Fit, learning_rate
from lorax.network.building import open_backbone
from lorax.network.features import FeatureCache
from lorax.network.network import Network
from lorax.params import Params, TrainingParams

PAPER = TrainingParams(epochs=50, warmup_epochs=5, warmup_rate=1e-4, minimum_rate=1e-5)


def test_the_published_warm_up_falls_and_the_first_tasks_cosine_rises() -> None:
    peak = 1e-4 * 32 / 512
    rates = [learning_rate(epoch, peak, PAPER) for epoch in range(50)]
    assert rates[0] == rates[1] == 1e-4
    assert rates[2] == pytest.approx(1e-4 + (peak - 1e-4) / 5)
    assert rates[6] == pytest.approx(peak, rel=0.05)
    assert all(a > b for a, b in pairwise(rates[1:7]))
    assert all(a < b for a, b in pairwise(rates[6:]))
    assert rates[49] == pytest.approx(1e-5, rel=0.01)


def test_in_later_tasks_the_cosine_falls_to_its_floor() -> None:
    rates = [learning_rate(epoch, 5e-4 * 32 / 512, PAPER) for epoch in range(50)]
    assert all(a > b for a, b in pairwise(rates[6:]))
    assert rates[49] == pytest.approx(1e-5, rel=0.02)


def plain_views(count: int, views: int) -> np.ndarray:
    return np.repeat(np.arange(count)[:, None], views, axis=1)


def _fit(stream, params: Params, folder: Path) -> tuple[Fit, TrainingSet]:
    network = Network.empty(open_backbone(params.backbone))
    network.grow(params.lora, 2, branch_seed=0, head_seed=0)
    samples = stream.tasks[0].train
    images = Images.load(samples, stream.fetch(samples), network.crop)
    labels = torch.tensor([s.class_index for s in samples])
    data = TrainingSet.build(network, images, labels, plain_views(30, 2), params.run, FeatureCache(folder / "features"))
    return Fit(network, range(2), params.training, params.run, 0), data


def _result(fit: Fit) -> list[torch.Tensor]:
    return [p.detach().clone() for p in fit.parameters if p.numel()]  # the first task has no diversity head


def test_training_resumed_after_any_epoch_ends_in_the_same_bits(stream, params: Params, tmp_path: Path) -> None:
    whole, data = _fit(stream, params, tmp_path)
    whole.run_epochs(data, tmp_path / "whole.safetensors")

    class KilledError(Exception):
        pass

    def kill(row: EpochRow, epochs: int) -> None:
        raise KilledError

    first, data = _fit(stream, params, tmp_path)
    with pytest.raises(KilledError):
        first.run_epochs(data, tmp_path / "cut.safetensors", kill)
    second, data = _fit(stream, params, tmp_path)
    seen: list[int] = []
    rows = second.run_epochs(data, tmp_path / "cut.safetensors", lambda row, epochs: seen.append(row.epoch))
    assert seen == [1]
    assert [row.epoch for row in rows] == [0, 1]
    assert all(torch.equal(a, b) for a, b in zip(_result(whole), _result(second), strict=True))


def test_training_moves_the_newest_branch(stream, params: Params, tmp_path: Path) -> None:
    fit, data = _fit(stream, params, tmp_path)
    before = _result(fit)
    rows = fit.run_epochs(data, tmp_path / "checkpoint.safetensors")
    assert all(not torch.equal(a, b) for a, b in zip(before, _result(fit), strict=True))
    assert all(row.images_per_s > 0 and 0 <= row.train_accuracy <= 1 for row in rows)


def test_one_thread_and_several_learn_the_same(stream, params: Params, tmp_path: Path) -> None:
    training = params.training.model_copy(update={"batch_size": 30, "epochs": 1})  # four parts, the last one smaller
    results, threads = [], torch.get_num_threads()
    for number in (1, 3):
        torch.set_num_threads(number)
        fit, data = _fit(stream, params.model_copy(update={"training": training}), tmp_path)
        fit.run_epochs(data, tmp_path / f"{number}.safetensors")
        assert torch.get_num_threads() == number
        results.append(_result(fit))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_checkpoint_of_another_fit_is_refused(stream, params: Params, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    fit, data = _fit(stream, params, tmp_path)
    with pytest.raises(StateError, match="can't be resumed"):
        fit.run_epochs(data, tmp_path / "checkpoint.safetensors")


def test_equal_views_are_computed_once(stream, params: Params, tmp_path: Path) -> None:
    fit, data = _fit(stream, params, tmp_path)
    assert data.lookup.shape == (30, 2)
    one = Images.load(data.images.samples[:1], stream.fetch(data.images.samples[:1]), 16)  # 20 x 18 pixels: 15 crops
    cache = FeatureCache(tmp_path / "features")
    assert (
        len(TrainingSet.build(fit.network, one, torch.tensor([0]), plain_views(1, 200), params.run, cache).crops) == 15
    )


def test_an_incomplete_last_batch_can_be_left_out(stream, params: Params, tmp_path: Path) -> None:
    fit, _ = _fit(stream, params, tmp_path)
    fit.training = fit.training.model_copy(update={"drop_last": True})
    assert [len(b) for b in fit._order(20)] == [8, 8]
    assert [len(b) for b in fit._order(5)] == [5]  # nothing would be left
