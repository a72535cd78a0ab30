"""Small networks of random shape that make pictures from pictures, and their brief training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = Callable[[], tuple[Tensor, Tensor]]
"""Draws what goes in and what should come out."""


def trained(net: nn.Module, pair: Pair, rng: np.random.Generator) -> None:
    """Train for 100 to 300 steps on a random loss; some are punished for lacking detail, as adversaries do."""
    steps, rate = int(rng.choice([100, 150, 200, 300])), float(rng.choice([1e-3, 2e-3, 4e-3]))
    distance = (F.l1_loss, F.mse_loss, F.smooth_l1_loss)[int(rng.integers(3))]
    detail = float(rng.uniform(0.2, 1.0) * (rng.random() < 0.35))
    optimizer = torch.optim.Adam(net.parameters(), rate)
    with torch.enable_grad():
        for _ in range(steps):
            given, wanted = pair()
            made = net(given)
            loss = distance(made, wanted)
            if detail:
                loss = loss + detail * (_roughness(made) - _roughness(wanted)).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval().requires_grad_(False)


def _roughness(x: Tensor) -> Tensor:
    """How strong differences between neighbours are in each picture and channel: (N, 3, H, W) -> (N, 3)."""
    return x.diff(dim=2).abs().mean((2, 3)) + x.diff(dim=3).abs().mean((2, 3))


def enlarger(rng: np.random.Generator, factor: int) -> nn.Module:
    """(N, 3, S, S) -> (N, 3, S·factor, S·factor)."""
    width = int(rng.choice([8, 12, 16, 24]))
    body = _body(rng, 3, width)
    return _Enlarger(
        body, _upwards(rng, width, factor), factor, str(rng.choice(["", "nearest", "bilinear", "bicubic"]))
    )


def cleaner(rng: np.random.Generator) -> nn.Module:
    """(N, 3, S, S) -> as many: what is noise is taken away, on one scale or, as in a U-Net, on two."""
    width = int(rng.choice([8, 12, 16, 24]))
    if rng.random() < 0.35:
        return _Unet(rng, width)
    net = nn.Sequential(_body(rng, 3, width), nn.Conv2d(width, 3, 3, padding=1))
    return _Added(net) if rng.random() < 0.7 else net


def autoencoder(rng: np.random.Generator) -> nn.Module:
    """(N, 3, S, S) -> as many, through fewer places; S is a multiple of 4."""
    factor, width, code = int(rng.choice([2, 2, 4])), int(rng.choice([16, 24, 32])), int(rng.choice([4, 8, 12]))
    down: list[nn.Module] = []
    last = 3
    for _ in range(factor // 2):
        down += [nn.Conv2d(last, width, int(rng.choice([3, 4])), 2, 1), _activation(rng)]
        last = width
    neck = [nn.Conv2d(last, code * factor, 1), _Coarse(float(rng.choice([0.0, 0.0, 0.05, 0.2])))]
    return nn.Sequential(*down, *neck, _body(rng, code * factor, width), _upwards(rng, width, factor))


def demosaicker(rng: np.random.Generator) -> nn.Module:
    """A mosaic (N, 3, S, S), zero where a colour is not seen, to as many whole pictures."""
    width = int(rng.choice([12, 16, 24]))
    if rng.random() < 0.5:
        packed = [nn.PixelUnshuffle(2), _body(rng, 12, width), nn.Conv2d(width, 12, 1), nn.PixelShuffle(2)]
        return nn.Sequential(*packed)
    return _Added(nn.Sequential(_body(rng, 3, width), nn.Conv2d(width, 3, 3, padding=1)))


def painter(rng: np.random.Generator) -> nn.Module:
    """(N, 3, S, S) -> as many; S is a multiple of 4. As drawn it is a random function of the picture."""
    width, factor = int(rng.choice([8, 12, 16])), int(rng.choice([1, 1, 2, 4]))
    norm = [nn.InstanceNorm2d(width, affine=True)] if rng.random() < 0.5 else []
    if factor == 1:
        return nn.Sequential(_body(rng, 3, width), *norm, nn.Conv2d(width, 3, 3, padding=1))
    first = nn.Conv2d(3, width, factor + 1, factor, factor // 2)
    return nn.Sequential(first, _activation(rng), _body(rng, width, width), *norm, _upwards(rng, width, factor))


def _activation(rng: np.random.Generator) -> nn.Module:
    kinds = (nn.ReLU, lambda: nn.LeakyReLU(0.2), nn.SiLU, nn.GELU, nn.PReLU, nn.Tanh)
    return kinds[int(rng.choice(6, p=[0.25, 0.25, 0.1, 0.15, 0.15, 0.1]))]()


def _body(rng: np.random.Generator, channels: int, width: int) -> nn.Module:
    """Convolutions, plain or in residual pairs: (N, channels, S, S) -> (N, width, S, S)."""
    kernel = int(rng.choice([3, 3, 3, 5]))
    layers: list[nn.Module] = [nn.Conv2d(channels, width, kernel, padding=kernel // 2), _activation(rng)]
    for _ in range(int(rng.integers(0, 4))):
        if rng.random() < 0.4:
            pair = [nn.Conv2d(width, width, 3, padding=1), _activation(rng), nn.Conv2d(width, width, 3, padding=1)]
            layers.append(_Added(nn.Sequential(*pair, *([_Attention(width)] if rng.random() < 0.3 else []))))
        else:
            layers += [nn.Conv2d(width, width, 3, padding=1), _activation(rng)]
    return nn.Sequential(*layers)


def _upwards(rng: np.random.Generator, width: int, factor: int) -> nn.Module:
    """(N, width, S, S) -> (N, 3, S·factor, S·factor), in one of the ways that networks have."""
    way = str(rng.choice(["subpixel", "deconvolution", "nearest", "bilinear"]))
    if way == "subpixel":
        return nn.Sequential(nn.Conv2d(width, 3 * factor**2, 3, padding=1), nn.PixelShuffle(factor))
    if way == "deconvolution":
        kernel = 2 * factor if rng.random() < 0.5 else factor + 2 * ((factor + 1) // 2)
        padding = (kernel - factor + 1) // 2
        return nn.ConvTranspose2d(width, 3, kernel, factor, padding, output_padding=factor - kernel + 2 * padding)
    last = [nn.Conv2d(width, width, 3, padding=1), _activation(rng), nn.Conv2d(width, 3, 3, padding=1)]
    return nn.Sequential(nn.Upsample(scale_factor=factor, mode=way), *last)


class _Enlarger(nn.Module):
    def __init__(self, body: nn.Module, up: nn.Module, factor: int, skip: str) -> None:
        super().__init__()
        self.body, self.up, self.factor, self.skip = body, up, factor, skip

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.up(self.body(x))
        return made + F.interpolate(x, scale_factor=self.factor, mode=self.skip) if self.skip else made


class _Added(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.net(x)
        return added


class _Attention(nn.Module):
    """Each channel times a weight that the whole picture decides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        weighed: Tensor = x * self.weigh(x)
        return weighed


class _Coarse(nn.Module):
    """Rounds a code to multiples of `step`, past which the gradient goes as if it did not."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        if not self.step:
            return x
        return x + ((x / self.step).round() * self.step - x).detach()


class _Unet(nn.Module):
    def __init__(self, rng: np.random.Generator, width: int) -> None:
        super().__init__()
        self.fine = _body(rng, 3, width)
        self.coarse = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1), _activation(rng), _body(rng, 2 * width, width)
        )
        self.up = str(rng.choice(["nearest", "bilinear"]))
        self.last = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), _activation(rng), nn.Conv2d(width, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = F.interpolate(self.coarse(fine), size=fine.shape[2:], mode=self.up)
        made: Tensor = self.last(torch.cat([fine, coarse], 1))
        return made
