"""Make one task: choose the patches, run its network, check what came out, and put it in place whole.

Usage: python -m scripts.real.tasks ROOT TASK IMAGES      (what `python -m scripts.real` starts for each task)
"""

from __future__ import annotations

import hashlib
import random
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.real import checks, manifest, packages, patches, photographs
from scripts.real.catalogue import CATALOGUE, HELD_APART, Network
from scripts.real.manifest import Row
from scripts.real.networks import Run
from scripts.real.patches import Master, Place

REAL, FAKE = "0_real", "1_fake"
VAL_SHARE, APART_SHARE = 3, 6
"""A task has so many times fewer val images than train images; and images of the photographs that are held apart."""


@dataclass(frozen=True)
class Lot:
    """Images of one folder and split, from the photographs of one split; `count` of each class."""

    folder: str
    split: str
    photographs: str
    count: int


@dataclass(frozen=True)
class Job:
    """One image to make."""

    lot: Lot
    kind: str
    number: int
    place: Place
    activity_class: int


def lots(task: str, images: int) -> tuple[Lot, ...]:
    """What a task consists of.

    Args:
        task: its name.
        images: train images of each class.
    """
    val, apart = images // VAL_SHARE, images // APART_SHARE
    if task in HELD_APART:
        return Lot("held-apart", "train", "train", images), Lot("held-apart", "val", "apart", val)
    train, val_lot = Lot("set", "train", "train", images), Lot("set", "val", "val", val)
    return train, val_lot, Lot("held-apart", "val", "apart", apart)


def plan(task: str, masters: dict[str, Master], images: int) -> list[Job]:
    """Every image of a task, the same on every run.

    Args:
        task: its name; it seeds what is drawn.
        masters: all photographs, by name.
        images: train images of each class.
    """
    jobs = []
    for lot in lots(task, images):
        rng = random.Random(f"{task} {lot.folder} {lot.split}")
        own = {name: m for name, m in masters.items() if m.photograph.split == lot.photographs}
        places = {name: master.places(rng) for name, master in own.items()}
        places = {name: found for name, found in places.items() if found}
        edges = patches.activity_edges(places.values(), rng)
        dealt = patches.halves((own[name].photograph for name in places), rng)
        for kind, names in zip((REAL, FAKE), dealt, strict=True):
            drawn = patches.draw(places, names, edges, lot.count, rng)
            classes = [patches.activity_class(place.activity, edges) for place in drawn]
            jobs += [Job(lot, kind, n, place, k) for n, (place, k) in enumerate(zip(drawn, classes, strict=True))]
    return jobs


def make(root: Path, task: str, images: int) -> float:
    """Make a task below `root`; returns the seconds that it took.

    Raises:
        PackageError: a package of its network can't be had.
        CheckError: what came out is not what it should be.
    """
    began = time.monotonic()
    network = CATALOGUE[task]
    packages.install(root, network.packages)
    sys.path += [str(packages.folder(root, name)) for name in network.packages]
    masters = open_masters(root)
    jobs = plan(task, masters, images)
    run = network.opened(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=packages.DRAFT) as name:
        draft = Path(name)
        rows = list(_write_images(draft, task, network, run, masters, jobs))
        checks.check(draft, rows, masters)
        _put_in_place(root, draft, task, rows)
    return time.monotonic() - began


def open_masters(root: Path) -> dict[str, Master]:
    """All photographs below `root`, by name."""
    folder = root / "masters"
    return {p.name: Master(p, Image.open(folder / f"{p.name}.png")) for p in photographs.read(root)}


def _write_images(
    draft: Path, task: str, network: Network, run: Run, masters: dict[str, Master], jobs: list[Job]
) -> Iterator[Row]:
    fakes, began = sum(job.kind == FAKE for job in jobs), time.monotonic()
    done = 0
    for job in jobs:
        master, path = masters[job.place.photograph], path_of(draft, task, job)
        if job.kind == REAL:
            pixels = master.patch(job.place)
        else:
            seed = zlib.crc32(f"{task} {job.lot.folder} {job.lot.split} {job.number}".encode())
            pixels = run(master.region(job.place, network.margin), np.random.default_rng(seed))
            done += 1
            _tell(task, done, fakes, time.monotonic() - began)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels)).save(path, compress_level=6)
        yield row_of(draft, path, task, network, master, job)


def path_of(draft: Path, task: str, job: Job) -> Path:
    """Where an image of a task goes, below `draft`."""
    return draft / job.lot.folder / task / job.lot.split / job.kind / f"{job.number:04d}.png"


def row_of(draft: Path, path: Path, task: str, network: Network, master: Master, job: Job) -> Row:
    """The manifest's row of the image at `path`, below `draft`."""
    made = packages.PACKAGES.get(network.package) if job.kind == FAKE else None
    return Row(
        file=path.relative_to(draft).as_posix(),
        task=task,
        split=job.lot.split,
        kind=job.kind,
        photograph=job.place.photograph,
        photograph_package=master.photograph.package,
        x=job.place.x,
        y=job.place.y,
        activity=round(job.place.activity, 3),
        activity_class=job.activity_class,
        package=made.name if made else "",
        version=made.version if made else "",
        licence=made.licence if made else "",
        command=network.command if job.kind == FAKE else "",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def _tell(task: str, done: int, total: int, seconds: float) -> None:
    if done % 100 == 0 or done == total:
        left = seconds / done * (total - done)
        print(f"  {task}: {done} of {total} images, {seconds / done:.2f} s each, {left:.0f} s left", flush=True)


def _put_in_place(root: Path, draft: Path, task: str, rows: list[Row]) -> None:
    """The folders by rename; the table last, since a task that has one is finished."""
    manifest.table_path(root, task).unlink(missing_ok=True)
    for folder in sorted({row.file.split("/")[0] for row in rows}):
        target = root / folder / task
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        (draft / folder / task).rename(target)
    manifest.write(manifest.table_path(root, task), rows)


def main() -> None:
    root, task, images = sys.argv[1:]
    try:
        seconds = make(Path(root), task, int(images))
    except (packages.PackageError, patches.PlacesError, checks.CheckError) as error:
        sys.exit(f"{task}: {error}")
    print(f"{task}: finished in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
