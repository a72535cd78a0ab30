"""Branches: frozen ones merged into the backbone, the learning one through PEFT."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import PeftModel

from lorax.errors import BackboneError
from lorax.network.backbone import Backbone, BackboneIdentity
from lorax.network.branch import Dropout, match_targets
from lorax.network.building import import_timm, reopen_backbone
from lorax.params import BackboneParams, LoraParams
from tests.network.conftest import TINY, learned_branch

EVERYWHERE = (r"blocks\.\d+\.attn\.(qk|v|qkv)", r"blocks\.\d+\.mlp\.fc[12]")
LORA = LoraParams(rank=2, alpha=4, dropout=0.5, targets=EVERYWHERE)
PUBLISHED = LoraParams(rank=64, alpha=16, targets=(r"blocks\.\d+\.attn\.qk", r"blocks\.\d+\.attn\.v"))


@pytest.mark.parametrize(
    ("name", "expected"), [("convit_base", 2_457_600), ("convit_small", 1_382_400), ("convit_tiny", 614_400)]
)
def test_the_published_targets_give_the_published_numbers_of_trainable_parameters(name: str, expected: int) -> None:
    model = import_timm().create_model(name, pretrained=False, num_classes=0)
    backbone = Backbone(model, BackboneIdentity(name, {}, "hub", "", 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    branch = backbone.add_branch(PUBLISHED, seed=0)
    assert len(branch.layers) == 20
    assert sum(w.numel() for w in branch.weights.values()) == expected
    assert sum(p.numel() for p in backbone.live_branch(0).parameters) == expected


def test_a_new_branch_says_what_the_frozen_backbone_says(backbone: Backbone, images: torch.Tensor) -> None:
    plain = backbone.plain_feature(images)
    assert len(backbone.add_branch(LORA, seed=0).layers) == 11
    assert torch.equal(backbone.features(images, range(1)), plain)
    assert torch.equal(backbone.plain_feature(images), plain)


def test_all_branches_start_from_the_same_a(backbone: Backbone) -> None:
    first, second = (backbone.add_branch(LORA, seed=3).weights for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradients_and_dropout_reach_only_the_branch_that_learns(backbone: Backbone, images: torch.Tensor) -> None:
    for number in range(3):
        learned_branch(backbone, LORA, number)
    frozen = backbone.features(images, range(2))
    live = backbone.live_branch(2)
    assert {type(m) for n, m in live._model.named_modules() if ".lora_dropout." in n} == {Dropout}
    first, second = live(images), live(images)
    assert not torch.equal(first, second)  # dropout
    first.sum().backward()
    assert all(p.grad is not None for p in live.parameters)
    assert torch.equal(backbone.features(images, range(2)), frozen)
    assert not backbone.features(images, range(3)).requires_grad
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_as_many_as_asked_with_their_mean_and_their_gradients(p: float) -> None:
    x = torch.ones(1000, 999, requires_grad=True)
    torch.manual_seed(1)
    found = Dropout(p)(x)
    found.sum().backward()
    assert torch.equal(found, x.grad)
    stays = (found > 0).float()
    deviation = (p * (1 - p)) ** 0.5
    assert stays.mean().item() == pytest.approx(1 - p, abs=4 * deviation / x.numel() ** 0.5)
    assert found.mean().item() == pytest.approx(1, abs=0.01)
    assert (stays.mean(dim=0) - (1 - p)).abs().max() < 6 * deviation / len(x) ** 0.5, "wherever it stands in a word"
    torch.manual_seed(1)
    assert torch.equal(Dropout(p)(x), found)
    assert Dropout(p).eval()(x) is x


def test_what_a_branch_learned_is_kept(backbone: Backbone, images: torch.Tensor) -> None:
    backbone.add_branch(LORA.model_copy(update={"dropout": 0.0}), seed=0)
    before, digest = backbone.features(images, range(1)), backbone.branch(0).digest
    live = backbone.live_branch(0)
    for parameter in live.parameters:
        parameter.data += 0.1
    assert torch.equal(backbone.features(images, range(1)), before)
    backbone.keep_branch(0, live)
    assert torch.allclose(backbone.features(images, range(1)), live(images), atol=1e-5)
    assert backbone.branch(0).digest != digest


def test_a_branch_merged_on_the_way_says_bit_for_bit_what_one_merged_beforehand_says(
    backbone: Backbone, images: torch.Tensor
) -> None:
    branch = learned_branch(backbone, LORA, 0)
    found = backbone.features(images, range(1))
    for layer in branch.layers:
        weight = backbone.model.get_submodule(layer).weight
        a, b = (branch.weights[f"base_model.model.{layer}.lora_{factor}.weight"] for factor in "AB")
        weight.copy_(torch.addmm(weight, b, a, alpha=2))
    assert torch.equal(found, backbone.plain_feature(images))


def test_passes_leave_nothing_behind_whatever_branches_they_ask(backbone: Backbone, images: torch.Tensor) -> None:
    for number in range(4):
        learned_branch(backbone, LORA, number)
    backbone.plain_feature(images)  # tables that do not depend on branches are there

    def held() -> int:
        gc.collect()
        return sum(tensor.nbytes for tensor in gc.get_objects() if issubclass(type(tensor), torch.Tensor))

    before = held()
    for branches in (range(1), range(2), range(4)):
        for count in (1, 5):
            backbone.features(images[:count], branches)
    assert held() == before


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("lora", [LORA, LoraParams(rank=3, targets=(r"blocks\.1\.attn\.v",))])
def test_branches_together_say_what_peft_says_one_by_one(
    backbone: Backbone,
    images: torch.Tensor,
    tiny_backbone_params: BackboneParams,
    tmp_path: Path,
    count: int,
    lora: LoraParams,
) -> None:
    for number in range(7):  # of different sizes and targets; 7 · 5 images are more than one pass holds
        learned_branch(backbone, lora if number % 2 else LORA, number)
    found = backbone.features(images[:count], range(7)).split(backbone.width, dim=1)
    for number, feature in enumerate(found):
        branch = backbone.branch(number)
        peft = _through_peft(tmp_path / str(number), branch.config, branch.weights, tiny_backbone_params)
        pixels = images[:count].float() / 255 / 0.5 - 1
        assert torch.allclose(feature, peft(pixels), atol=1e-5, rtol=1e-5)
    assert torch.allclose(
        backbone.features(images[:count], range(2, 5)), torch.cat(found[2:5], dim=1), atol=1e-5, rtol=1e-5
    )


def _through_peft(
    folder: Path, config: Mapping[str, object], weights: Mapping[str, torch.Tensor], params: BackboneParams
) -> torch.nn.Module:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(dict(weights), folder / "adapter_model.safetensors")
    model = import_timm().create_model("convit_tiny", pretrained=False, num_classes=0, **TINY)
    model.load_state_dict(safetensors.torch.load_file(params.weights))
    return PeftModel.from_pretrained(model, folder).eval()


def test_a_saved_branch_loads_again(backbone: Backbone, images: torch.Tensor) -> None:
    branch = learned_branch(backbone, LORA, 0)
    again = reopen_backbone(backbone.identity)
    again.load_branch(json.loads(json.dumps(branch.config)), branch.weights)
    assert torch.equal(again.features(images, range(1)), backbone.features(images, range(1)))
    assert again.branch(0).digest == branch.digest


def test_a_branch_of_another_shape_is_refused(backbone: Backbone) -> None:
    branch = backbone.add_branch(LORA, seed=0)
    name = next(iter(branch.weights))
    with pytest.raises(BackboneError, match=r"doesn't fit the backbone"):
        backbone.load_branch(branch.config, branch.weights | {name: branch.weights[name][:1]})


def test_a_branch_that_is_no_plain_lora_is_refused(backbone: Backbone) -> None:
    branch = backbone.add_branch(LORA, seed=0)
    with pytest.raises(BackboneError, match="asks for use_rslora: True"):
        backbone.load_branch(branch.config | {"use_rslora": True}, branch.weights)


def test_a_target_that_matches_nothing_is_named(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match=r"'blocks.0.qkv' matches none"):
        backbone.add_branch(LoraParams(targets=("blocks.0.qkv",)), seed=0)
    assert backbone.branches == 0


def test_the_positional_projection_is_no_target(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match="matches none"):  # the fast attention computes its map once
        backbone.add_branch(LoraParams(targets=(r"blocks\.0\.attn\.pos_proj",)), seed=0)


def test_only_linear_layers_are_adapted_whatever_else_a_target_matches(
    backbone: Backbone, images: torch.Tensor
) -> None:
    branch = learned_branch(backbone, LoraParams(rank=2, dropout=0, targets=(r".*proj", r"blocks\.\d+\.attn\..*")), 0)
    assert not any("patch_embed" in layer or "pos_proj" in layer or "drop" in layer for layer in branch.layers)
    assert "blocks.0.attn.proj" in branch.layers
    assert torch.allclose(backbone.features(images, range(1)), backbone.live_branch(0)(images), atol=1e-4)


def test_targets_match_whole_names_only() -> None:
    names = ["patch_embed.proj", "blocks.1.attn.proj", "blocks.11.attn.proj"]
    assert match_targets(names, [r"blocks\.1\.attn\.proj"]) == ["blocks.1.attn.proj"]
