"""What landing wants to know of an image file, from one read of its bytes."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from lorax.data.colour import is_plain, to_rgb
from lorax.data.container import Container, container_of
from lorax.data.grid import Blocks, blocks_of
from lorax.data.images import Progress, in_threads, opened, read
from lorax.data.pixels import Pixels
from lorax.environment import keep_freed_memory
from lorax.errors import ImageError

_SIDE, _WAVES = 32, 8  # of the image that the perceptual hash is taken of, and of its slowest waves, which it says
_LOBES = 3  # of Lanczos' kernel
_LONG = 4096  # pixels of a side that are more than enough for it, however short the other one is
_SCALE = 2**14  # of the waves' whole numbers: their sums stay below 2**53, up to which floats add exactly

_GRIDS = 10_000
"""Images whose grid is measured, where there are more; what is told of it are their medians."""


@dataclass(frozen=True)
class Examined:
    """One file: the md5 of its bytes, its container, 64-bit perceptual hash, and what tells its pixels from others.

    Or what is wrong with it, in `problem`. `pixels` is a digest of the decoded image: files with the same one hold the
    same picture, however they store it. `blocks` says how much of JPEG's grid they show; None where that was not
    measured. `ctime_ns` is when the file was last changed, before it was read: unlike its time of modification, nobody
    can set it.
    """

    md5: str
    container: Container
    fingerprint: int = 0
    problem: str = ""
    pixels: str = ""
    blocks: Blocks | None = None
    ctime_ns: int = 0

    @property
    def identity(self) -> str:
        """What files of the same picture have in common; of one that can't be decoded, its bytes'."""
        return self.pixels or self.md5


_NOTHING = Container("", "", 0, 0)


def examine_all(paths: Mapping[str, Path], progress: Progress | None = None) -> dict[str, Examined]:
    """Read, hash and decode every file once.

    Args:
        paths: name to report -> file.
        progress: told after each.
    """
    keep_freed_memory()
    one_of = -(-len(paths) // _GRIDS)
    found = in_threads(lambda item: examine(item[1], item[0], one_of), list(paths.items()), progress, "checking images")
    return dict(zip(paths, found, strict=True))


def examine(path: Path, name: str, one_of: int = 1) -> Examined:
    """Read, hash and decode a file.

    Args:
        path: of the file.
        name: what its problem calls it.
        one_of: of so many files, drawn by what they hold, the grid of one is measured.
    """
    md5, ctime_ns = "", 0
    with suppress(OSError):  # which reading tells
        ctime_ns = path.stat().st_ctime_ns
    try:
        data = read(path)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with opened(data, name) as image:
            pixels = np.asarray(image) if is_plain(image) else to_rgb(image)
            container = container_of(image, pixels, data)
            grey = (image if is_plain(image) else Image.fromarray(pixels)).convert("L")
            blocks = None if int(md5[:8], 16) % one_of else blocks_of(np.asarray(grey))
            return Examined(md5, container, fingerprint(grey), "", digest_of(pixels), blocks, ctime_ns)
    except ImageError as error:
        return Examined(md5, _NOTHING, problem=str(error))


def digest_of(pixels: Pixels) -> str:
    """What every image of these pixels has, and by chance no other one: (H, W, 3).

    No secret depends on it, and a cryptographic digest takes ten times as long.
    """
    found = xxhash.xxh3_128(f"{pixels.shape}".encode())
    found.update(np.ascontiguousarray(pixels).data)
    return str(found.hexdigest())


def fingerprint(grey: Image.Image) -> int:
    """The perceptual hash of a grey image: few bits change when it is scaled or compressed anew.

    Of a discrete cosine transform of the image at 32 x 32, which of the slowest waves are stronger than half of them.

    Source: the pHash of the imagehash package, but for its rounding of the scaled image to whole greys.
    """
    least = max(1, min(grey.size) // (4 * _SIDE))  # averaging first is faster than a long kernel
    wide, high = (max(least, side // _LONG) for side in grey.size)
    pixels = np.asarray(grey.reduce((wide, high)), np.float64)
    waves = _waves(pixels.shape[0]) @ pixels @ _waves(pixels.shape[1]).T
    bits = waves > statistics.median(waves.ravel().tolist())
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


@lru_cache(maxsize=256)
def _waves(side: int) -> NDArray[np.float64]:
    """Scales `side` pixels to 32 by Lanczos' kernel and takes their slowest cosines: (8, side).

    As whole numbers they add up exactly, so that no machine finds other bits.
    """
    step = side / _SIDE
    away = (np.arange(side) + 0.5 - (np.arange(_SIDE)[:, None] + 0.5) * step) / max(step, 1)
    kernel = np.where(abs(away) < _LOBES, np.sinc(away) * np.sinc(away / _LOBES), 0)
    cosines = np.cos(np.outer(np.arange(_WAVES), np.arange(1, 2 * _SIDE, 2)) * np.pi / (2 * _SIDE))
    found: NDArray[np.float64] = np.rint(_SCALE * cosines @ (kernel / kernel.sum(axis=1, keepdims=True)))
    return found
