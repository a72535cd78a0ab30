"""Photographs, shrunk into lossless masters: their JPEG history is gone and their scales are alike.

Every scene belongs to one split for good: a fifth is held apart, a third of the others is for val, the rest for train.
They were dealt once, spread over packages and over activity, before anything was measured on them.
"""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.real import packages

_LOMIRI = "usr/share/backgrounds/{}.jpg"
_MATE = "usr/share/backgrounds/mate/nature/{}.jpg"
_PLASMA = "usr/share/wallpapers/{}/contents/images/2560x1600.jpg"
_PALAPELI = "usr/share/palapeli/collection/{}.jpg"
_OPENCV = "usr/share/doc/opencv-doc/examples/{}.jpg"
_STELLARIUM = "usr/share/stellarium/landscapes/garching/{}.png"


@dataclass(frozen=True)
class _Source:
    """Where a package's pictures lie, and those that a camera took, by split; drawn and rendered ones are left out."""

    pattern: str
    train: str = ""
    val: str = ""
    apart: str = ""


_SOURCES = {
    "lomiri-wallpapers-16.04": _Source(
        _LOMIRI,
        train="Picture_0B_by_freespace Picture_1A_by_freespace Wine_by_Jakkub_Mede "
        "friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich sunset_by_Aitzol_Berasategi",
        val="aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich picosdeeuropa_by_Aitzol_Berasategi "
        "seeding_by_Clements_Engelhardt",
        apart="Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly life_by_Aitzol_Berasategi",
    ),
    "lomiri-wallpapers-20.04": _Source(
        _LOMIRI,
        train="Kleiber_by_Lukas_Baubkus",
    ),
    "mate-backgrounds": _Source(
        _MATE,
        train="Aqua Dune GreenMeadow LadyBird Storm TwoWings YellowFlower",
        val="FreshFlower RainDrops Wood",
        apart="Blinds Garden",
    ),
    "plasma-workspace-wallpapers": _Source(
        _PLASMA,
        train="BytheWater ColorfulCups EveningGlow FallenLeaf Kite OneStandsOut",
        val="ColdRipple DarkestHour Path",
        apart="Grey summer_1am",
    ),
    "palapeli-data": _Source(
        _PALAPELI,
        train="castle-maintenon citrus-fruits european-honey-bee",
        val="panther-chameleon-female",
        apart="cincinnati-bridge",
    ),
    "stellarium-data": _Source(
        _STELLARIUM,
        apart="garching-gl1 garching-gl3",
    ),
    "opencv-doc": _Source(
        _OPENCV,
        train="data/ela_original text/scenetext02 text/scenetext04 text/scenetext05",
        val="data/building text/scenetext03",
        apart="data/leuvenA",
    ),
    "material-kit": _Source(
        "assets/img/{}.jpg",
        train="bg bg3 profile_city",
        val="bg2 bg7",
        apart="city-profile city",
    ),
    "soft-ui-design-system": _Source(
        "assets/img/{}.jpg",
        train="anastasia blog7-1 blog7-3 ivancik kal-visuals marie nastuh toa-heftiba",
        val="annie-spratt blog7-2 card-2 office-dark",
        apart="brooke card-3 meeting",
    ),
    "admin-lte": _Source(
        "dist/img/{}.jpg",
        train="photo3 photo4",
    ),
    "@adminkit/core": _Source(
        "dist/img/photos/unsplash-{}.jpg",
        train="2",
        val="1",
        apart="3",
    ),
    "startbootstrap-creative": _Source(
        "dist/assets/img/{}.jpg",
        val="bg-masthead",
    ),
}
PHOTOGRAPH_PACKAGES = tuple(_SOURCES)
_KERNELS = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.HAMMING)
_SHORTEST = 288  # least side of a master: a patch and its margins on both sides, and room to choose
_LONGEST = 1600
_LEAST_SHRINK = 1.35  # less would leave traces of JPEG's grid


@dataclass(frozen=True)
class Photograph:
    """One master.

    Args:
        name: of the file in masters/, without its suffix.
        scene: what it shows; photographs of one scene are never in different splits or halves.
        package: that brought it.
        activity: mean absolute difference of neighbouring pixels, grey levels.
        split: "train", "val" or "apart"; "" where no task brings it.
    """

    name: str
    scene: str
    package: str
    activity: float
    split: str = ""


class MastersError(RuntimeError):
    """There are masters already, of other photographs."""


def develop(root: Path, sources: Sequence[str] = PHOTOGRAPH_PACKAGES) -> None:
    """Make the masters of the photographs that some packages bring, whole or not at all, unless they are there.

    Raises:
        PackageError: a package can't be had.
        MastersError: there are masters, of other packages' photographs.
    """
    folder = root / "masters"
    if not folder.exists():
        packages.install(root, sources)
        print("making the masters of all photographs", flush=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=packages.DRAFT) as name:
            draft = Path(name) / "masters"
            draft.mkdir()
            write_table(draft / "photographs.csv", _masters(root, draft, sources))
            draft.rename(folder)
    found = {photograph.package for photograph in read(root)}
    if found != set(sources):
        raise MastersError(
            f"{folder} holds photographs of {', '.join(sorted(found))}, but those of {', '.join(sorted(sources))} were "
            "asked for. Name another folder with --root."
        )


def read(root: Path) -> list[Photograph]:
    """The photographs of masters/, sorted by name."""
    with (root / "masters" / "photographs.csv").open() as file:
        return [Photograph(**{**row, "activity": float(row["activity"])}) for row in csv.DictReader(file)]  # type: ignore[arg-type]


def shrunk(image: Image.Image, rng: random.Random) -> Image.Image | None:
    """The picture shrunk by a random factor and kernel; None where it is too small to lose its JPEG grid."""
    kernel = rng.choice(_KERNELS)
    factor = rng.uniform(2.0, 2.6) if max(image.size) >= 1200 else rng.uniform(1.6, 1.9)
    factor = min(max(factor, max(image.size) / _LONGEST), min(image.size) / _SHORTEST)
    if factor < _LEAST_SHRINK:
        return None
    return image.resize((round(image.width / factor), round(image.height / factor)), kernel)


def activity(grey: np.ndarray) -> float:
    """Mean absolute difference of neighbouring pixels of a (H, W) picture, grey levels."""
    values = grey.astype(float)
    return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


def listed(sources: Iterable[str] = PHOTOGRAPH_PACKAGES) -> Iterator[tuple[str, str, str]]:
    """Package, path without its suffix and split of every photograph of some packages."""
    for package in sources:
        source = _SOURCES[package]
        for split, stems in (("train", source.train), ("val", source.val), ("apart", source.apart)):
            for stem in stems.split():
                yield package, stem, split


def _masters(root: Path, draft: Path, sources: Iterable[str]) -> Iterator[Photograph]:
    for package, stem, split in listed(sources):
        name = f"{package.split('/')[-1].split('-')[0]}_{stem.replace('/', '_')}"
        with Image.open(packages.folder(root, package) / _SOURCES[package].pattern.format(stem)) as file:
            image = _without_ground(file, stem).convert("RGB")
        master = shrunk(image, random.Random(name))
        if master is None:
            raise ValueError(f"{package}: {stem} of {image.size} pixels is too small for a master")
        master.save(draft / f"{name}.png", compress_level=6)
        scene = "stellarium_garching" if "garching" in name else name
        yield Photograph(name, scene, package, round(activity(np.asarray(master.convert("L"))), 3), split)


def _without_ground(image: Image.Image, stem: str) -> Image.Image:
    """Stellarium's panorama has an empty strip above."""
    return image.crop((0, 96, image.width, image.height)) if stem.startswith("garching") else image


def write_table(path: Path, photographs: Iterable[Photograph]) -> None:
    """Write what `read` reads, sorted by name."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["name", "scene", "package", "activity", "split"])
        table.writerows(
            [p.name, p.scene, p.package, p.activity, p.split] for p in sorted(photographs, key=lambda p: p.name)
        )
