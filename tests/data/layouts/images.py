"""Small images, no two alike, and trees of them."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

_numbers = count(1000)  # seeds that no other images have


def begin_anew() -> None:
    """Have the next image be the first again: real ones are dealt by content, which must not depend on other tests."""
    global _numbers
    _numbers = count(1000)


def image(kind: str = "png") -> bytes:
    """An image that was not there before in the same test."""
    pixels = np.random.default_rng(next(_numbers)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "jpeg"}.get(kind, kind))
    return file.getvalue()


def write_tree(root: Path, folders: Mapping[str, int], kind: str = "png", begin: int = 0) -> Path:
    """Write so many images to each folder."""
    for folder, images in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(begin, begin + images):
            (root / folder / f"{number:03d}.{kind}").write_bytes(image(kind))
    return root


def pack(folder: Path, archive: Path, top: str = "") -> Path:
    """Put a folder's files into a zip archive, below `top` in it, and remove them where they were."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*.*")):
            packed.write(path, Path(top) / path.relative_to(folder))
    shutil.rmtree(folder)
    return archive
