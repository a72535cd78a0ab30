"""Image files to pixels, and sets of decoded images from which crops are cut.

What colours become is told in `lorax.data.colour`. An image smaller than the crop is continued by reflection, as often
as it takes, around its centre.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from lorax.data.colour import loaded, to_rgb
from lorax.data.perturbations import UNCHANGED, Perturbation
from lorax.data.pixels import DeviceImages, Pixels, mapped
from lorax.data.png import without_notes
from lorax.errors import DataVersionError, ImageError
from lorax.stream import Sample

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, what)."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")
"""What is decoded, whatever a file is called and by whichever way it comes. Pillow knows more, among them EPS, which it
hands to Ghostscript."""


def decode(path: Path) -> Pixels:
    """The pixels of an image file, (H, W, 3).

    Raises:
        ImageError: the file can't be read, is no image that Pillow knows, is damaged, or is too large to be honest.
    """
    return decode_bytes(read(path), str(path))


def decode_bytes(data: bytes, name: str) -> Pixels:
    """The pixels of an encoded image, (H, W, 3); `name` is what an error calls it.

    Raises:
        ImageError: as for `decode`.
    """
    with opened(data, name) as image:
        return to_rgb(image)


@contextmanager
def opened(data: bytes, name: str) -> Iterator[Image.Image]:
    """The decoded image, pixels as stored; what goes wrong inside the block is the image's fault, too.

    Raises:
        ImageError: as for `decode`.
    """
    if not data:
        raise ImageError(f"{name} can't be decoded: it is empty. Copy or fetch it again.")
    try:
        data = without_notes(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise _too_many_pixels(name, f"{image.width} x {image.height}")
            yield loaded(image, data)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name, "far too many") from error
    except UnidentifiedImageError as error:  # its own text holds a memory address
        raise ImageError(
            f"{name} can't be decoded: it is none of {', '.join(FORMATS)}, or of a kind that Pillow does not know. "
            "Save it as PNG."
        ) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise ImageError(f"{name} can't be decoded: {what_is_wrong(error)}.") from error


def what_is_wrong(error: Exception) -> str:
    """With a file that Pillow failed at, for people; Pillow's own words name its insides."""
    if isinstance(error, MemoryError):
        return "there is too little memory for it"
    is_short = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return "it breaks off before its end" if is_short else "it is damaged"


def _too_many_pixels(name: str, found: str) -> ImageError:
    return ImageError(
        f"{name} claims {found} pixels; more than {Image.MAX_IMAGE_PIXELS} are refused, since a small file that "
        "unpacks to so many is likely an attack. Scale it down first."
    )


def in_threads(
    function: Callable[[_In], _Out], items: Sequence[_In], progress: Progress | None, what: str
) -> list[_Out]:
    """`function` of each item, in order, computed by a few threads (Pillow and hashlib let go of Python's lock)."""
    results: list[_Out] = []
    threads = min(8, os.cpu_count() or 1)
    step = max(1, min(_HANDED_OVER, len(items) // (4 * threads)))
    parts = [items[start : start + step] for start in range(0, len(items), step)]
    pool = ThreadPoolExecutor(threads)
    try:
        for part in pool.map(lambda part: [function(item) for item in part], parts):
            for result in part:
                results.append(result)
                if progress is not None:
                    progress(len(results), len(items), what)
    finally:
        pool.shutdown(cancel_futures=True)  # at an error or Ctrl-C, don't work through what is still queued
    return results


_HANDED_OVER = 64
"""Items that a thread gets at once, at most: to hand over each alone takes time and memory."""

_DECODED_AT_ONCE = 32

_IN_MEMORY = 2 * 2**30
"""Bytes of decoded images that a set holds in memory; what goes beyond lies in a file without a name."""


class Images:
    """Decoded images of N samples, kept as bytes and each at least crop by crop pixels, to cut crops from."""

    def __init__(self, samples: Sequence[Sample], pixels: Sequence[Pixels], crop: int) -> None:
        self.samples = tuple(samples)
        self.crop = crop
        self._pixels = [pad(image, crop) for image in pixels]
        self._on_device: DeviceImages | None = None
        self._room = np.array([[p.shape[0] - crop, p.shape[1] - crop] for p in self._pixels], np.int64).reshape(-1, 2)

    @classmethod
    def load(
        cls,
        samples: Sequence[Sample],
        paths: Mapping[str, Path],
        crop: int,
        progress: Progress | None = None,
        *,
        center_only: bool = False,
        looks: Mapping[str, Sequence[Perturbation]] | None = None,
        overflow: Path | None = None,
        in_memory: int = _IN_MEMORY,
    ) -> Images:
        """Read and decode the images of `samples`, each once.

        Args:
            samples: what to read, in this order.
            paths: md5 -> file.
            crop: side of the square crops, pixels.
            progress: told after each image.
            center_only: keep only the centre crop of each image, for sets that are only evaluated.
            looks: md5 -> in which forms that image is wanted; None: as it is. The first form of every image comes in
                the place of the image. The others come behind the N of them, in their order, each only a crop, drawn
                from its name alone, since whole images would take up a multiple of the disk. A perturbed image is a
                sample with an md5 of its own (see `Perturbation.renamed`).
            overflow: directory for the decoded images that `in_memory` bytes have no room for; they are mapped into
                memory from there, and gone with this object. None: all are held in memory.
            in_memory: see `overflow`.

        Raises:
            DataVersionError: a file's bytes are not the ones that its md5 names.
            ImageError: a file can't be decoded.
            StorageError: `overflow` is on a full disk.
        """

        def load_one(sample: Sample) -> list[Pixels]:
            image = decode_bytes(_read_checked(sample, paths[sample.md5]), sample.path)
            first, *others = (pad(change.apply(image), crop) for change in wanted[sample.md5])
            names = (_name_of_cut(sample.md5, change) for change in wanted[sample.md5][1:])
            cuts = [_random_crop(pixels, crop, name) for pixels, name in zip(others, names, strict=True)]
            return [_center_crop(first, crop) if center_only else first, *cuts]

        wanted = looks or {sample.md5: (UNCHANGED,) for sample in samples}
        pixels: list[Pixels] = []
        entries = [(place, s, change) for s in samples for place, change in enumerate(wanted[s.md5])]
        for start in range(0, len(samples), _DECODED_AT_ONCE):
            part, held = samples[start : start + _DECODED_AT_ONCE], len(pixels)
            told = None if progress is None else partial(_told, progress, start, len(samples))
            pixels += chain.from_iterable(in_threads(load_one, part, told, "reading images"))
            in_memory -= sum(image.nbytes for image in pixels[held:])
            if in_memory < 0 and overflow is not None:
                pixels[held:] = mapped(pixels[held:], overflow)
        order = sorted(range(len(entries)), key=lambda i: entries[i][0] > 0)
        named = [
            replace(s, md5=_name_of_cut(s.md5, change) if place else change.renamed(s.md5))
            for place, s, change in entries
        ]
        return cls([named[i] for i in order], [pixels[i] for i in order], crop)

    def __len__(self) -> int:
        return len(self.samples)

    def offsets(self, views: int, seed: int) -> NDArray[np.int64]:
        """Top left corners of random crops, (N, V, 2).

        Drawn for each image from (seed, md5, view) alone, so that they don't depend on what else is in the set.
        """
        drawn = [_draw(sample.md5, view, seed) for sample in self.samples for view in range(views)]
        fractions = np.array(drawn, dtype=np.int64).reshape(len(self), views, 2)
        corners: NDArray[np.int64] = (fractions * (self._room[:, None, :] + 1)) >> 32
        return corners

    def center(self) -> NDArray[np.int64]:
        """Top left corners of the centre crops, (N, 1, 2)."""
        corners: NDArray[np.int64] = (self._room // 2)[:, None, :]
        return corners

    def to(self, device: torch.device) -> None:
        """Cut crops on this device from now on; on a GPU only where half of its free memory holds all images."""
        import torch

        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2**63
        if sum(image.nbytes for image in self._pixels) * 2 < free:
            self._on_device = DeviceImages(self._pixels, self.crop, device)

    def batch(self, indices: Sequence[int] | NDArray[np.int64], offsets: NDArray[np.int64]) -> torch.Tensor:
        """The crops of images `indices` (n) at `offsets` (n, 2): (n, 3, crop, crop), uint8."""
        import torch  # 1.4 s; landing, which also decodes images, does without

        if self._on_device is not None:
            return self._on_device.batch(np.asarray(indices), offsets)
        crops = np.empty((len(indices), self.crop, self.crop, 3), np.uint8)
        for row, (index, (top, left)) in enumerate(zip(indices, offsets, strict=True)):
            crops[row] = self._pixels[index][top : top + self.crop, left : left + self.crop]
        return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()


def pad(pixels: Pixels, crop: int) -> Pixels:
    """`pixels` (H, W, 3), continued by repeated reflection to at least crop by crop, the original centred."""
    missing = [max(0, crop - side) for side in pixels.shape[:2]]
    if not any(missing):
        return pixels
    return np.pad(pixels, [*((m // 2, m - m // 2) for m in missing), (0, 0)], mode="reflect")


def _center_crop(pixels: Pixels, crop: int) -> Pixels:
    top, left = ((side - crop) // 2 for side in pixels.shape[:2])
    return pixels[top : top + crop, left : left + crop].copy()  # a view would keep the whole image


def _random_crop(pixels: Pixels, crop: int, name: str) -> Pixels:
    top, left = ((part * (side - crop + 1)) >> 32 for part, side in zip(_draw(name, 0, 0), pixels.shape, strict=False))
    return pixels[top : top + crop, left : left + crop].copy()


def _name_of_cut(md5: str, change: Perturbation) -> str:
    """Of a perturbed image of which only a crop is kept; the whole one's crops have other names."""
    return change.renamed(f"{md5}/cut")


def _read_checked(sample: Sample, path: Path) -> bytes:
    data = read(path)
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != sample.md5:
        raise DataVersionError(
            f"{path} is damaged: its md5 is {found}, but {sample.path} is pinned as {sample.md5}. "
            "Remove the file and fetch it again with 'dvc pull', or land the task's images again."
        )
    return data


def _told(progress: Progress, before: int, total: int, done: int, _: int, what: str) -> None:
    """A part's progress as the whole's."""
    progress(before + done, total, what)


def _draw(md5: str, view: int, seed: int) -> tuple[int, int]:
    """Two numbers below 2**32."""
    drawn = hashlib.blake2b(f"{seed}/{md5}/{view}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn[:4], "big"), int.from_bytes(drawn[4:], "big")


def read(path: Path) -> bytes:
    """The bytes of an image file.

    Raises:
        ImageError: the file can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} can't be read: {error.strerror}.") from error
