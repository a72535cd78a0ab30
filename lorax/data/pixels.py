"""Where decoded images lie when they are many: in a file mapped into memory, or on a GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lorax.storage import storage_errors

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]
"""A decoded image, (H, W, 3)."""


class DeviceImages:
    """Decoded images in one tensor on a device, so that crops are cut there."""

    def __init__(self, pixels: Sequence[Pixels], crop: int, device: torch.device) -> None:
        import torch

        self.crop = crop
        ends = np.cumsum([0, *(image.nbytes for image in pixels)])
        self._bytes = torch.empty(int(ends[-1]), dtype=torch.uint8, device=device)
        for start, image in zip(ends, pixels, strict=False):
            self._bytes[start : start + image.nbytes] = torch.tensor(image).flatten().to(device)
        self._starts = torch.from_numpy(ends[:-1]).to(device)
        self._widths = torch.tensor([image.shape[1] for image in pixels], device=device)

    def batch(self, indices: NDArray[np.int64], offsets: NDArray[np.int64]) -> torch.Tensor:
        """As `Images.batch`."""
        import torch

        device = self._bytes.device
        rows = torch.from_numpy(indices).to(device, non_blocking=True)
        top, left = torch.from_numpy(offsets).to(device, non_blocking=True).unbind(1)
        widths = self._widths[rows]
        corners = self._starts[rows] + (top * widths + left) * 3  # (B,)
        lines = corners[:, None] + torch.arange(self.crop, device=device) * widths[:, None] * 3  # (B, crop)
        places = lines[:, :, None] + torch.arange(self.crop * 3, device=device)  # (B, crop, crop · 3)
        crops = self._bytes[places].view(len(rows), self.crop, self.crop, 3)
        return crops.permute(0, 3, 1, 2).contiguous()


def mapped(pixels: Sequence[Pixels], directory: Path) -> list[Pixels]:
    """The same images in a file without a name, mapped into memory."""
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            for image in pixels:
                file.write(image.tobytes())
            file.flush()
            whole = np.memmap(file, np.uint8, "r")
    ends = np.cumsum([image.nbytes for image in pixels])[:-1]
    return [part.reshape(image.shape) for part, image in zip(np.split(whole, ends), pixels, strict=True)]
