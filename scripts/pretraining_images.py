"""Images for the pretraining of the shipped backbone: random resampling pipelines over varied content, with labels.

A pipeline draws what an image generator's last stages do to pixels: resampling by a random factor and kernel,
sharpening, noise, colour mixing, rounding to coarse levels, a tone curve. Every pipeline of a batch is applied to
several contents, and its parameters (binned) are the labels. JPEG, resizing and blur come last and change no label.
All linear steps are 64 x 64 matrices applied to rows and columns, so that a batch is a few matrix products.

The families of the demo's generators (`lorax/data/simulate.py`) are not among the pipelines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pretraining_contents import Contents, column
from torch import Tensor

Floats = NDArray[np.floating[Any]]
SIDE = 64
KERNELS = ("nearest", "bilinear", "bicubic", "lanczos", "gaussian", "quadratic")
LABELS = {"kernel": 7, "mode": 3, "factor": 6, "sharpening": 4, "noise": 4, "colour": 3, "levels": 3, "tone": 3}
"""What is asked of every image, and how many answers there are; 0 is always "nothing was done"."""

# Annex K of the JPEG standard (ITU-T T.81)
_LUMA_STEPS = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA_STEPS = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def kernel_weights(name: str, distance: Floats) -> Floats:
    """Weight of a source pixel at `distance` (in source pixels) for one of KERNELS."""
    t = np.abs(distance)
    if name == "nearest":
        return np.where(t <= 0.5, 1.0, 0.0)
    if name == "bilinear":
        return np.asarray(np.clip(1 - t, 0, None))
    if name == "bicubic":
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * (t**3 - 5 * t**2 + 8 * t - 4)
        return np.where(t < 1, near, np.where(t < 2, far, 0.0))
    if name == "lanczos":
        return np.where(t < 3, np.sinc(t) * np.sinc(t / 3), 0.0)
    if name == "gaussian":
        return np.asarray(np.exp(-2 * t * t))
    return np.where(t < 0.5, 0.75 - t * t, np.where(t < 1.5, 0.5 * (1.5 - t) ** 2, 0.0))


def resize_matrix(source: int, target: int, name: str, phase: float = 0.0, smooth: bool = True) -> Floats:
    """(target, source): resampling of a line; `smooth` widens the kernel when shrinking."""
    scale = source / target
    positions = (np.arange(target) + 0.5) * scale - 0.5 + phase
    matrix = kernel_weights(name, (positions[:, None] - np.arange(source)) / (max(1.0, scale) if smooth else 1.0))
    empty = np.abs(matrix.sum(1)) < 1e-6  # a narrow kernel can fall between two pixels
    nearest = np.clip(np.round(positions).astype(int), 0, source - 1)
    matrix[empty, nearest[empty]] = 1.0
    normed: Floats = matrix / matrix.sum(1, keepdims=True)
    return normed


def blur_matrix(sigma: float) -> Floats:
    """(SIDE, SIDE): Gaussian blur of a line."""
    position = np.arange(SIDE)
    matrix = np.exp(-((position[:, None] - position) ** 2) / (2 * sigma**2))
    normed: Floats = matrix / matrix.sum(1, keepdims=True)
    return normed


def resampling_bank(rng: np.random.Generator, size: int) -> tuple[Tensor, NDArray[np.int64]]:
    """(size, SIDE, SIDE) matrices and (size, 3) labels: kernel, mode (shrunk and enlarged, or enlarged), factor bin."""
    matrices: list[Floats] = [np.eye(SIDE)]
    labels = [(0, 0, 0)]
    while len(matrices) < size:
        kernel, enlarging = int(rng.integers(len(KERNELS))), int(rng.integers(2))
        factor = float(rng.choice([2.0, 2.0, 2.0, 4.0, 1.5, 3.0, rng.uniform(1.15, 4)]))
        phase = float(rng.uniform(-0.5, 0.5) * (rng.random() < 0.5))
        small = max(8, round(SIDE / factor))
        matrix = resize_matrix(small, SIDE, KERNELS[kernel], phase)
        if enlarging:
            matrix = np.pad(matrix, ((0, 0), (0, SIDE - small)))
        else:
            matrix = matrix @ resize_matrix(SIDE, small, KERNELS[rng.integers(4)], smooth=bool(rng.random() < 0.7))
        matrices.append(matrix)
        labels.append((1 + kernel, 1 + enlarging, 1 + int(np.digitize(factor, [1.4, 1.8, 2.2, 3.2]))))
    return _float(np.stack(matrices)), np.array(labels)


def rescaling_bank() -> Tensor:
    """(R, SIDE, SIDE): rescaling by 0.75 to 1.3 about the image's centre, mirrored where the image ends."""
    matrices = []
    for size in sorted({round(SIDE * factor) for factor in np.linspace(0.75, 1.3, 40)}):
        for name in ("bilinear", "bicubic"):
            matrix, margin = resize_matrix(SIDE, size, name), abs(size - SIDE)
            rows = np.arange(SIDE) + margin // 2 if size >= SIDE else np.pad(np.arange(size), (0, margin), "reflect")
            matrices.append(matrix[rows])
    return _float(np.stack(matrices))


def dct_matrix() -> Tensor:
    """(8, 8): the orthonormal cosine transform, a row per frequency."""
    frequency, position = np.arange(8)[:, None], np.arange(8)
    matrix = np.cos((2 * position + 1) * frequency * np.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return _float(matrix)


class Jpeg:
    """JPEG's losses, without its file: colour transform, halved chroma, quantised cosine blocks."""

    def __init__(self) -> None:
        luma = np.array(_LUMA_STEPS.split(), float).reshape(8, 8)
        chroma = np.full((8, 8), 99.0)
        chroma[:4, :4] = _CHROMA_STEPS
        self.steps = _float(np.stack([luma, chroma, chroma])).repeat(1, 8, 8)
        self.transform = torch.kron(torch.eye(8), dct_matrix())
        self.halved = _float(np.kron(np.eye(SIDE // 2), np.full((2, 2), 0.5)))

    def __call__(self, x: Tensor, quality: Tensor, subsampled: Tensor) -> Tensor:
        """(B, 3, SIDE, SIDE) in 0..255; quality (B,), subsampled (B,) bool."""
        scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(-1, 1, 1, 1) / 100
        steps = (self.steps * scale).clamp(1).round()
        ycc = mix_colours(x.clamp(0, 255).round(), TO_YCC.expand(len(x), 3, 3))
        halved = self.halved @ ycc[:, 1:] @ self.halved.T
        chroma = torch.where(subsampled.view(-1, 1, 1, 1), halved, ycc[:, 1:])
        ycc = torch.cat([ycc[:, :1] - 128, chroma], 1)
        blocks = ((self.transform @ ycc @ self.transform.T) / steps).round() * steps
        ycc = self.transform.T @ blocks @ self.transform
        ycc = torch.cat([ycc[:, :1] + 128, ycc[:, 1:]], 1)
        return mix_colours(ycc, torch.linalg.inv(TO_YCC).expand(len(x), 3, 3))


def mix_colours(x: Tensor, matrices: Tensor) -> Tensor:
    """(B, 3, H, W) times (B, 3, 3)."""
    return torch.bmm(matrices, x.flatten(2)).view_as(x)


class PipelineBatches:
    """Batches of `pipelines` x `contents` images, with labels, from one seed."""

    def __init__(self, seed: int, pipelines: int = 16, contents: int = 8) -> None:
        self.rng = np.random.default_rng(seed)
        self.noise = torch.Generator().manual_seed(seed)
        self.pipelines, self.repeats = pipelines, contents
        self.contents = Contents(self.rng)
        self.bank, self.bank_labels = resampling_bank(self.rng, 3000)
        self.blurs = _float(np.stack([blur_matrix(s) for s in np.geomspace(0.4, 2.5, 64)]))
        self.rescalings, self.jpeg = rescaling_bank(), Jpeg()
        self.finish: Callable[[Tensor], Tensor] = self._augment
        """What happens to images last; it changes no label."""

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, SIDE, SIDE) in 0..255, labels (B, len(LABELS)), and which pipeline (B,) made each."""
        x = self.contents.draw(self.pipelines * self.repeats)
        x, labels = self._apply_pipelines(x)
        x = self.finish(x).clamp(0, 255).round()
        made_by = np.repeat(np.arange(self.pipelines), self.repeats)
        return x, torch.from_numpy(labels), torch.from_numpy(made_by)

    def _apply_pipelines(self, x: Tensor) -> tuple[Tensor, NDArray[np.int64]]:
        """One random pipeline for every `repeats` images; one in eight leaves its images alone."""
        count, rng = self.pipelines, self.rng
        touched = rng.random(count) >= 0.12
        rows = np.where(rng.random(count) < 0.75, rng.integers(1, len(self.bank), count), 0) * touched
        columns = np.where(rng.random(count) < 0.15, rng.integers(len(self.bank), size=count), rows) * touched
        bins = {name: self._bins(share, LABELS[name], touched) for name, share in _SHARES.items()}
        amount = {name: np.array(_AMOUNTS[name])[b] * rng.uniform(0.7, 1.3, count) for name, b in bins.items()}
        colours = np.eye(3) + rng.standard_normal((count, 3, 3)) * amount["colour"][:, None, None]
        levels = np.array(_AMOUNTS["levels"])[bins["levels"]]
        tone = np.array(_AMOUNTS["tone"])[bins["tone"]] * np.where(bins["tone"] > 0, rng.uniform(0.92, 1.08, count), 1)
        noise = torch.randn(x.shape, generator=self.noise) * self._spread(amount["noise"])
        early = self._spread(rng.random(count) < 0.5)  # noise may enter before or after resampling
        x = self._transform(x + noise * early, self.bank, rows, columns)
        blurred = self._transform(x, self.blurs, *[rng.integers(64, size=count)] * 2)
        x = x + self._spread(amount["sharpening"]) * (x - blurred)
        x = mix_colours(x - 128, _float(np.repeat(colours, self.repeats, 0))) + 128
        x = (x + noise * (1 - early)).clamp(0, 255)
        x = 255 * (x / 255) ** self._spread(tone)
        x = (x / self._spread(levels)).round() * self._spread(levels)
        labels = np.column_stack([self.bank_labels[rows], *bins.values()])
        return x, np.repeat(labels, self.repeats, 0)

    def _augment(self, x: Tensor) -> Tensor:
        """JPEG, blur and rescaling, each on some images; labels stay."""
        rng, count = self.rng, len(x)
        u = rng.random(count)
        for chosen, bank, kinds in ((u < 0.12, self.blurs, 40), ((u >= 0.12) & (u < 0.24), self.rescalings, None)):
            rows = np.flatnonzero(chosen)
            matrices = bank[rng.integers(kinds or len(bank), size=len(rows))][:, None]
            x[rows] = matrices @ x[rows] @ matrices.transpose(-1, -2)
        rows = np.flatnonzero(rng.random(count) < 0.35)
        quality, subsampled = _float(rng.uniform(55, 98, len(rows))), torch.from_numpy(rng.random(len(rows)) < 0.5)
        x[rows] = self.jpeg(x[rows], quality, subsampled)
        return x

    def _bins(self, share: float, count: int, touched: NDArray[np.bool_]) -> NDArray[np.int64]:
        size = len(touched)
        return np.where(self.rng.random(size) < share, self.rng.integers(1, count, size), 0) * touched

    def _transform(self, x: Tensor, bank: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
        left, right = (bank[np.repeat(i, self.repeats)][:, None] for i in (rows, columns))
        return left @ x @ right.transpose(-1, -2)

    def _spread(self, values: NDArray[Any]) -> Tensor:
        return column(np.repeat(values, self.repeats))


_SHARES = {"sharpening": 0.45, "noise": 0.5, "colour": 0.4, "levels": 0.2, "tone": 0.3}
_AMOUNTS: dict[str, tuple[float, ...]] = {
    "sharpening": (0.0, 0.5, 1.0, 2.0),
    "noise": (0.0, 2.0, 5.0, 11.0),
    "colour": (0.0, 0.06, 0.15),
    "levels": (1.0, 8.0, 20.0),
    "tone": (1.0, 0.7, 1.4),
}


def _float(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
