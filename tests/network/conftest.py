"""A random-weight ConViT small enough to run a test in milliseconds, loaded the way a user's local file is."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from lorax.network.backbone import Backbone
from lorax.network.branch import Branch
from lorax.network.building import import_timm, open_backbone
from lorax.params import BackboneParams, LoraParams

timm = import_timm()  # before any test module imports PEFT, which imports torchvision too

TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 4, "num_heads": 4, "depth": 3, "local_up_to_layer": 2}


@pytest.fixture(scope="session")
def tiny_backbone_params(tmp_path_factory: pytest.TempPathFactory) -> BackboneParams:
    torch.manual_seed(0)
    model = timm.create_model("convit_tiny", pretrained=False, num_classes=0, **TINY)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    path = tmp_path_factory.mktemp("backbone") / "tiny.safetensors"
    safetensors.torch.save_file({n: w.contiguous() for n, w in model.state_dict().items()}, path)
    return BackboneParams(name="convit_tiny", weights=str(path), arguments=TINY, crop=16)


@pytest.fixture
def backbone(tiny_backbone_params: BackboneParams) -> Backbone:
    return open_backbone(tiny_backbone_params)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights_path(tiny_backbone_params: BackboneParams) -> Path:
    return Path(tiny_backbone_params.weights)


def learned_branch(backbone: Backbone, lora: LoraParams, number: int) -> Branch:
    """Add a branch that says something else than the backbone, as if it had learned."""
    backbone.add_branch(lora, seed=number)
    live = backbone.live_branch(backbone.branches - 1)
    generator = torch.Generator().manual_seed(number)
    for parameter in live.parameters:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    backbone.keep_branch(backbone.branches - 1, live)
    return backbone.branch(backbone.branches - 1)
