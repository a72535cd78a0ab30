"""Photographs, shrunk into lossless masters: their JPEG history is gone and their scales are alike.

Every scene belongs to one split for good: a fifth is held apart, a third of the others is for val, the rest for train.
"""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Iterable
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

_SOURCES = {  # package: where its pictures lie, and those that a camera took; drawn and rendered ones are left out
    "lomiri-wallpapers-16.04": (
        _LOMIRI,
        "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace "
        "Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi "
        "greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi "
        "seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi",
    ),
    "lomiri-wallpapers-20.04": (_LOMIRI, "Kleiber_by_Lukas_Baubkus"),
    "mate-backgrounds": (
        _MATE,
        "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower",
    ),
    "plasma-workspace-wallpapers": (
        _PLASMA,
        "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am",
    ),
    "palapeli-data": (
        _PALAPELI,
        "castle-maintenon cincinnati-bridge citrus-fruits european-honey-bee panther-chameleon-female",
    ),
    "stellarium-data": (_STELLARIUM, "garching-gl1 garching-gl3"),
    "opencv-doc": (
        _OPENCV,
        "data/building data/ela_original data/leuvenA text/scenetext02 text/scenetext03 text/scenetext04 "
        "text/scenetext05",
    ),
    "material-kit": ("assets/img/{}.jpg", "bg bg2 bg3 bg7 city-profile city profile_city"),
    "soft-ui-design-system": (
        "assets/img/{}.jpg",
        "anastasia annie-spratt blog7-1 blog7-2 blog7-3 brooke card-2 card-3 ivancik kal-visuals marie meeting nastuh "
        "toa-heftiba office-dark",
    ),
    "admin-lte": ("dist/img/{}.jpg", "photo3 photo4"),
    "@adminkit/core": ("dist/img/photos/unsplash-{}.jpg", "1 2 3"),
    "startbootstrap-creative": ("dist/assets/img/{}.jpg", "bg-masthead"),
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
        split: "train", "val" or "apart".
    """

    name: str
    scene: str
    package: str
    activity: float
    split: str = ""


def develop(root: Path) -> list[Photograph]:
    """Make all masters, whole or not at all, unless they are there; returns what they are, sorted by name."""
    folder = root / "masters"
    if not folder.exists():
        packages.install(root, PHOTOGRAPH_PACKAGES)
        print("making the masters of all photographs", flush=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=packages.DRAFT) as name:
            draft = Path(name) / "masters"
            draft.mkdir()
            write_table(draft / "photographs.csv", deal(list(_masters(root, draft))))
            draft.rename(folder)
    return read(root)


def read(root: Path) -> list[Photograph]:
    """The photographs of masters/, sorted by name."""
    with (root / "masters" / "photographs.csv").open() as file:
        return [Photograph(**{**row, "activity": float(row["activity"])}) for row in csv.DictReader(file)]  # type: ignore[arg-type]


def deal(photographs: Iterable[Photograph]) -> list[Photograph]:
    """The same photographs with their splits, spread over packages and over activity; sorted by name."""
    scenes: dict[str, list[Photograph]] = {}
    for photograph in sorted(photographs, key=lambda photograph: photograph.name):
        scenes.setdefault(photograph.scene, []).append(photograph)
    order = sorted(
        scenes.values(), key=lambda group: (group[0].package, max(p.activity for p in group), group[0].scene)
    )
    apart = [group[0].scene for index, group in enumerate(order) if index % 5 == 2]
    others = [group[0].scene for group in order if group[0].scene not in apart]
    split = {scene: "val" if index % 3 == 1 else "train" for index, scene in enumerate(others)}
    split |= dict.fromkeys(apart, "apart")
    dealt = [Photograph(p.name, p.scene, p.package, p.activity, split[p.scene]) for group in order for p in group]
    return sorted(dealt, key=lambda photograph: photograph.name)


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


def _masters(root: Path, draft: Path) -> Iterable[Photograph]:
    for package, (pattern, names) in _SOURCES.items():
        for stem in names.split():
            name = f"{package.split('/')[-1].split('-')[0]}_{stem.replace('/', '_')}"
            with Image.open(packages.folder(root, package) / pattern.format(stem)) as file:
                image = _without_ground(file, stem).convert("RGB")
            master = shrunk(image, random.Random(name))
            if master is None:
                raise ValueError(f"{package}: {stem} of {image.size} pixels is too small for a master")
            master.save(draft / f"{name}.png", compress_level=6)
            scene = "stellarium_garching" if "garching" in name else name
            yield Photograph(name, scene, package, round(activity(np.asarray(master.convert("L"))), 3))


def _without_ground(image: Image.Image, stem: str) -> Image.Image:
    """Stellarium's panorama has an empty strip above."""
    return image.crop((0, 96, image.width, image.height)) if stem.startswith("garching") else image


def write_table(path: Path, photographs: list[Photograph]) -> None:
    """Write what `read` reads."""
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["name", "scene", "package", "activity", "split"])
        table.writerows([p.name, p.scene, p.package, p.activity, p.split] for p in photographs)
