"""The frozen backbone and its branches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import PeftModel

from lorax.errors import BackboneError
from lorax.network.backbone import (
    Backbone,
    BackboneIdentity,
    import_timm,
    match_targets,
    open_backbone,
    reopen_backbone,
)
from lorax.params import BackboneParams, LoraParams
from tests.network.conftest import TINY

LORA = LoraParams(rank=2, alpha=4, dropout=0.5, targets=(r"blocks\.\d+\.attn\.(qk|v)", r"blocks\.\d+\.attn\.qkv"))
PUBLISHED = LoraParams(rank=64, alpha=16, targets=(r"blocks\.\d+\.attn\.qk", r"blocks\.\d+\.attn\.v"))


@pytest.mark.parametrize(
    ("name", "expected"), [("convit_base", 2_457_600), ("convit_small", 1_382_400), ("convit_tiny", 614_400)]
)
def test_the_published_targets_give_the_published_numbers_of_trainable_parameters(name: str, expected: int) -> None:
    model = import_timm().create_model(name, pretrained=False, num_classes=0)
    backbone = Backbone(model, _identity(name))
    modules = backbone.add_branch(PUBLISHED, seed=0)
    assert modules == 20
    assert sum(p.numel() for p in backbone.branch_parameters(0)) == expected


def _identity(name: str) -> BackboneIdentity:
    return BackboneIdentity(name, {}, "hub", "", 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_new_branch_says_what_the_frozen_backbone_says(backbone: Backbone, images: torch.Tensor) -> None:
    plain = backbone.plain_feature(images)
    assert backbone.add_branch(LORA, seed=0) == 5
    assert torch.equal(backbone.feature(images, 0), plain)
    assert torch.equal(backbone.plain_feature(images), plain)


def test_all_branches_start_from_the_same_a(backbone: Backbone) -> None:
    for _ in range(2):
        backbone.add_branch(LORA, seed=3)
    first, second = (backbone.export_branch(k)[1] for k in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradients_and_dropout_reach_only_the_branch_in_training(backbone: Backbone, images: torch.Tensor) -> None:
    for _ in range(3):
        backbone.add_branch(LORA, seed=0)
        for parameter in backbone.branch_parameters(backbone.branches - 1):
            parameter.data += 0.1
    frozen = backbone.feature(images, 0)
    with backbone.training_branch(2):
        assert torch.equal(backbone.feature(images, 0), frozen)  # no dropout here, and no gradient:
        assert not backbone.feature(images, 0).requires_grad
        first, second = backbone.feature(images, 2), backbone.feature(images, 2)
        assert not torch.equal(first, second)
        first.sum().backward()
    with_gradient = [n for n, p in backbone.named_parameters() if p.grad is not None]
    assert with_gradient
    assert all(".lora_" in n and ".branch0002." in n for n in with_gradient)
    assert not any(p.requires_grad for p in backbone.parameters())


def test_an_exported_branch_loads_again_and_through_peft_itself(
    backbone: Backbone, images: torch.Tensor, tiny_backbone_params: BackboneParams, tmp_path: Path
) -> None:
    backbone.add_branch(LORA, seed=0)
    for parameter in backbone.branch_parameters(0):
        parameter.data += 0.1
    config, weights = backbone.export_branch(0)
    again = reopen_backbone(backbone.identity)
    again.load_branch(config, weights)
    assert torch.equal(again.feature(images, 0), backbone.feature(images, 0))

    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(weights, tmp_path / "adapter_model.safetensors")
    model = import_timm().create_model("convit_tiny", pretrained=False, num_classes=0, **TINY)
    model.load_state_dict(safetensors.torch.load_file(tiny_backbone_params.weights))
    peft = PeftModel.from_pretrained(model, tmp_path).eval()
    pixels = images.float() / 255 / 0.5 - 1
    assert torch.allclose(peft(pixels), backbone.feature(images, 0), atol=1e-5)


def test_a_branch_of_another_shape_is_refused(backbone: Backbone) -> None:
    backbone.add_branch(LORA, seed=0)
    config, weights = backbone.export_branch(0)
    name = next(iter(weights))
    with pytest.raises(BackboneError, match=r"doesn't fit backbone"):
        backbone.load_branch(config, weights | {name: weights[name][:1]})


def test_a_target_that_matches_nothing_is_named(backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match=r"'blocks.0.qkv' matches none"):
        backbone.add_branch(LoraParams(targets=("blocks.0.qkv",)), seed=0)
    assert backbone.branches == 0


def test_targets_match_whole_names_only() -> None:
    names = ["patch_embed.proj", "blocks.1.attn.proj", "blocks.11.attn.proj"]
    assert match_targets(names, [r"blocks\.1\.attn\.proj"]) == ["blocks.1.attn.proj"]


def test_other_weights_than_the_state_names_are_refused(
    backbone: Backbone, weights_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = safetensors.torch.load_file(weights_path)
    weights["norm.bias"] += 1
    moved = tmp_path / "other.safetensors"
    safetensors.torch.save_file(weights, moved)
    identity = backbone.identity
    with pytest.raises(BackboneError, match="can't be read as safetensors"):
        reopen_backbone(replace(identity, source=str(tmp_path / "gone.safetensors")))
    monkeypatch.setenv("LORAX_BACKBONE_WEIGHTS", str(moved))
    with pytest.raises(BackboneError, match="LORAX_BACKBONE_WEIGHTS"):
        reopen_backbone(replace(identity, source=str(tmp_path / "gone.safetensors")))
    monkeypatch.setenv("LORAX_BACKBONE_WEIGHTS", str(weights_path))
    assert reopen_backbone(replace(identity, source="/nowhere")).identity.sha256 == identity.sha256


def test_an_unreachable_hub_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match=r"name its path as backbone\.weights"):
        open_backbone(BackboneParams(name="convit_tiny.fb_in1k", weights="hub", crop=224))


def test_weights_of_another_model_are_refused(weights_path: Path) -> None:
    with pytest.raises(BackboneError, match="don't fit the model"):
        open_backbone(BackboneParams(name="convit_tiny", weights=str(weights_path), crop=224))


def test_half_shipped_parameters_are_refused() -> None:
    with pytest.raises(BackboneError, match="both to be 'shipped'"):
        open_backbone(BackboneParams(name="convit_tiny", weights="shipped"))
