"""A Keras model as TensorFlow.js stores it (model.json and a file of weights), run by torch.

Only the layers that small upscalers are made of; any other is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Layer = Callable[[list[Tensor]], Tensor]


class KerasGraph:
    """The model of one model.json; calling it takes and gives a picture (H, W, 3).

    Raises:
        ValueError: it has a layer that is not known here.
    """

    def __init__(self, path: Path) -> None:
        model = json.loads(path.read_text())
        config = model["modelTopology"]["model_config"]["config"]
        weights = _read_weights(path.parent, model["weightsManifest"])
        self._input, self._output = config["input_layers"][0][0], config["output_layers"][0][0]
        self._nodes: list[tuple[str, list[str], Layer]] = [
            (layer["name"], [node[0] for node in layer["inbound_nodes"][0]], _build(layer, weights))
            for layer in config["layers"]
            if layer["class_name"] != "InputLayer"
        ]

    def __call__(self, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        values = {self._input: torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None]}
        with torch.no_grad():
            for name, inputs, layer in self._nodes:
                values[name] = layer([values[i] for i in inputs])
        return values[self._output][0].permute(1, 2, 0).numpy()


def _read_weights(folder: Path, manifest: list[dict[str, Any]]) -> dict[str, Tensor]:
    weights = {}
    for group in manifest:
        data, at = b"".join((folder / name).read_bytes() for name in group["paths"]), 0
        for entry in group["weights"]:
            coded = entry.get("quantization", {"dtype": entry["dtype"]})
            values = np.frombuffer(data, coded["dtype"], int(np.prod(entry["shape"])), at)
            at += values.nbytes
            plain = values.astype(np.float32) * coded.get("scale", 1) + coded.get("min", 0)
            weights[entry["name"]] = torch.from_numpy(plain.astype(np.float32).reshape(entry["shape"]))
    return weights


def _build(layer: dict[str, Any], weights: dict[str, Tensor]) -> Layer:
    kind, config = layer["class_name"], layer["config"]
    if kind == "Conv2D":
        return _convolution(config, weights)
    if kind == "Activation":
        return lambda x: _activations[config["activation"]](x[0])
    if kind == "Concatenate":
        return lambda x: torch.cat(x, 1)
    if kind == "Add":
        return lambda x: torch.stack(x).sum(0)
    if kind == "MultiplyBeta":
        return lambda x: x[0] * config["beta"]
    if kind == "UpSampling2D":
        return lambda x: F.interpolate(
            x[0], scale_factor=tuple(map(float, config["size"])), mode=config["interpolation"]
        )
    if kind.startswith("PixelShuffle"):
        return lambda x: _depth_to_space(x[0], config["scale"])
    raise ValueError(f"layer {layer['name']!r} is a {kind}, which is not known here")


_activations: dict[str, Callable[[Tensor], Tensor]] = {"linear": lambda x: x, "relu": torch.relu}


def _convolution(config: dict[str, Any], weights: dict[str, Tensor]) -> Layer:
    if config["strides"] != [1, 1] or config["dilation_rate"] != [1, 1]:
        raise ValueError(f"layer {config['name']!r} is a convolution of a kind that is not known here")
    kernel = weights[f"{config['name']}/kernel"].permute(3, 2, 0, 1).contiguous()
    bias = weights[f"{config['name']}/bias"] if config["use_bias"] else None
    activation = _activations[config["activation"]]
    return lambda x: activation(F.conv2d(x[0], kernel, bias, padding=config["padding"]))


def _depth_to_space(x: Tensor, scale: int) -> Tensor:
    """(B, scale² C, H, W) to (B, C, scale H, scale W), channels in TensorFlow's order: place first, then colour."""
    batch, channels, height, width = x.shape
    blocks = x.view(batch, scale, scale, channels // scale**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, channels // scale**2, height * scale, width * scale)
