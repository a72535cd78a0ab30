"""Patches of the train photographs that `make real` keeps; those for val or held apart are never opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scripts.real import photographs

_LEAST_ACTIVITY = 1.2
"""Mean difference between rows in grey levels; flat patches show nothing of what made them."""

_TRIES = 20


class MissingError(FileNotFoundError):
    """There are no photographs."""


class Photos:
    """All train photographs in memory, from which patches are cut; larger ones give more of them.

    Args:
        root: where `make real` put its things.

    Raises:
        MissingError: there are none.
    """

    def __init__(self, root: Path) -> None:
        try:
            names = [photo.name for photo in photographs.read(root) if photo.split == "train"]
            self._masters = [_opened(root / "masters" / f"{name}.png") for name in names]
        except FileNotFoundError as error:
            raise MissingError(
                f"no photographs: {error.filename} is not there. Run `make real` first, which fetches and shrinks them "
                "(docs/real.md), or name the folder that it made by --photographs."
            ) from error
        sides = np.array([master.shape[1] * master.shape[2] for master in self._masters]) ** 0.5
        self._chances = sides / sides.sum()

    def patch(self, rng: np.random.Generator, side: int) -> Tensor:
        """Bytes (3, side, side), not flat unless it happens to be so very often."""
        for _ in range(_TRIES):
            master = self._masters[rng.choice(len(self._masters), p=self._chances)]
            top, left = (int(rng.integers(length - side + 1)) for length in master.shape[1:])
            patch = master[:, top : top + side, left : left + side]
            if patch.float().diff(dim=1).abs().mean() > _LEAST_ACTIVITY:
                break
        return patch

    def patches(self, rng: np.random.Generator, count: int, side: int) -> Tensor:
        """Bytes (count, 3, side, side)."""
        return torch.stack([self.patch(rng, side) for _ in range(count)])


def _opened(path: Path) -> Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1).contiguous()
