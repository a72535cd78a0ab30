"""Real photographs that no task brings: for false positives, of another package than the set's photographs.

Shrunk and cut as those are, so that what is counted is what other photographs cost, not another way to cut them.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.real import manifest, packages, patches, photographs
from scripts.real.manifest import Row
from scripts.real.patches import Master
from scripts.real.photographs import Photograph

FOLDER = "real-photographs"
PACKAGE = "tabler-ui"
_PICTURES = "src/demo/photos/*-1500.jpg"
_COUNT = 200


def make(root: Path) -> int:
    """Make the folder, whole or not at all, unless it is there; returns how many images it has.

    Raises:
        PackageError: the package can't be had.
    """
    if not (root / FOLDER).exists():
        packages.install(root, [PACKAGE])
        masters = developed(sorted(packages.folder(root, PACKAGE).glob(_PICTURES)))
        with tempfile.TemporaryDirectory(dir=root, prefix=packages.DRAFT) as name:
            manifest.write(manifest.table_path(root, FOLDER), cut(masters, Path(name) / FOLDER, _COUNT))
            (Path(name) / FOLDER).rename(root / FOLDER)
    return len(list((root / FOLDER).glob("*.png")))


def developed(paths: list[Path]) -> dict[str, Master]:
    """Masters of the photographs in files, by name."""
    found = {}
    for path in paths:
        with Image.open(path) as image:
            master = photographs.shrunk(image.convert("RGB"), random.Random(path.stem))
        if master is None:
            raise ValueError(f"{path} is too small for a master")
        activity = round(photographs.activity(np.asarray(master.convert("L"))), 3)
        found[path.stem] = Master(Photograph(path.stem, path.stem, PACKAGE, activity), master)
    return found


def cut(masters: Mapping[str, Master], folder: Path, count: int) -> list[Row]:
    """Write `count` patches of the photographs, calm and busy ones alike, and tell what they are."""
    rng = random.Random(FOLDER)
    places = {name: found for name, master in masters.items() if (found := master.places(rng))}
    edges, rows = patches.activity_edges(places.values(), rng), []
    folder.mkdir(parents=True)
    for number, place in enumerate(patches.draw(places, list(places), edges, count, rng)):
        path = folder / f"{number:04d}.png"
        Image.fromarray(np.ascontiguousarray(masters[place.photograph].patch(place))).save(path, compress_level=6)
        rows.append(
            Row(
                file=f"{FOLDER}/{path.name}",
                task="",
                split="",
                kind="real",
                photograph=place.photograph,
                photograph_package=PACKAGE,
                x=place.x,
                y=place.y,
                activity=round(place.activity, 3),
                activity_class=patches.activity_class(place.activity, edges),
                package="",
                version="",
                licence="",
                command="",
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
        )
    return rows
