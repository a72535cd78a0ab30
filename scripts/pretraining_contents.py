"""What the pretraining's images show: photos, dead leaves, and noise whose spectrum falls as 1/f."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lorax.data.simulate import PHOTOS, open_photo, train_region

SIDE = 64

# Photos that the demo does not use; they train whole. Those used by the demo train on their train region only.
OTHER_PHOTOS = (
    *("brick.png", "camera.png", "grass.png", "gravel.png", "coins.png"),
    *("rocket.jpg", "china.jpg", "flower.jpg"),
)


@dataclass
class Contents:
    """Where the images come from: photos at three scales, dead leaves, and noise whose spectrum falls as 1/f."""

    rng: np.random.Generator
    sources: list[NDArray[np.uint8]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.sources:
            return
        photos = [train_region(open_photo(n)) for n in PHOTOS] + [open_photo(n) for n in OTHER_PHOTOS]
        scaled = [s for photo in photos for s in scales(photo)]
        areas = np.sqrt([s.shape[0] * s.shape[1] for s in scaled])
        leaves = [dead_leaves(self.rng) for _ in range(24)]
        clouds = [pink_noise(self.rng) for _ in range(24)]
        self.sources = [*scaled, *leaves, *clouds]
        self.shares = [*(0.75 * areas / areas.sum()), *[0.15 / 24] * 24, *[0.10 / 24] * 24]

    def draw(self, count: int) -> Tensor:
        """(count, 3, SIDE, SIDE) in 0..255: random crops, turned, some with exchanged channels or less contrast."""
        chosen = self.rng.choice(len(self.sources), count, p=self.shares)
        crops = np.stack([self._crop(self.sources[i]) for i in chosen])
        x = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
        gain, shift = column(self.rng.uniform(0.6, 1.1, count)), column(self.rng.uniform(-20, 20, count))
        dimmed = column(self.rng.random(count) < 0.5).bool()
        return torch.where(dimmed, (x - 128) * gain + 128 + shift, x)

    def _crop(self, source: NDArray[np.uint8]) -> NDArray[np.uint8]:
        for _ in range(6):  # prefer a crop that isn't flat
            y, x = self.rng.integers(source.shape[0] - SIDE + 1), self.rng.integers(source.shape[1] - SIDE + 1)
            crop = source[y : y + SIDE, x : x + SIDE]
            if crop[::4, ::4].std() > 10:
                break
        crop = np.rot90(crop, int(self.rng.integers(4)))
        crop = crop[::-1] if self.rng.random() < 0.5 else crop
        return crop[..., self.rng.permutation(3)] if self.rng.random() < 0.3 else crop


def scales(photo: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """A photo at full size, and shrunk, which leaves its edges sharper."""
    image, scaled = Image.fromarray(photo), []
    for scale in (1.0, 0.7, 0.5):
        size = (round(image.width * scale), round(image.height * scale))
        if min(size) > SIDE:
            scaled.append(np.asarray(image.resize(size, Image.Resampling.LANCZOS)))
    return scaled


def dead_leaves(rng: np.random.Generator, shapes: int = 300, side: int = 192) -> NDArray[np.uint8]:
    """(side, side, 3): opaque discs and bars over one another, the sharp edges that photos have."""
    canvas = np.zeros((side, side, 3))
    rows, columns = np.mgrid[:side, :side]
    for _ in range(shapes):
        radius = min(60.0, 3 / (rng.random() ** 0.6 + 0.02))
        dy, dx = rows - rng.integers(side), columns - rng.integers(side)
        angle = rng.uniform(0, math.pi)
        along, across = dy * math.cos(angle) + dx * math.sin(angle), dx * math.cos(angle) - dy * math.sin(angle)
        disc = dy**2 + dx**2 < radius**2
        bar = (np.abs(along) < radius * 0.4) & (np.abs(across) < radius * 1.5)
        mask = disc if rng.random() < 0.5 else bar
        canvas[mask] = rng.uniform(0, 255, 3) + rng.uniform(0, 40) * dy[mask][:, None] / side
    return canvas.clip(0, 255).astype(np.uint8)


def pink_noise(rng: np.random.Generator, side: int = 192) -> NDArray[np.uint8]:
    """(side, side, 3): noise whose amplitude falls with frequency, as in photos of leaves and clouds."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    exponent = rng.uniform(0.8, 1.6)
    planes = np.fft.ifft2(np.fft.fft2(rng.standard_normal((4, side, side))) / frequency**exponent).real
    planes /= planes.std((1, 2), keepdims=True)
    colours = np.moveaxis(planes[:1] + 0.4 * planes[1:], 0, -1)
    return np.asarray((128 + colours * rng.uniform(20, 50)).clip(0, 255), np.uint8)


def column(values: NDArray[Any]) -> Tensor:
    """(B,) -> (B, 1, 1, 1), a number for each image of a batch."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).view(-1, 1, 1, 1)
