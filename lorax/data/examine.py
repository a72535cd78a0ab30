"""What landing wants to know of an image file, from one read of its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lorax.data.colour import to_rgb
from lorax.data.images import Progress, in_threads, opened, read
from lorax.errors import ImageError

_MANY = 5000  # files for which it pays to start processes, about a second
_LEAST_SIDE = 64  # what the perceptual hash is taken of; twice the size that it scales to itself


@dataclass(frozen=True)
class Container:
    """How an image is stored, which must not tell what it shows.

    `tables` are a JPEG's quantisation tables, one after the other.
    """

    format: str
    mode: str
    width: int
    height: int
    tables: tuple[int, ...] = ()


@dataclass(frozen=True)
class Examined:
    """One file: the md5 of its bytes, its container and 64-bit perceptual hash, or what is wrong with it."""

    md5: str
    container: Container
    fingerprint: int = 0
    problem: str = ""


_NOTHING = Container("", "", 0, 0)


def examine_all(paths: Mapping[str, Path], progress: Progress | None = None) -> dict[str, Examined]:
    """Read, hash and decode every file once.

    Args:
        paths: name to report -> file.
        progress: told after each.
    """
    items, what = list(paths.items()), "checking images"
    if len(items) >= _MANY and (os.cpu_count() or 1) > 1:
        from lorax.data.examiner import examine_in_processes

        found = examine_in_processes(items, progress, what)
    else:
        import imagehash  # noqa: F401  # once, before the threads ask for it

        found = in_threads(lambda item: examine(item[1], item[0]), items, progress, what)
    return dict(zip(paths, found, strict=True))


def examine(path: Path, name: str) -> Examined:
    """Read, hash and decode a file; `name` is what its problem calls it."""
    md5 = ""
    try:
        data = read(path)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with opened(data, name) as image:
            container = _container(image)
            return Examined(md5, container, fingerprint(image))
    except ImageError as error:
        return Examined(md5, _NOTHING, problem=str(error))


def fingerprint(image: Image.Image) -> int:
    """The perceptual hash of an opened image: few bits change when it is scaled or compressed anew.

    Source: the pHash of the imagehash package, a discrete cosine transform of the image at 32 x 32.
    """
    import imagehash

    is_plain = image.mode == "RGB" and "transparency" not in image.info  # nearly all are; spares two copies
    grey = (image if is_plain else Image.fromarray(to_rgb(image))).convert("L")
    factor = max(1, min(grey.size) // _LEAST_SIDE)  # averaging first is much faster than one long-kernel scaling
    bits = imagehash.phash(grey.reduce(factor)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _container(image: Image.Image) -> Container:
    quantisation = getattr(image, "quantization", None) or {}  # only JPEGs have any
    tables = tuple(value for number in sorted(quantisation) for value in quantisation[number])
    return Container(image.format or "", image.mode, image.width, image.height, tables)
