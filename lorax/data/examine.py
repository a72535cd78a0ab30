"""What landing wants to know of an image file, from one read of its bytes."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from lorax.data.colour import is_plain, to_rgb
from lorax.data.container import Container, container_of
from lorax.data.grid import Blocks, blocks_of
from lorax.data.images import Progress, in_threads, opened, read
from lorax.data.pixels import Pixels
from lorax.errors import ImageError

_SIDE, _WAVES = 32, 8  # of the image that the perceptual hash is taken of, and of its slowest waves, which it says
_COSINES = np.rint(2**20 * np.cos(np.outer(np.arange(_WAVES), np.arange(1, 2 * _SIDE, 2)) * np.pi / (2 * _SIDE)))
"""Of a discrete cosine transform. As whole numbers they add up exactly, so that no machine finds other bits."""


@dataclass(frozen=True)
class Examined:
    """One file: the md5 of its bytes, its container, 64-bit perceptual hash, and what tells its pixels from others.

    Or what is wrong with it, in `problem`. `pixels` is a digest of the decoded image: files with the same one hold the
    same picture, however they store it. `blocks` says how much of JPEG's grid they show. `ctime_ns` is when the file
    was last changed, before it was read: unlike its time of modification, nobody can set it.
    """

    md5: str
    container: Container
    fingerprint: int = 0
    problem: str = ""
    pixels: str = ""
    blocks: Blocks = (0.0, 0.0)
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
    found = in_threads(lambda item: examine(item[1], item[0]), list(paths.items()), progress, "checking images")
    return dict(zip(paths, found, strict=True))


def examine(path: Path, name: str) -> Examined:
    """Read, hash and decode a file; `name` is what its problem calls it."""
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
            blocks = blocks_of(np.asarray(grey))
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

    Source: the pHash of the imagehash package, whose bits these are.
    """
    factor = max(1, min(grey.size) // (2 * _SIDE))  # averaging first is much faster than one long-kernel scaling
    small = grey.reduce(factor).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    waves = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T
    bits = waves > statistics.median(waves.ravel().tolist())
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
