"""What landing wants to know of an image file, from one read of its bytes."""

from __future__ import annotations

import hashlib
import os
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image

from lorax.data.colour import to_rgb
from lorax.data.container import Container, container_of
from lorax.data.grid import Blocks, blocks_of
from lorax.data.images import Progress, in_threads, opened, read
from lorax.data.pixels import Pixels
from lorax.errors import ImageError

_MANY = 5000  # files for which it pays to start processes, a second or two
_AT_ONCE = 64  # files that a process gets at once
_MOST = 8  # processes
_IDLE_S = 10  # after which a process that has nothing to do ends
_FREED = 2**24
"""Bytes: glibc keeps, of what is freed, twice the most that was had at a time; else every image has pages anew."""

_SIDE, _WAVES = 32, 8  # of the image that the perceptual hash is taken of, and of its slowest waves, which it says
_COSINES = np.rint(2**20 * np.cos(np.outer(np.arange(_WAVES), np.arange(1, 2 * _SIDE, 2)) * np.pi / (2 * _SIDE)))
"""Of a discrete cosine transform. As whole numbers they add up exactly, so that no machine finds other bits."""


@dataclass(frozen=True)
class Examined:
    """One file: the md5 of its bytes, its container, 64-bit perceptual hash, and what tells its pixels from others.

    Or what is wrong with it, in `problem`. `pixels` is a digest of the decoded image: files with the same one hold the
    same picture, however they store it. `blocks` says how much of JPEG's grid they show. `mtime_ns` is when the file
    was last written to, before it was read.
    """

    md5: str
    container: Container
    fingerprint: int = 0
    problem: str = ""
    pixels: str = ""
    blocks: Blocks = (0.0, 0.0)
    mtime_ns: int = 0

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
    items, what = list(paths.items()), "checking images"
    if len(items) >= _MANY and (os.cpu_count() or 1) > 1:
        found = examine_in_processes(items, progress, what)
    else:
        found = in_threads(lambda item: examine(item[1], item[0]), items, progress, what)
    return dict(zip(paths, found, strict=True))


def examine_in_processes(items: Sequence[tuple[str, Path]], progress: Progress | None, what: str) -> list[Examined]:
    """`examine` of each (name, path), in order; half of it holds Python's lock, so that threads leave cores idle.

    Where a process died, each of the next few is tried alone, so that only the file fails that it died of.
    """
    from joblib.externals.loky import get_reusable_executor

    found: list[Examined] = []
    containers: dict[Container, Container] = {}  # few differ, and each image would bring its own JPEG tables
    while len(found) < len(items):
        try:
            with closing(_answers(items[len(found) :])) as answers:
                for one in answers:
                    found.append(replace(one, container=containers.setdefault(one.container, one.container)))
                    if progress is not None:
                        progress(len(found), len(items), what)
        except BrokenProcessPool:
            found += [_alone(item) for item in items[len(found) :][:_AT_ONCE]]
    get_reusable_executor().shutdown()  # what they hold is wanted for the checks
    return found


def examine(path: Path, name: str) -> Examined:
    """Read, hash and decode a file; `name` is what its problem calls it."""
    md5, mtime_ns = "", 0
    with suppress(OSError):  # which reading tells
        mtime_ns = path.stat().st_mtime_ns
    try:
        data = read(path)
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with opened(data, name) as image:
            pixels = np.asarray(image) if _is_plain(image) else to_rgb(image)
            container = container_of(image, pixels, data)
            grey = (image if _is_plain(image) else Image.fromarray(pixels)).convert("L")
            blocks = blocks_of(np.asarray(grey))
            return Examined(md5, container, fingerprint(grey), "", digest_of(pixels), blocks, mtime_ns)
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

    Source: the pHash of the imagehash package; scaled by triangles, which is faster and changes no more bits.
    """
    factor = max(1, min(grey.size) // (2 * _SIDE))  # averaging first is much faster than one long-kernel scaling
    small = grey.reduce(factor).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    waves = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T
    bits = waves > statistics.median(waves.ravel().tolist())
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _is_plain(image: Image.Image) -> bool:
    """Whether its pixels are 8-bit RGB already, as nearly all are; spares copies."""
    return image.mode == "RGB" and "transparency" not in image.info


def _answers(items: Sequence[tuple[str, Path]]) -> Generator[Examined, None, None]:
    """What processes say of files, in order; joblib's run no script's `__main__` again, as the standard library's do.

    Raises:
        BrokenProcessPool: one died.
    """
    from joblib import Parallel, delayed

    count = max(2, min(_MOST, os.cpu_count() or 1))  # one is no process at all
    settings = {"initializer": _begin, "initargs": (os.getpid(),), "idle_worker_timeout": _IDLE_S}
    parallel = Parallel(count, batch_size=1, return_as="generator", max_nbytes=None, **settings)
    parts = (items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE))
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of what was not waited for, after Ctrl-C
        for part in parallel(delayed(_each)(examine, [(name, str(path)) for name, path in part]) for part in parts):
            yield from part


def _each(examine: Callable[[Path, str], Examined], items: Sequence[tuple[str, str]]) -> list[Examined]:
    return [examine(Path(path), name) for name, path in items]


def _alone(item: tuple[str, Path]) -> Examined:
    """What a process says of one file, or that it died of it."""
    try:
        [found] = _answers([item])
        return found
    except BrokenProcessPool:
        why = "the process that tried it died, of the image or for lack of memory"
        return Examined("", _NOTHING, problem=f"{item[0]} can't be decoded: {why}.")


def _begin(parent: int) -> None:
    """In a process: be silent, as decoders are not, and end with who asked, even when that is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    bytes(_FREED)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=watch, daemon=True).start()
