"""The frozen backbone: opened, and held to its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lorax.errors import BackboneError
from lorax.network.backbone import Backbone
from lorax.network.building import import_timm, open_backbone, reopen_backbone
from lorax.params import BackboneParams


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


def test_weights_that_come_from_a_file_are_not_drawn_first(weights_path: Path, backbone: Backbone) -> None:
    before = torch.get_rng_state()
    assert reopen_backbone(backbone.identity).identity == backbone.identity
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_another_model_are_refused(weights_path: Path) -> None:
    with pytest.raises(BackboneError, match="don't fit the model"):
        open_backbone(BackboneParams(name="convit_tiny", weights=str(weights_path), crop=224))


def test_half_shipped_parameters_are_refused() -> None:
    with pytest.raises(BackboneError, match="'shipped' or 'residual' and weights: shipped"):
        open_backbone(BackboneParams(name="convit_tiny", weights="shipped"))
    with pytest.raises(BackboneError, match="weights: shipped"):
        open_backbone(BackboneParams(name="residual", weights="hub"))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_convnext", {}),  # its head's norm belongs to the feature
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 1}),  # has two classifiers
    ],
)
def test_a_whole_models_weight_file_is_taken_less_its_classifier(
    tmp_path: Path, name: str, arguments: dict[str, object]
) -> None:
    torch.manual_seed(0)
    whole = import_timm().create_model(name, pretrained=False, num_classes=10, **arguments).eval()
    path, images = tmp_path / "whole.safetensors", torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    for parameter in whole.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    safetensors.torch.save_file(whole.state_dict(), path)
    backbone = open_backbone(BackboneParams(name=name, weights=str(path), arguments=arguments, crop=32))
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features((images - 127.5) / 127.5), pre_logits=True)
    assert torch.allclose(backbone.plain_feature(images), expected, atol=1e-4)
    safetensors.torch.save_file(whole.state_dict() | {"head_of_another.weight": torch.zeros(1)}, path)
    with pytest.raises(BackboneError, match="don't fit the model"):
        open_backbone(BackboneParams(name=name, weights=str(path), arguments=arguments, crop=32))
