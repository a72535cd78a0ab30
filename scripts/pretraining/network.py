"""The network that is pretrained: the residual backbone with batch norm, and the file of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorax.network.residual import NAME, ResidualBackbone
from lorax.storage import write_whole

ARGUMENTS: Mapping[str, Any] = {
    "widths": [32, 48, 96, 128],
    "strides": [1, 2, 2, 2],
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 2.0,
}
"""Of the shipped `ResidualBackbone`."""

CROP = 96
"""The side of pretraining's last crops."""

SEEN = 128
"""The side of the crops that users' images are judged by."""


class Normalised(nn.Module):
    """The backbone's `Convolution` while its scale is still learned: batch norm in the place of a bias."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


def trainable(arguments: Mapping[str, Any] = ARGUMENTS) -> ResidualBackbone:
    """A residual backbone of random weights, whose convolutions have batch norm."""
    model = ResidualBackbone(**arguments)
    shapes = [(each.conv.in_channels, each.conv.out_channels, each.conv.stride[0]) for each in model.convs]
    model.convs = nn.ModuleList(Normalised(*shape) for shape in shapes)
    return model


@torch.no_grad()
def folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `trainable`'s weights as a `ResidualBackbone` has them: batch norm folded into convolutions, float32."""
    kept = {name: value.float() for name, value in weights.items() if not name.startswith("convs.")}
    count = len({name.split(".")[1] for name in weights if name.startswith("convs.")})
    eps = nn.BatchNorm2d(1).eps
    for i in range(count):
        conv = weights[f"convs.{i}.conv.weight"].double()
        scale, shift, mean, variance = (
            weights[f"convs.{i}.norm.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / (variance + eps).sqrt()
        kept[f"convs.{i}.conv.weight"] = (conv * scale.view(-1, 1, 1, 1)).float()
        kept[f"convs.{i}.conv.bias"] = (shift - mean * scale).float()
    return kept


def write(weights: Mapping[str, Tensor], path: Path, arguments: Mapping[str, Any] = ARGUMENTS) -> None:
    """Write a `trainable`'s weights for users: float16 in `path` (.safetensors), the constructor's arguments beside."""
    halves = {name: value.half().contiguous() for name, value in sorted(folded(weights).items())}
    write_whole(path, safetensors.torch.save(halves))
    record = {"name": NAME, "arguments": dict(arguments), "crop": SEEN, "mean": [0.0] * 3, "std": [1.0] * 3}
    write_whole(path.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())
