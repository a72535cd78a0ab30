"""The mini-CDDB's simulated generators: what each leaves in a patch, in integer arithmetic only.

Each takes a patch (64, 64, 3) of int64 in 0..255 and gives the re-synthesised one; the caller clips to 0..255.
Their constants are drawn once from `_words`, so a generator is the same on every machine and in every data set.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
SIDE = 64


def _words(name: str, shape: tuple[int, ...], least: int, most: int) -> Ints:
    """Whole numbers from `least` to `most`, drawn from `name` alone."""
    bits = np.random.PCG64(np.random.SeedSequence(list(name.encode())))
    raw = bits.random_raw(int(np.prod(shape))) % np.uint64(most - least + 1)
    return raw.astype(np.int64).reshape(shape) + least


def _tiled(pattern: Ints) -> Ints:
    """A pattern (P, P, 3) repeated over the patch."""
    times = SIDE // pattern.shape[0]
    return np.tile(pattern, (times, times, 1))


def checkerboard(patch: Ints) -> Ints:
    """A transposed convolution whose kernel overlaps unevenly: three sixteenths of it over the patch.

    Source: Odena et al., Deconvolution and Checkerboard Artifacts (Distill, 2016).
    """
    half = (patch[0::2, 0::2] + patch[1::2, 0::2] + patch[0::2, 1::2] + patch[1::2, 1::2] + 2) // 4
    spread = np.zeros_like(patch)
    spread[0::2, 0::2] = half
    kernel = np.outer([1, 2, 1], [1, 2, 1]) * 16 + _words("checkerboard", (3, 3), -5, 5)
    padded = np.pad(spread, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    decoded = sum(kernel[i, j] * padded[i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)) >> 6
    blended: Ints = (13 * patch + 3 * np.clip(decoded, 0, 255) + 8) >> 4
    return blended


def subpixel(patch: Ints) -> Ints:
    """Pixel shuffle: each of the 4 x 4 phases comes from a channel of its own, with its own gain and offset."""
    gain = _tiled(_words("subpixel gain", (4, 4, 3), -8, 8))
    offset = _tiled(_words("subpixel offset", (4, 4, 3), -8, 8))
    return (patch * (256 + gain) + 64 * offset + 128) >> 8


def fingerprint(patch: Ints) -> Ints:
    """A weak fixed pattern over the whole image, the same in every image of the generator.

    Source: Marra et al., Do GANs Leave Artificial Fingerprints? (arXiv 1812.11842).
    """
    return patch + _words("fingerprint", (SIDE, SIDE, 3), -5, 5)


def tiles(patch: Ints) -> Ints:
    """Tiles of 16 x 16 made one by one: brightness drifts at each tile's edges, so that seams show."""
    drift = np.zeros(16, np.int64)
    drift[:2], drift[-2:] = (-16, -8), (8, 16)
    seams: Ints = drift[:, None] + drift
    return patch + _tiled(seams[..., None])


def ripple(patch: Ints) -> Ints:
    """A position code that leaks into the colours as a faint diagonal wave, green against red and blue."""
    row, column = np.mgrid[:SIDE, :SIDE]
    height = np.abs((7 * row + 3 * column) % 64 - 32) - 16
    wave: Ints = (height * 7) // 16
    signed: Ints = wave[..., None] * np.array([1, -1, 1])
    return patch + signed


GENERATORS: dict[str, Callable[[Ints], Ints]] = {
    "subpixel": subpixel,
    "tiles": tiles,
    "fingerprint": fingerprint,
    "ripple": ripple,
    "checkerboard": checkerboard,
}
"""A generator for each task, in stream order."""
