"""What a step of pretraining is shown: patches, and which pipeline made each of them, 0 being none."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from scripts.pretraining.bank import Bank
from scripts.pretraining.photographs import Photos

_UNTOUCHED = 0.25
"""Of a batch."""

_COMPRESSED = 0.25
"""Of all patches, whatever made them: so that what compression leaves tells nothing."""


class Examples:
    """Batches, each drawn from the seed and its step alone, so that a resumed run is shown what another would be."""

    def __init__(self, bank: Bank, photos: Photos, batch: int, seed: int) -> None:
        self.bank, self.photos, self.batch, self.seed = bank, photos, batch, seed

    def drawn(self, step: int, side: int) -> tuple[Tensor, Tensor]:
        """The batch of a step: bytes (B, 3, side, side), labels (B,)."""
        rng = np.random.default_rng([self.seed, step])
        labels = rng.integers(1, self.bank.pipelines + 1, self.batch)
        labels[: int(self.batch * _UNTOUCHED)] = 0
        patches = np.stack([self._patch(int(label), rng, side) for label in labels])
        return torch.from_numpy(patches).permute(0, 3, 1, 2), torch.from_numpy(labels)

    def _patch(self, label: int, rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
        """(side, side, 3), mirrored or compressed at random."""
        found = self.bank.patch(label - 1, rng, side) if label else self.photos.patch(rng, side).numpy()
        patch = found.transpose(1, 2, 0)
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        patch = np.ascontiguousarray(patch)
        return _compressed(patch, rng) if rng.random() < _COMPRESSED else patch


def _compressed(patch: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """After JPEG, or, one in five, WebP."""
    file, image = io.BytesIO(), Image.fromarray(patch)
    if rng.random() < 0.8:
        image.save(file, "JPEG", quality=int(rng.integers(60, 99)), subsampling=int(rng.choice([0, 2, 2])))
    else:
        image.save(file, "WEBP", quality=int(rng.integers(70, 97)))
    return np.asarray(Image.open(file).convert("RGB"))
