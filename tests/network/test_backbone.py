"""The frozen backbone: opened, and held to its weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch

from lorax.errors import BackboneError
from lorax.network.backbone import Backbone, open_backbone, reopen_backbone
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


def test_weights_of_another_model_are_refused(weights_path: Path) -> None:
    with pytest.raises(BackboneError, match="don't fit the model"):
        open_backbone(BackboneParams(name="convit_tiny", weights=str(weights_path), crop=224))


def test_half_shipped_parameters_are_refused() -> None:
    with pytest.raises(BackboneError, match="both to be 'shipped'"):
        open_backbone(BackboneParams(name="convit_tiny", weights="shipped"))
