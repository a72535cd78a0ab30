"""All of a branch is heard by the model, live and merged alike, or is refused before anything is learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lorax.errors import BackboneError
from lorax.network.backbone import Backbone, BackboneIdentity
from lorax.network.building import import_timm, prepare
from lorax.network.network import Network
from lorax.params import LoraParams

EVA = ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 2})
SWIN = (
    "swinv2_tiny_window8_256",
    {"img_size": 64, "window_size": 2, "depths": (2,), "embed_dim": 32, "num_heads": (2,)},
)
READING_THEIR_WEIGHTS = [
    EVA,
    SWIN,
    ("beit_base_patch16_224", {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2}),
    ("vit_small_patch16_dinov3_qkvb", {"img_size": 32, "depth": 2}),
]


def backbone_of(name: str, arguments: dict[str, Any], crop: int | None = None) -> Backbone:
    torch.manual_seed(0)
    model = import_timm().create_model(name, pretrained=False, num_classes=0, **arguments)
    for parameter in model.parameters():  # Swin V2's norms begin at zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    prepare(model)
    side = crop or arguments["img_size"]
    return Backbone(model, BackboneIdentity(name, arguments, "", "", side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


def grow(backbone: Backbone, *targets: str) -> int:
    return Network.empty(backbone).grow(LoraParams(rank=2, targets=targets), 2, branch_seed=0, head_seed=0)


@pytest.mark.parametrize(("name", "arguments"), READING_THEIR_WEIGHTS)
def test_attention_that_only_reads_its_projections_weight_learns_in_it(name: str, arguments: dict[str, Any]) -> None:
    backbone = backbone_of(name, arguments)
    assert grow(backbone, r".*attn\.qkv") == 2
    images = torch.randint(0, 256, (3, 3, arguments["img_size"], arguments["img_size"]), dtype=torch.uint8)
    plain, live = backbone.plain_feature(images), backbone.live_branch(0)
    for _ in range(2):  # at the first step only B has a gradient
        feature = live(images)
        (feature * torch.randn_like(feature)).sum().backward()
        for parameter in live.parameters:
            assert parameter.grad is not None
            parameter.data -= 0.1 * parameter.grad / (parameter.grad.norm() + 1e-12)
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in live.parameters)
    backbone.keep_branch(0, live)
    merged = backbone.features(images, range(1))
    with torch.no_grad():
        backbone.add_branch(LoraParams(rank=2, dropout=0, targets=(r".*attn\.qkv",)), seed=0)
        backbone.start_branch(1, live.export())
        moved = backbone.live_branch(1)(images)
    assert (moved - plain).norm() > 1e-3
    assert torch.allclose(merged, moved, atol=1e-5)


def test_layers_that_are_never_called_are_named_with_those_to_target_instead() -> None:
    backbone = backbone_of(*EVA)
    for block in backbone.model.blocks:
        block.attn.qkv_bias_separate = False  # what a model does that has no such switch
    with pytest.raises(BackboneError) as refusal:
        grow(backbone, r".*attn\.(qkv|proj)")
    refused, usable = str(refusal.value).split("Target layers among these")
    assert r"in 2 of the 4 layers of 'eva02_tiny_patch14_224'" in refused
    assert r"blocks\.\d+\.attn\.qkv" in refused and "proj" not in refused.split("matches")[1]
    assert r"blocks\.\d+\.attn\.proj" in usable and r"blocks\.\d+\.mlp" in usable and "qkv" not in usable


def test_a_table_computed_once_for_all_images_is_no_target() -> None:
    with pytest.raises(BackboneError, match=r"4 of the 6 layers.*matches: layers\\\.\\d\+.*cpb_mlp.*Target.*qkv"):
        grow(backbone_of(*SWIN), r".*attn\.(cpb_mlp\.\d|qkv)")


def test_images_that_the_model_does_not_take_are_refused_before_anything_is_learned() -> None:
    with pytest.raises(BackboneError, match=r"can't look at images of 30 x 30 pixels \(Input.*Change backbone\.crop"):
        grow(backbone_of(*EVA, crop=30), r".*attn\.proj")
