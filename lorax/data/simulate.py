"""The mini-CDDB: five simulated generators over photo patches, in CDDB's layout, the same bytes on every machine.

A simulated generator re-synthesises a photo patch and leaves a trace that real decoders leave too. Real images are
patches of the same photos; both go through the same cropping and the same file format, so that nothing but the trace
tells them apart. Train patches come from the left half of each photo and val patches from the right half, and no patch
is used twice. docs/photos.md names the photos and their licences, docs/backbone.md says how the traces were chosen.

Everything is integer arithmetic on seeded 64-bit words, and the format is uncompressed: no floating point, no library's
encoder and no version of one decides a byte.

Source: the idea of simulating a decoder's artefacts is Zhang, Karaman and Chang's (arXiv 1907.06515).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lorax.data.generators import GENERATORS, SIDE
from lorax.data.images import Progress
from lorax.data.pixels import Pixels
from lorax.errors import LayoutError
from lorax.extras import extra
from lorax.storage import whole_directory

DEMO_TASKS = tuple(GENERATORS)
"""The tasks of the mini-CDDB in stream order, named after the trace that their generator leaves."""

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "ihc.png")
"""Colour photos that scikit-image ships, all losslessly compressed, so that decoding is exact."""

_LEAST_VARIANCE = 64  # of a patch's grey levels, squared; flatter patches show no trace worth learning


def simulate(
    root: Path, *, seed: int = 0, train_per_class: int = 150, val_per_class: int = 80, progress: Progress | None = None
) -> list[str]:
    """Write the mini-CDDB: `<root>/<task>/{train,val}/{0_real,1_fake}/*.bmp`, whole or not at all.

    Args:
        root: a folder that doesn't exist yet, or is empty.
        seed: decides which patches are cut; the generators stay the same.
        train_per_class, val_per_class: images of each class, of each task.
        progress: told each finished class folder.

    Returns:
        The tasks' names in stream order.

    Raises:
        LayoutError: `root` holds something already.
        ExtraError: scikit-image is not installed.
        StorageError: the disk is full or refuses to be written.
    """
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise LayoutError(
            f"{root} is not empty; the simulated data set is written whole, into a new folder. Name another, or "
            "remove this one."
        )
    total = len(DEMO_TASKS) * 4
    seen: set[bytes] = set()
    with whole_directory(root) as draft:
        for split, count in (("train", train_per_class), ("val", val_per_class)):
            patches = cut_patches(split, seed)
            for index, task in enumerate(DEMO_TASKS):
                for number, name in enumerate(("0_real", "1_fake")):
                    generator = GENERATORS[task] if number else np.asarray
                    _write(draft / task / split / name, patches, generator, count, seen)
                    if progress:
                        done = (split == "val") * total // 2 + 2 * index + number + 1
                        progress(done, total, f"{task}/{split}/{name}")
    return list(DEMO_TASKS)


def cut_patches(split: str, seed: int) -> Iterator[Pixels]:
    """Patches (SIDE, SIDE, 3) of the split's regions, without end; places are drawn at random and never twice."""
    region = {"train": train_region, "val": val_region}[split]
    regions = [region(open_photo(name)) for name in PHOTOS]
    words = np.random.PCG64(np.random.SeedSequence([seed, split == "val"]))
    used: set[tuple[int, int, int]] = set()
    while True:
        which, high, across = (int(word) for word in words.random_raw(3))
        photo = regions[which % len(regions)]
        place = (which % len(regions), high % (photo.shape[0] - SIDE + 1), across % (photo.shape[1] - SIDE + 1))
        patch = photo[place[1] : place[1] + SIDE, place[2] : place[2] + SIDE]
        if place in used or _variance(patch) < _LEAST_VARIANCE:
            continue
        used.add(place)
        yield patch


def open_photo(name: str) -> Pixels:
    """A photo that scikit-image or scikit-learn ships, (H, W, 3).

    Raises:
        ExtraError: scikit-image is not installed.
    """
    with extra("demo", "the simulation"):
        folder = files("skimage") / "data"
    if not (folder / name).is_file():
        folder = files("sklearn") / "datasets" / "images"
    with (folder / name).open("rb") as file, Image.open(file, formats=("PNG", "JPEG")) as image:
        return np.asarray(image.convert("RGB"))


def train_region(photo: Pixels) -> Pixels:
    """The left half of a photo."""
    return photo[:, : photo.shape[1] // 2]


def val_region(photo: Pixels) -> Pixels:
    """The right half of a photo."""
    return photo[:, photo.shape[1] // 2 :]


def _variance(patch: Pixels) -> int:
    values = patch.astype(np.int64)
    return int(values.size * (values**2).sum() - values.sum() ** 2) // values.size**2


def _write(
    folder: Path, patches: Iterator[Pixels], generator: Callable[..., NDArray[np.int64]], count: int, seen: set[bytes]
) -> None:
    """Write `count` images of one class; an image whose pixels were written before is replaced by the next."""
    folder.mkdir(parents=True)
    written = 0
    while written < count:
        image = generator(next(patches).astype(np.int64)).clip(0, 255).astype(np.uint8)
        digest = hashlib.sha256(image.tobytes()).digest()
        if digest in seen:
            continue
        seen.add(digest)
        Image.fromarray(image).save(folder / f"{written:04d}.bmp", format="BMP")
        written += 1
