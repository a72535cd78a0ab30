"""Random image pipelines: what the shipped backbone is pretrained to tell apart.

A pipeline does to photographs what a picture-making network might: enlarges them again, cleans, encodes and decodes,
mosaics or repaints them, mostly by a small network of random shape that was trained for some hundred steps. No network
of the stream `real` is among them. Each is drawn from one seed, takes patches with a margin, gives them back without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scripts.pretraining.small_networks import autoencoder, cleaner, demosaicker, enlarger, painter, trained

MARGIN = 16
"""Pixels on each side that a pipeline may spoil."""

Run = Callable[[Tensor], Tensor]
"""Patches (N, 3, S, S) in 0..255, float, to as many of the same size, float."""

Photos = Callable[[int, int], Tensor]
"""(count, side) -> patches of photographs (count, 3, side, side) in 0..255, float."""


@dataclass(frozen=True)
class Pipeline:
    """One way to make pictures from photographs."""

    name: str
    run: Run

    @torch.no_grad()
    def __call__(self, patches: Tensor) -> Tensor:
        """Bytes (N, 3, S + 2 MARGIN, S + 2 MARGIN) -> bytes (N, 3, S, S)."""
        made = self.run(patches.float())[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        return made.clamp(0, 255).round().byte()


def draw(seed: int, photos: Photos) -> Pipeline:
    """The pipeline of a seed; one in five is two of them in a row."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    names, chances = zip(*_FAMILIES.items(), strict=True)
    weights = np.array([chance for chance, _ in chances])
    count = 1 + int(rng.random() < 0.2)
    chosen = rng.choice(len(names), count, replace=False, p=weights / weights.sum())
    parts = [chances[i][1](rng, photos) for i in chosen]

    def run(x: Tensor) -> Tensor:
        for part in parts:
            x = part(x).clamp(0, 255)
            x = x.round() if len(parts) > 1 else x
        return x

    return Pipeline(" + ".join(names[i] for i in chosen), run)


def resized(x: Tensor, side: int, kernel: str) -> Tensor:
    """(N, 3, S, S) -> (N, 3, side, side), smoothed where it shrinks."""
    if kernel in ("nearest", "area"):
        return F.interpolate(x, size=(side, side), mode=kernel)
    return F.interpolate(x, size=(side, side), mode=kernel, antialias=True)


def _pick(rng: np.random.Generator, among: Sequence[str]) -> str:
    return among[int(rng.integers(len(among)))]


def _resampling(rng: np.random.Generator, _: Photos) -> Run:
    factor = float(rng.choice([1.25, 1.5, 2, 2, 2.5, 3, 4, rng.uniform(1.1, 4)]))
    down, up = _pick(rng, ("bilinear", "bicubic", "area")), _pick(rng, ("bilinear", "bicubic", "nearest"))
    return lambda x: resized(resized(x, round(x.shape[-1] / factor), down), x.shape[-1], up)


def _learned_enlarger(rng: np.random.Generator, photos: Photos) -> Run:
    factor = int(rng.choice([2, 2, 2, 3, 4]))
    down, noise = _pick(rng, ("bilinear", "bicubic", "area")), float(rng.uniform(0, 6) * (rng.random() < 0.3))
    net, side = enlarger(rng, factor), factor * {2: 16, 3: 12, 4: 10}[factor]

    def pair() -> tuple[Tensor, Tensor]:
        big = photos(6, side) / 255
        small = resized(big, side // factor, down)
        return small + torch.randn_like(small) * noise / 255, big

    trained(net, pair, rng)
    lightness_only = bool(rng.random() < 0.2)

    def run(x: Tensor) -> Tensor:
        side = x.shape[-1] // factor * factor
        small = resized(x[..., :side, :side], side // factor, down)
        big = net(small / 255) * 255
        if lightness_only:
            big = _with_colours_of(big, resized(small, side, "bicubic"))
        return F.pad(big, (0, x.shape[-1] - side, 0, x.shape[-1] - side), mode="reflect")

    return run


def _with_colours_of(x: Tensor, other: Tensor) -> Tensor:
    """The lightness of one picture, the colours of another: both (N, 3, H, W)."""
    weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return other + ((x - other) * weights).sum(1, keepdim=True)


def _noisy(x: Tensor, level: float, is_photon: bool) -> Tensor:
    """With Gaussian noise of so many grey levels, or photon noise in linear light of about as many at mid-grey."""
    if not is_photon:
        return x + torch.randn_like(x) * level
    linear = (x / 255).clamp(0, 1) ** 2.2
    noisy = linear + torch.randn_like(x) * linear.clamp_min(1e-4).sqrt() * level / 255
    return noisy.clamp(0, 1) ** (1 / 2.2) * 255


def _learned_cleaner(rng: np.random.Generator, photos: Photos) -> Run:
    net, level, is_photon = cleaner(rng), float(rng.uniform(3, 25)), bool(rng.random() < 0.4)

    def pair() -> tuple[Tensor, Tensor]:
        clean = photos(6, 32)
        return _noisy(clean, level, is_photon) / 255, clean / 255

    trained(net, pair, rng)
    return lambda x: net(_noisy(x, level, is_photon) / 255) * 255


def _learned_autoencoder(rng: np.random.Generator, photos: Photos) -> Run:
    net = autoencoder(rng)

    def pair() -> tuple[Tensor, Tensor]:
        x = photos(6, 32) / 255
        return x, x

    trained(net, pair, rng)
    return lambda x: net(x / 255) * 255


def _learned_demosaicker(rng: np.random.Generator, photos: Photos) -> Run:
    mask, net = _bayer(rng), demosaicker(rng)

    def pair() -> tuple[Tensor, Tensor]:
        x = photos(6, 32) / 255
        return x * mask(32), x

    trained(net, pair, rng)
    return lambda x: net(x / 255 * mask(x.shape[-1])) * 255


def _classical_demosaicker(rng: np.random.Generator, _: Photos) -> Run:
    mask, guided = _bayer(rng), float(rng.choice([0.0, 0.5, 1.0]))
    cross = torch.tensor([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4
    square = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    kernel = torch.stack([square, cross, square])[:, None]
    laplacian = (
        torch.tensor([[0.0, 0, -1, 0, 0], [0] * 5, [-1, 0, 4, 0, -1], [0] * 5, [0, 0, -1, 0, 0]])[None, None] / 8
    )

    def run(x: Tensor) -> Tensor:
        raw = x * mask(x.shape[-1])
        full = F.conv2d(raw, kernel, padding=1, groups=3)
        full = full + guided * F.conv2d(raw.sum(1, keepdim=True), laplacian, padding=2)
        return torch.where(mask(x.shape[-1]) > 0, x, full)

    return run


def _bayer(rng: np.random.Generator) -> Callable[[int], Tensor]:
    """Which colour each pixel of a sensor sees: side -> (1, 3, side, side) of 0 and 1."""
    tile = torch.zeros(3, 2, 2)
    tile[0, 0, 0] = tile[1, 0, 1] = tile[1, 1, 0] = tile[2, 1, 1] = 1
    tile = tile.roll((int(rng.integers(2)), int(rng.integers(2))), (1, 2))
    return lambda side: tile.repeat(1, side // 2 + 1, side // 2 + 1)[None, :, :side, :side]


def _painting(rng: np.random.Generator, photos: Photos) -> Run:
    """A network that repaints: untrained or half trained, its picture mixed with the photograph."""
    net, share = painter(rng), float(rng.uniform(0.1, 0.9))
    if rng.random() < 0.6:
        gains, shifts = torch.rand(1, 3, 1, 1) * 0.8 + 0.6, torch.rand(1, 3, 1, 1) * 0.3 - 0.15

        def pair() -> tuple[Tensor, Tensor]:
            x = photos(6, 32) / 255
            return x, (x * gains + shifts).clamp(0, 1)

        trained(net, pair, rng)

    def run(x: Tensor) -> Tensor:
        y = net(x / 255) * 255
        spread = y.std((2, 3), keepdim=True).clamp_min(1e-3)
        y = (y - y.mean((2, 3), keepdim=True)) / spread * x.std((2, 3), keepdim=True) + x.mean((2, 3), keepdim=True)
        return x + share * (y - x)

    return run


def _residue(rng: np.random.Generator, _: Photos) -> Run:
    """A faint picture of a random network, added: what watermarks and small errors of large networks look like."""
    net, level, has_message = painter(rng), float(rng.uniform(0.8, 5)), bool(rng.random() < 0.4)

    def run(x: Tensor) -> Tensor:
        y = net(x / 255)
        y = y - y.mean((2, 3), keepdim=True)
        y = y / y.std((2, 3), keepdim=True).clamp_min(1e-4)
        if has_message:
            y = y * torch.randn(len(x), 3, 1, 1).sign()
        return x + level * y

    return run


def _filter(rng: np.random.Generator, _: Photos) -> Run:
    level, kind = float(rng.uniform(2, 20)), _pick(rng, ("gauss", "median", "sharpen", "guided"))
    radius, amount = float(rng.uniform(0.5, 1.6)), float(rng.uniform(0.4, 1.6))

    def run(x: Tensor) -> Tensor:
        noisy = x + torch.randn_like(x) * level * (kind != "sharpen")
        if kind == "median":
            return (
                F.pad(noisy, (1, 1, 1, 1), mode="reflect").unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(4).values
            )
        blurred = _blurred(noisy, radius)
        if kind == "gauss":
            return blurred
        if kind == "sharpen":
            return noisy + amount * (noisy - blurred)
        variance = (_blurred(noisy**2, 1.5) - _blurred(noisy, 1.5) ** 2).clamp_min(0)
        keep = variance / (variance + level**2)
        return keep * noisy + (1 - keep) * _blurred(noisy, 1.5)

    return run


def _blurred(x: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(3 * sigma))
    line = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).view(1, 1, 1, -1).repeat(3, 1, 1, 1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="reflect"), line, groups=3)
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="reflect"), line.transpose(2, 3), groups=3)


_FAMILIES: dict[str, tuple[float, Callable[[np.random.Generator, Photos], Run]]] = {
    "resampling": (1.0, _resampling),
    "enlarger": (4.0, _learned_enlarger),
    "cleaner": (2.5, _learned_cleaner),
    "autoencoder": (2.0, _learned_autoencoder),
    "learned demosaicker": (1.2, _learned_demosaicker),
    "classical demosaicker": (0.5, _classical_demosaicker),
    "painting": (1.2, _painting),
    "residue": (1.5, _residue),
    "filter": (1.0, _filter),
}
"""Each family's share of the draws, and how one of it is drawn."""
