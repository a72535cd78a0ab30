"""The residual backbone: any crop, a texture of its own, and a front that is computed once for all branches."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from lorax.errors import BackboneError
from lorax.network import traces
from lorax.network.backbone import Backbone, BackboneIdentity
from lorax.network.branch import LiveBranch
from lorax.network.building import import_timm, open_backbone, reopen_backbone
from lorax.network.features import CENTER, TEXTURE, FeatureCache, views_of
from lorax.network.network import Network
from lorax.network.residual import NAME
from lorax.params import BackboneParams, LoraParams
from tests.network.conftest import learned_branch

SMALL = {"widths": [4, 8, 16], "strides": [1, 2, 2], "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
LORA = LoraParams(rank=2, dropout=0)  # the default targets
COUNT, BATCH = 6, 4


@pytest.fixture
def small() -> Backbone:
    torch.manual_seed(0)
    model = import_timm().create_model(NAME, num_classes=0, **SMALL)
    return Backbone(model, BackboneIdentity(NAME, SMALL, "none", "", 32, (0.0,) * 3, (1.0,) * 3))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (COUNT, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sides", [(32, 32), (33, 47), (96, 96)])
def test_images_of_any_size_give_features_and_textures_of_one_width(small: Backbone, sides: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (2, 3, *sides), dtype=torch.uint8)
    small.add_branch(LORA, seed=0)
    assert small.features(images, range(1)).shape == (2, small.width) == (2, 2 * SMALL["widths"][-1])
    assert small.texture(images).shape == (2, small.texture_width) == (2, 2 * sum(SMALL["widths"]) + traces.WIDTH)


def test_the_texture_is_traces_and_what_every_convolution_says(small: Backbone, images: torch.Tensor) -> None:
    heard: list[torch.Tensor] = []
    for conv in small.model.convs:
        conv.register_forward_hook(lambda _, __, out: heard.append(out.flatten(2)))
    texture = small.texture(images[:4])  # as many as go through the front at once
    expected = [part for out in heard for part in (out.mean(2), (out.var(2, correction=0) + 1e-6).sqrt())]
    torch.testing.assert_close(texture, torch.cat([traces.traces(images[:4].float()), *expected], dim=1))


def test_branches_together_alone_and_live_say_the_same(small: Backbone, images: torch.Tensor) -> None:
    for number in range(5):
        learned_branch(small, LORA, number)
    whole = lambda images: small.embed(images).tokens  # noqa: E731  (training sees a part of them)
    live = [LiveBranch(small.model, small.branch(number), whole)(images) for number in range(5)]
    assert all(feature.requires_grad for feature in live)
    alone = [small.features(images, range(number, number + 1)) for number in range(5)]
    torch.testing.assert_close(torch.cat(alone, dim=1), torch.cat(live, dim=1).detach(), atol=1e-5, rtol=1e-4)
    for count in (1, COUNT):  # one pass, or several
        together = small.features(images[:count], range(5))
        torch.testing.assert_close(together, torch.cat(alone, dim=1)[:count], atol=1e-5, rtol=1e-4)
    assert (alone[0] - small.plain_feature(images)).abs().max() > 1e-3


def test_growing_hears_every_layer_of_a_branch_and_training_reaches_no_other(
    small: Backbone, images: torch.Tensor
) -> None:
    assert Network.empty(small).grow(LORA, 2, branch_seed=0, head_seed=0) == 6  # qkv, fc1 and fc2 of two blocks
    learned_branch(small, LORA, 1)
    live = small.live_branch(1)
    live(images).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in live.parameters)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in small.parameters())


def test_one_batch_passes_the_front_once_for_texture_and_all_branches(
    small: Backbone, images: torch.Tensor, tmp_path: Path
) -> None:
    for number in range(3):
        learned_branch(small, LORA, number)
    network, views = Network.empty(small), views_of([f"{n:032x}" for n in range(COUNT)], np.full((COUNT, 2), CENTER))
    passes: list[int] = []
    small.model.convs[0].register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    asked = [TEXTURE, 0, 1, 2]
    together, apart = FeatureCache(tmp_path / "together"), FeatureCache(tmp_path / "apart")
    together.fill(network, asked, views, lambda rows: images[rows], BATCH)
    assert passes == [BATCH, BATCH]
    for branch in reversed(asked):
        for rows in (np.arange(5, 6), np.arange(0, 4), np.arange(4, 5)):  # another order, other batches
            apart.fill(network, [branch], views[rows], lambda i, rows=rows: images[rows[i]], BATCH)
    for one, other in zip(*(s.lookup(network, asked, views, BATCH) for s in (together, apart)), strict=True):
        assert torch.equal(one.take(), other.take())
    torch.testing.assert_close(network.features(images)[:, : small.width], one_of(together, network, views))


def one_of(cache: FeatureCache, network: Network, views: np.ndarray) -> torch.Tensor:
    return cache.lookup(network, [0], views, BATCH)[0].take()


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_a_later_branch_starts_from_what_the_front_gave_and_says_the_same(
    small: Backbone, images: torch.Tensor, tmp_path: Path, mixed_precision: bool
) -> None:
    for number in range(2):
        learned_branch(small, LORA, number)
    network, views = Network.empty(small, mixed_precision=mixed_precision), np.array([b"%024d" % n for n in range(6)])
    kept, plain = FeatureCache(tmp_path / "kept"), FeatureCache(tmp_path / "plain")
    read: list[int] = []

    def given(rows: np.ndarray) -> torch.Tensor:
        read.extend(rows.tolist())
        return images[rows]

    kept.fill(network, [0, TEXTURE], views[:4], given, BATCH, keeps_tokens=True)
    [path] = kept.root.glob("*.tokens")
    damaged = bytearray(path.read_bytes())
    damaged[-2] ^= 1  # in the last number of the fourth
    path.write_bytes(damaged)
    read.clear()
    kept.fill(network, [0, 1, TEXTURE], views, given, BATCH, keeps_tokens=True)
    assert sorted(read) == [3, 4, 5]
    plain.fill(network, [1], views, given, BATCH)
    for cache in (kept, plain):
        cache.fill(network, [1], views, given, BATCH)
    assert torch.equal(*(cache.lookup(network, [1], views, BATCH)[0].take() for cache in (kept, plain)))
    assert kept.evict(0) == 0
    assert not list(kept.root.glob("*-*"))


def test_without_room_for_what_the_front_gave_features_are_kept_all_the_same(
    small: Backbone, images: torch.Tensor, tmp_path: Path
) -> None:
    learned_branch(small, LORA, 0)
    network, views, cache = Network.empty(small), np.array([b"%024d" % n for n in range(6)]), FeatureCache(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # of one file, where tokens take more
    try:
        cache.fill(network, [0], views, lambda rows: images[rows], BATCH, keeps_tokens=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = cache.lookup(network, [0], views, BATCH)[0].take()
    torch.testing.assert_close(found, network.features(images), atol=1e-5, rtol=1e-4)
    cache.fill(network, [0], views, lambda rows: images[rows], BATCH, keeps_tokens=True)  # behind half a record


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_the_shipped_ones_features_do_not_depend_on_the_place_in_a_batch(tmp_path: Path, mixed_precision: bool) -> None:
    network = Network.empty(open_backbone(BackboneParams(name="residual")), mixed_precision=mixed_precision)
    learned_branch(network.backbone, LORA, 0)
    images = torch.randint(0, 256, (40, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views, found = views_of([f"{n:032x}" for n in range(40)], np.full((40, 2), CENTER)), []
    for order in (np.arange(40), np.random.default_rng(0).permutation(40)):
        cache = FeatureCache(tmp_path / str(len(found)))
        cache.fill(network, [TEXTURE, 0], views[order], lambda rows, order=order: images[order[rows]], 5)
        found.append(torch.cat([kept.take() for kept in cache.lookup(network, [TEXTURE, 0], views, 5)], dim=1))
    assert torch.equal(*found)


def test_the_shipped_one_is_reopened_by_its_identity_beside_the_other() -> None:
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    for name, timm_name in (("residual", NAME), ("shipped", "convit_tiny")):
        backbone = open_backbone(BackboneParams(name=name))
        assert (backbone.identity.name, backbone.identity.source) == (timm_name, "shipped")
        again = reopen_backbone(backbone.identity)
        crop = images[..., : again.identity.crop, : again.identity.crop]
        assert torch.equal(again.plain_feature(crop), backbone.plain_feature(crop))
    gone = BackboneIdentity("convit_of_the_future", {}, "shipped", "", 96, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(BackboneError):
        reopen_backbone(gone)


def test_it_looks_at_squares_of_the_side_that_is_asked_for_and_the_other_at_its_own() -> None:
    sides = [open_backbone(BackboneParams(name=name, crop=96)).identity.crop for name in ("residual", "shipped")]
    assert sides == [96, 64]
    with pytest.raises(BackboneError, match=r"backbone\.crop is 16, but .* squares of 32 pixels or more"):
        open_backbone(BackboneParams(name="residual", crop=16))


def test_beside_another_model_its_front_gives_the_texture_and_that_the_features(tmp_path: Path) -> None:
    name, arguments = "vit_tiny_patch16_224", {"img_size": 48, "embed_dim": 16, "num_heads": 2, "depth": 2}
    plain = import_timm().create_model(name, num_classes=0, **arguments)
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "vit.safetensors")
    params = BackboneParams(name=name, weights=str(tmp_path / "vit.safetensors"), arguments=arguments, crop=48)
    alone = open_backbone(params)
    fronted = open_backbone(params.model_copy(update={"name": f"residual+{name}"}))
    residual = open_backbone(BackboneParams(name="residual", crop=48))
    images = torch.randint(0, 256, (6, 3, 48, 48), dtype=torch.uint8)
    for backbone in (alone, fronted):
        learned_branch(backbone, LORA, 0)
    assert torch.equal(fronted.features(images, range(1)), alone.features(images, range(1)))
    assert fronted.texture_width == residual.texture_width
    assert torch.equal(fronted.texture(images), residual.texture(images))
    live = fronted.live_branch(0)
    live(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in live.parameters)
    assert fronted.identity.sha256 not in (alone.identity.sha256, residual.identity.sha256)
    assert torch.equal(reopen_backbone(fronted.identity).texture(images), residual.texture(images))
    with pytest.raises(BackboneError, match=r"backbone\.crop is 16, but .* squares of 32 pixels or more"):
        open_backbone(params.model_copy(update={"name": f"residual+{name}", "crop": 16}))


def test_it_is_no_models_of_a_hub() -> None:
    with pytest.raises(BackboneError, match=r"no hub has its weights: set backbone\.name: residual"):
        open_backbone(BackboneParams(name=NAME, weights="hub", crop=96))


def test_a_glimpse_is_a_square_of_the_places_and_all_traces(small: Backbone, images: torch.Tensor) -> None:
    tokens = small.embed(images).tokens
    of_traces = traces.SPECTRA + traces.PAIRINGS
    grid = tokens[:, :-of_traces].unflatten(1, (8, 8))
    seen = small.model.glimpse(tokens)
    places, kept = seen[:, :-of_traces].unflatten(1, (4, 4)), seen[:, -of_traces:]
    assert torch.equal(kept, tokens[:, -of_traces:])
    corners = [(y, x) for y in range(5) for x in range(5)]
    assert any(torch.equal(places, grid[:, y : y + 4, x : x + 4]) for y, x in corners)
