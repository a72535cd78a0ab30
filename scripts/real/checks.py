"""What every task must be before it is put in place: right pictures, unshifted, and matched in content."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.real.manifest import Row
from scripts.real.patches import PATCH, Master

_LOOKED_AT = 40  # images whose shift is measured


class CheckError(ValueError):
    """A task came out wrong."""


def check(draft: Path, rows: list[Row], masters: dict[str, Master]) -> None:
    """Check a whole task.

    Args:
        draft: the folder that `rows` name files of.
        rows: all images of the task.
        masters: the photographs by name.

    Raises:
        CheckError: a picture is of another size or kind, fakes are shifted against their photographs, the classes
            differ in content, or a photograph gives reals and fakes, or images of two splits.
    """
    for row in rows:
        with Image.open(draft / row.file) as image:
            if (image.size, image.mode, image.format) != ((PATCH, PATCH), "RGB", "PNG"):
                raise CheckError(f"{row.file} is {image.size} {image.mode} {image.format}, not {PATCH} px RGB PNG")
    check_content(rows)
    shift = best_shift(draft, [row for row in rows if row.package][:_LOOKED_AT], masters)
    if shift != (0, 0):
        raise CheckError(f"fakes are shifted by {shift} pixels against their photographs")


def check_content(rows: list[Row]) -> None:
    """Reals and fakes of each split have the same activity, and share no photograph with others.

    Raises:
        CheckError: they have not, or do.
    """
    for folder, split in sorted({(row.file.split("/")[0], row.split) for row in rows}):
        own = [row for row in rows if row.split == split and row.file.startswith(f"{folder}/")]
        classes = [Counter(r.activity_class for r in own if r.kind == kind) for kind in ("0_real", "1_fake")]
        if classes[0] != classes[1]:
            raise CheckError(f"{folder} {split}: reals and fakes differ in activity: {classes[0]} and {classes[1]}")
    homes: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        side = "train" if row.split == "train" else row.file.split("/")[0] + " val"
        homes.setdefault(row.photograph, set()).add((side, row.kind))
    shared = sorted(name for name, found in homes.items() if len(found) > 1)
    if shared:
        raise CheckError(f"photographs are used twice: {', '.join(shared)}")


def best_shift(draft: Path, rows: list[Row], masters: dict[str, Master]) -> tuple[int, int]:
    """The shift (down, right) of at most one pixel at which the fakes' edges fit their photographs' best."""
    fit: defaultdict[tuple[int, int], float] = defaultdict(float)
    for row in rows:
        photograph = masters[row.photograph].pixels[row.y : row.y + PATCH, row.x : row.x + PATCH]
        fake = _edges(np.asarray(Image.open(draft / row.file)))
        for down, right in itertools.product((-1, 0, 1), repeat=2):
            moved = np.roll(_edges(photograph), (down, right), (0, 1))
            fit[down, right] += float(np.corrcoef(fake[2:-2, 2:-2].ravel(), moved[2:-2, 2:-2].ravel())[0, 1])
    return max(fit, key=lambda shift: fit[shift]) if fit else (0, 0)


def _edges(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W): size of the grey level's gradient."""
    down, right = np.gradient(pixels.astype(float).mean(2))
    size: NDArray[np.float64] = np.hypot(down, right)
    return size
