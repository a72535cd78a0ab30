from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from lorax.errors import BackboneError
from lorax.network.backbone import Backbone
from lorax.network.features import CENTER, TEXTURE, FeatureCache, views_of
from lorax.network.network import Network
from lorax.params import LoraParams
from tests.network.conftest import learned_branch

LORA = LoraParams(rank=2, alpha=2, targets=(r"blocks\.\d+\.attn\.(qk|v)",))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_texture_is_each_layers_mean_over_the_image(backbone: Backbone, images: torch.Tensor) -> None:
    tokens = backbone.model.patch_embed((images - backbone.mean) / backbone.std)
    texture = backbone.texture(images)
    assert texture.shape == (5, backbone.texture_width) == (5, len(backbone.model.blocks) * backbone.width)
    torch.testing.assert_close(texture[:, : backbone.width], tokens.mean(dim=1))


def test_branches_leave_the_texture_as_it_is(backbone: Backbone, images: torch.Tensor) -> None:
    before = backbone.texture(images)
    learned_branch(backbone, LORA, 0)
    assert torch.equal(backbone.texture(images), before)


def test_a_pass_of_a_branch_adds_nothing_to_another_threads_texture(backbone: Backbone, images: torch.Tensor) -> None:
    learned_branch(backbone, LORA, 0)
    network = Network.empty(backbone)
    alone = network.texture(images)
    with ThreadPoolExecutor(4) as pool:
        textures = [pool.submit(network.texture, images) for _ in range(8)]
        features = [pool.submit(network.features, images) for _ in range(8)]
    assert all(f.result().shape == (5, backbone.width) for f in features)
    for texture in textures:
        torch.testing.assert_close(texture.result(), alone)


def test_textures_are_kept_beside_features(backbone: Backbone, images: torch.Tensor, tmp_path: Path) -> None:
    learned_branch(backbone, LORA, 0)
    network, cache = Network.empty(backbone), FeatureCache(tmp_path)
    views = views_of([f"{n:032x}" for n in range(5)], np.full((5, 2), CENTER))
    asked: list[int] = []

    def read(rows: np.ndarray) -> torch.Tensor:
        asked.extend(rows.tolist())
        return images[rows]

    for _ in range(2):
        cache.fill(network, [TEXTURE], views, read, batch_size=5)
    assert asked == [0, 1, 2, 3, 4]
    [kept] = cache.lookup(network, [TEXTURE], views, 5)
    torch.testing.assert_close(kept.take(), network.texture(images))


def test_a_model_without_such_layers_still_gives_features_and_says_so_when_asked_for_textures() -> None:
    from lorax.network.backbone import BackboneIdentity
    from lorax.network.building import import_timm

    small = {"img_size": 32, "window_size": 1, "embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    model = import_timm().create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=0, **small)
    identity = BackboneIdentity("swin", {}, "none", "0" * 64, 32, (0.5,) * 3, (0.5,) * 3)
    swin = Backbone(model, identity)
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert swin.plain_feature(images).shape == (2, swin.width)
    with pytest.raises(BackboneError, match=r"calibration\.per_class: 0"):
        swin.texture(images)
