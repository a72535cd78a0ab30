"""What the random pipelines made, kept in shards, so that several processes can make it and training only reads.

A shard is a file of bytes (pipelines, PATCHES, 3, SIDE, SIDE). It depends on its number and the photographs alone: not
on how many processes there are, nor on how often they were stopped.
"""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lorax.storage import write_whole
from scripts.pretraining.photographs import Photos
from scripts.pretraining.pipelines import MARGIN, draw

SHARD = 25
"""Pipelines in a file."""

PATCHES, SIDE = 48, 112
"""Of each pipeline; pixels."""

_AT_ONCE = 16
_SEEDS_OF_PATCHES = 10**6
"""Above those of pipelines, which count from 0."""


def shards(folder: Path, pipelines: int) -> list[Path]:
    """The files that so many pipelines take."""
    return [folder / f"{first:05d}.npy" for first in range(0, pipelines, SHARD)]


def make(photographs: Path, folder: Path, pipelines: int, processes: int, on_made: Callable[[int, int], None]) -> None:
    """Make the shards that are not there yet, or too short.

    Args:
        photographs: where `make real` put its things.
        folder: of the shards.
        pipelines: how many pipelines, their seeds counting from 0.
        processes: how many work at it, one thread each.
        on_made: told how many shards are there, of how many.

    Raises:
        MissingError: there are no photographs.
    """
    wanted = shards(folder, pipelines)
    lacking = [
        path for path in wanted if not path.exists() or len(np.load(path, mmap_mode="r")) < _size(path, pipelines)
    ]
    if not lacking:
        return
    Photos(photographs)  # that there are none is said here, and not by each process
    work = partial(_make_shard, photographs, pipelines)
    context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
    with ProcessPoolExecutor(min(processes, len(lacking)), context, torch.set_num_threads, (1,)) as pool:
        for done, _ in enumerate(pool.map(work, lacking), len(wanted) - len(lacking) + 1):
            on_made(done, len(wanted))


def _size(path: Path, pipelines: int) -> int:
    """How many pipelines a shard has, where there are so many in all."""
    return min(SHARD, pipelines - int(path.stem))


def _make_shard(photographs: Path, pipelines: int, path: Path) -> None:
    photos, first = Photos(photographs), int(path.stem)
    rng = np.random.default_rng(first + _SEEDS_OF_PATCHES)
    torch.set_flush_denormal(True)  # networks that were hardly trained are full of them
    made = [_made(seed, photos, rng) for seed in range(first, first + _size(path, pipelines))]
    file = io.BytesIO()
    np.save(file, np.stack(made))
    write_whole(path, file.getbuffer())


def _made(seed: int, photos: Photos, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What one pipeline makes of patches, (PATCHES, 3, SIDE, SIDE)."""
    pipeline = draw(seed, lambda count, side: photos.patches(rng, count, side).float())
    parts = [pipeline(photos.patches(rng, _AT_ONCE, SIDE + 2 * MARGIN)) for _ in range(PATCHES // _AT_ONCE)]
    return torch.cat(parts).numpy()


class Bank:
    """The shards, read through memory maps."""

    def __init__(self, folder: Path, pipelines: int) -> None:
        self.pipelines = pipelines
        self._shards = [np.load(path, mmap_mode="r") for path in shards(folder, pipelines)]

    def patch(self, pipeline: int, rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
        """A random crop (3, side, side) of a random patch that the pipeline made."""
        made = self._shards[pipeline // SHARD][pipeline % SHARD]
        top, left = rng.integers(SIDE - side + 1, size=2)
        crop: NDArray[np.uint8] = made[rng.integers(PATCHES), :, top : top + side, left : left + side]
        return crop
