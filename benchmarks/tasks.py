"""Tasks for benchmarks: image files on disk in CDDB's layout, read as tasks without DVC."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from lorax.data.layout import list_files, parse_task
from lorax.stream import Sample, Task

CLASSES = ("0_real", "1_fake")


@dataclass
class TaskFiles:
    """Tasks that were read, and where their files lie."""

    tasks: list[Task] = field(default_factory=list)
    paths: dict[str, Path] = field(default_factory=dict)

    def fetch(self, samples: Iterable[Sample]) -> Mapping[str, Path]:
        return {sample.md5: self.paths[sample.md5] for sample in samples}

    def read(self, folder: Path) -> Task:
        """Add the task whose train/ and val/ lie in `folder`; it is named after the folder."""
        files = {}
        for path in list_files(folder):
            md5 = hashlib.md5((folder / path).read_bytes(), usedforsecurity=False).hexdigest()
            files[path], self.paths[md5] = md5, folder / path
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        self.tasks.append(parse_task(folder.name, digest, files))
        return self.tasks[-1]


def write_task(folder: Path, *, train: int, test: int, side: int, seed: int) -> None:
    """Write a task of PNG files, `train` and `test` images in all, half of them a little brighter: the synthetic ones.

    Smooth colour noise compresses, and so decodes, about as photographs do.
    """
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", test)):
        for kind, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count // len(CLASSES)):
                coarse = random.integers(0, 200, (max(2, side // 8), max(2, side // 8), 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
                pixels = np.asarray(image).astype(np.int16) + random.integers(0, 13, (side, side, 3)) + 40 * kind
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")
