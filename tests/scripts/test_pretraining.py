"""The pretraining of the residual backbone, on three drawn photographs: two pipelines, two steps."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from lorax.network.building import open_backbone
from lorax.network.residual import NAME, ResidualBackbone
from lorax.params import BackboneParams
from scripts.pretraining import bank, network
from scripts.pretraining.examples import Examples
from scripts.pretraining.photographs import Photos
from scripts.pretraining.small_networks import _upwards
from scripts.pretraining.training import OtherPlanError, Plan, Training
from scripts.real import photographs
from scripts.real.photographs import Photograph
from tests.scripts.test_real import REPOSITORY, picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs as `make real` leaves them; the one for val is not even there."""
    home = tmp_path_factory.mktemp("real")
    (home / "masters").mkdir()
    splits = {"a": "train", "b": "train", "c": "val"}
    table = [Photograph(name, name, "package", 1.0, split) for name, split in splits.items()]
    photographs.write_table(home / "masters" / "photographs.csv", table)
    for seed, name in enumerate("ab"):
        picture(seed).save(home / "masters" / f"{name}.png")
    return home


@pytest.fixture(scope="module")
def examples(root: Path) -> Examples:
    told: list[tuple[int, int]] = []
    (root / "bank").mkdir()
    np.save(root / "bank" / "00000.npy", np.zeros((1, bank.PATCHES, 3, bank.SIDE, bank.SIDE), np.uint8))  # of a try
    bank.make(root, root / "bank", 2, 1, lambda *done: told.append(done))
    assert told == [(1, 1)]
    bank.make(root, root / "bank", 2, 1, lambda *done: told.append(done))
    assert len(told) == 1  # nothing is lacking
    whole = np.load(root / "bank" / "00000.npy")
    assert len(whole) == 2 and whole.any(axis=(2, 3, 4)).all()
    return Examples(bank.Bank(root / "bank", 2), Photos(root), batch=8, seed=0)


def test_a_batch_depends_on_its_step_alone_and_has_untouched_patches(examples: Examples) -> None:
    images, labels = examples.drawn(7, 64)
    again = Examples(examples.bank, examples.photos, examples.batch, examples.seed).drawn(7, 64)
    assert torch.equal(images, again[0]) and torch.equal(labels, again[1])
    assert images.shape == (8, 3, 64, 64) and images.dtype == torch.uint8
    assert (labels[:2] == 0).all() and ((labels[2:] == 1) | (labels[2:] == 2)).all()


def test_stopped_and_resumed_it_learns_the_same_and_leaves_what_users_open(examples: Examples, tmp_path: Path) -> None:
    said: dict[str, torch.Tensor] = {}
    for name, saves in (("whole", [2]), ("stopped", [1, 2])):
        for until in saves:
            plan = Plan(small_steps=1, whole_steps=1, save_every=1)
            files = tmp_path / f"{name}.checkpoint", tmp_path / f"{name}.safetensors"
            training = Training(examples, plan, *files)
            assert training.step == (1 if name == "stopped" and until == 2 else 0)
            if until == 1:
                with pytest.raises(KeyboardInterrupt):
                    training.run(_stop_at_once)
            else:
                training.run(lambda _, losses, name=name: said.update({name: losses}))
    assert torch.equal(said["whole"], said["stopped"])
    path = tmp_path / "stopped.safetensors"
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert path.stat().st_size < 10**6
    with pytest.raises(OtherPlanError, match=r'"small_steps": 1, .*asked is .*"small_steps": 9, .*another --root'):
        Training(examples, Plan(small_steps=9, whole_steps=1), *files)
    params = BackboneParams(name=NAME, weights=str(path), arguments=dict(network.ARGUMENTS), crop=96)
    images = examples.drawn(0, 96)[0]
    mean_std = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    opened = open_backbone(params.model_copy(update=mean_std)).plain_feature(images)
    with torch.no_grad():
        trained = training.backbone.eval()(images / 255)
    torch.testing.assert_close(opened, trained, atol=0.01, rtol=0.01)  # float16


def test_what_other_threads_do_meanwhile_changes_no_bit_of_a_gradient(examples: Examples, tmp_path: Path) -> None:
    found = []
    for meanwhile in (False, True):
        training = Training(
            examples, Plan(small_steps=1, whole_steps=1), tmp_path / "none", tmp_path / "no.safetensors"
        )
        if meanwhile:  # as the thread that draws the next batch does, at any moment
            training.backbone.spectrum_token.register_forward_hook(_autocast_elsewhere)
        training._learn(*training._drawn(0, 64))
        found.append([parameter.grad for parameter in training.parameters])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def _autocast_elsewhere(*_: object) -> None:
    def enter_and_leave() -> None:
        with torch.autocast("cpu", enabled=False):
            pass

    thread = threading.Thread(target=enter_and_leave)
    thread.start()
    thread.join()


def _stop_at_once(_: int, __: torch.Tensor) -> None:
    raise KeyboardInterrupt


def test_batch_norm_is_folded_away() -> None:
    torch.manual_seed(0)
    model = network.trainable()
    for conv in model.convs:
        norm = conv.norm
        for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            values.uniform_(0.5, 2)
    plain = ResidualBackbone(**network.ARGUMENTS)
    plain.load_state_dict(network.folded(model.state_dict()))
    pixels = torch.rand(2, 3, 40, 40)
    with torch.no_grad():
        for one, other in zip(plain.embed(pixels), model.eval().embed(pixels), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)  # tokens are float16


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_every_way_upwards_enlarges_by_its_factor(factor: int) -> None:
    for seed in range(12):
        made = _upwards(np.random.default_rng(seed), 8, factor)(torch.zeros(1, 8, 5, 5))
        assert made.shape == (1, 3, 5 * factor, 5 * factor)


def test_without_photographs_it_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.pretraining", "--root", tmp_path / "out", "--photographs", tmp_path]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert "Run `make real` first" in found.stderr and len(found.stderr.strip().splitlines()) == 1
