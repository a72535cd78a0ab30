"""The residual backbone: high-pass residuals, convolutions, and transformer blocks in which branches live.

What a network leaves in a picture is a hundred times weaker than the picture. So the picture goes first: each colour
passes four fixed high-pass filters, whose outputs are clamped, as in forensics' rich models. Convolutions on these
residuals are the front; the blocks read its last output as tokens, without positions, so that an image of any size is
taken, and beside them the traces that need no learning (`traces.py`), each spectrum and co-occurrence as a token. The
feature is the mean and the deviation of the normed tokens; the texture is the traces, and mean and deviation of every
convolution's output.

Source: Fridrich and Kodovsky, Rich Models for Steganalysis (IEEE TIFS 2012), for clamped high-pass residuals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorax.network import traces
from lorax.network.passes import SplitModel, random_source

NAME = "lorax_residual"
"""By which timm builds it, once `import_timm` of lorax.network.backbone was called."""

LEAST_CROP = 32
"""Side of the smallest square that it looks at, pixels."""

_UNIT = 4.0
"""Grey levels; residuals are clamped to `_MOST` of them."""

_MOST = 3.0

_LEAST_HALVED = 8
"""Places on a side; of fewer, a glimpse shows all."""

_FLAT = 1e-6
"""Added to a variance: below its root, a deviation is none."""


class ResidualBackbone(SplitModel):
    """See above. Pixels go in as (B, 3, H, W) in 0..1, at least 32 on a side; the feature is (B, 2·widths[-1]).

    Args:
        widths: output channels of each 3 x 3 convolution; the last is the tokens' width.
        strides: of each convolution.
        depth: how many blocks.
        num_heads: of their attention.
        mlp_ratio: hidden units of their MLP, as a multiple of the tokens' width.
    """

    trace_mean: Tensor
    trace_scale: Tensor

    def __init__(
        self,
        widths: Sequence[int] = (32, 48, 96, 128),
        strides: Sequence[int] = (1, 2, 2, 2),
        depth: int = 2,
        num_heads: int = 4,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        width = widths[-1]
        self.head_hidden_size = self.num_features = 2 * width
        self.texture_width = 2 * sum(widths) + traces.WIDTH
        self.pretrained_cfg: Mapping[str, Any] = {}  # what timm's models tell of their weights
        inputs = [traces.RESIDUALS, *widths[:-1]]
        self.convs = nn.ModuleList(map(Convolution, inputs, widths, strides))
        self.blocks = nn.ModuleList(Block(width, num_heads, round(mlp_ratio * width)) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.spectrum_token = nn.Linear(traces.SPECTRUM, width)
        self.colour_token = nn.Linear(traces.COLOURS, width)
        self.trace_place = nn.Parameter(torch.zeros(traces.SPECTRA + traces.PAIRINGS, width))
        self.register_buffer("trace_mean", torch.zeros(traces.WIDTH))
        self.register_buffer("trace_scale", torch.ones(traces.WIDTH))

    def embed(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, D/2), float16, and the texture: the image's traces, and what the front says of it."""
        with torch.autocast(pixels.device.type, enabled=False):
            levels = (pixels.float() * 255).round()
            filtered = traces.residuals(levels)
            found = traces.traces(levels, filtered)
        tokens, front = self.read(filtered, found)
        return tokens.half(), torch.cat([found, front], dim=1)

    def read(self, filtered: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """What is learned of `embed`.

        Args:
            filtered: (B, 12, H, W), the images' residuals.
            found: (B, traces.WIDTH), the images' traces.

        Returns:
            Tokens (B, T, D/2), of places and then of traces, and mean and deviation of every convolution's output over
            its places.
        """
        with torch.autocast(filtered.device.type, enabled=False):
            x = (filtered / _UNIT).clamp_(-_MOST, _MOST)
        parts = []
        for conv in self.convs:
            x = conv(x)
            parts.append(_pooled(x.flatten(2).transpose(1, 2)))
        spectra, colours = traces.split((found - self.trace_mean) / self.trace_scale)
        told = torch.cat([_for_each(self.spectrum_token, spectra), _for_each(self.colour_token, colours)], dim=1)
        of_traces = (told + self.trace_place).to(x.dtype)
        return torch.cat([x.flatten(2).transpose(1, 2), of_traces], dim=1), torch.cat(parts, dim=1)

    def glimpse(self, tokens: Tensor) -> Tensor:
        """The tokens of a square of half the side, drawn anew for every call, and those of the traces."""
        places, of_traces = tokens.split([tokens.shape[1] - len(self.trace_place), len(self.trace_place)], dim=1)
        side = math.isqrt(places.shape[1])
        if side**2 != places.shape[1] or side < _LEAST_HALVED:
            return tokens
        top, left = torch.randint(side - side // 2 + 1, (2,), generator=random_source()).tolist()
        grid = places.unflatten(1, (side, side))[:, top : top + side // 2, left : left + side // 2]
        return torch.cat([grid.flatten(1, 2), of_traces], dim=1)

    def encode(self, tokens: Tensor) -> Tensor:
        """Mean and deviation of the normed tokens over their places, (B, D), float32."""
        for block in self.blocks:
            tokens = block(tokens)
        return _pooled(self.norm(tokens))


class Convolution(nn.Module):
    """A 3 x 3 convolution and ReLU. Pretraining's batch norm is in its weights (scripts/pretraining)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.conv(x))  # in place: another large tensor would cost as much as the convolution


class Block(nn.Module):
    """Pre-norm attention and MLP, both added: (B, T, D/2) -> as much."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, num_heads)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        mixed: Tensor = x + self.mlp(self.norm2(x))
        return mixed


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, fused."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        heads = (batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = self.qkv(x).view(heads).permute(2, 0, 3, 1, 4)  # each (B, H, T, D/2/H)
        mixed: Tensor = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return projected


def _for_each(layer: nn.Linear, rows: Tensor) -> Tensor:
    """A layer on (B, N, in), each image alone and in memory of its own.

    A product's last bits depend on where a row stands in it, and on where in memory its numbers begin.
    """
    return torch.stack([layer(of_one.clone()) for of_one in rows])


def _pooled(x: Tensor) -> Tensor:
    """Mean and deviation over the places: (B, T, C) -> (B, 2·C), float32.

    From two moments, in a quarter of the time that `torch.var` takes where places lie apart by C. That errs by 1e-7 of
    the squared mean in the variance, a tenth of `_FLAT`.
    """
    x = x.float()
    mean, square = x.mean(dim=1), (x * x).mean(dim=1)
    variance = (square - mean * mean).clamp_min(0)
    return torch.cat([mean, (variance + _FLAT).sqrt()], dim=1)


def lorax_residual(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    cache_dir: Any = None,
    **arguments: Any,
) -> ResidualBackbone:
    """What timm calls; `arguments` are `ResidualBackbone`'s, and num_classes, which must be 0.

    Raises:
        ValueError: weights are asked of a hub, or classes.
    """
    if pretrained:
        raise ValueError("no hub has its weights: set backbone.name: residual and backbone.weights: shipped")
    if arguments.pop("num_classes", 0):
        raise ValueError("it has no classifier: num_classes must be 0")
    return ResidualBackbone(**arguments)
