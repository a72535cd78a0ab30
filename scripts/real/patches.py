"""Which squares of which photographs: matched in content, spread over photographs, the same on every run."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.real.photographs import Photograph

PATCH = 128
MARGIN = 64
"""Every patch, real ones too, has so much photograph around it, pixels."""

CLASSES = 5
"""Of activity; both classes of a task get the same number of patches in each."""

_STEP = 16
_LEAST_ACTIVITY = 2.5  # flat sky says nothing
_WEIGHED = 40  # places of a photograph that count for the edges of the classes
_APART = PATCH * 3 // 4  # patches of one photograph, at first; nearer where the places run out
_NEAREST = 4


class PlacesError(ValueError):
    """The photographs have too few places of some activity."""


@dataclass(frozen=True)
class Place:
    """A patch of a photograph.

    Args:
        photograph: its name.
        x, y: the patch's left upper corner, pixels.
        activity: of the patch, before any network.
    """

    photograph: str
    x: int
    y: int
    activity: float


class Master:
    """The pixels of a photograph, and how busy each of its squares is."""

    def __init__(self, photograph: Photograph, image: Image.Image) -> None:
        self.photograph = photograph
        self.pixels: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
        grey = np.asarray(image.convert("L"), float)
        across, down = np.abs(np.diff(grey, axis=1))[:-1], np.abs(np.diff(grey, axis=0))[:, :-1]
        self._sums = np.pad((across + down).cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def activity(self, x: int, y: int) -> float:
        """Mean absolute difference of neighbouring pixels in the patch at (x, y), grey levels."""
        right, below = x + PATCH - 1, y + PATCH - 1
        area = self._sums[below, right] - self._sums[y, right] - self._sums[below, x] + self._sums[y, x]
        return float(area / (PATCH - 1) ** 2)

    def places(self, rng: random.Random) -> list[Place]:
        """Places on a grid whose origin is drawn, so that two tasks hardly share a patch; flat ones are left out."""
        height, width = self.pixels.shape[:2]
        left, top = MARGIN + rng.randrange(_STEP), MARGIN + rng.randrange(_STEP)
        corners = (
            (x, y)
            for y in range(top, height - MARGIN - PATCH + 1, _STEP)
            for x in range(left, width - MARGIN - PATCH + 1, _STEP)
        )
        places = [Place(self.photograph.name, x, y, self.activity(x, y)) for x, y in corners]
        return [place for place in places if place.activity >= _LEAST_ACTIVITY]

    def patch(self, place: Place) -> NDArray[np.uint8]:
        """(PATCH, PATCH, 3): the photograph itself."""
        return self.pixels[place.y : place.y + PATCH, place.x : place.x + PATCH]

    def region(self, place: Place, margin: int) -> NDArray[np.float32]:
        """(PATCH + 2 margin, PATCH + 2 margin, 3) in [0, 1]: the patch and what is around it."""
        bottom, right = place.y + PATCH + margin, place.x + PATCH + margin
        return self.pixels[place.y - margin : bottom, place.x - margin : right].astype(np.float32) / np.float32(255)


def halves(photographs: Iterable[Photograph], rng: random.Random) -> tuple[list[str], list[str]]:
    """Two lots of photographs, neighbours in activity apart; photographs of one scene stay together.

    Returns:
        The names of those that give real patches, and of those that the network is given.
    """
    scenes: dict[str, list[Photograph]] = {}
    for photograph in photographs:
        scenes.setdefault(photograph.scene, []).append(photograph)
    order = sorted(scenes.values(), key=lambda group: (group[0].activity, group[0].scene))
    lots: tuple[list[str], list[str]] = ([], [])
    for first in range(0, len(order), 2):
        pair = order[first : first + 2]
        rng.shuffle(pair)
        for lot, group in zip(lots, pair, strict=False):
            lot.extend(photograph.name for photograph in group)
    return lots


def activity_edges(places: Iterable[Sequence[Place]], rng: random.Random) -> list[float]:
    """The inner edges of the classes of activity: quantiles over photographs that count alike.

    Args:
        places: of each photograph.
        rng: draws the places that count.
    """
    weighed = sorted(p.activity for own in places for p in rng.sample(own, min(_WEIGHED, len(own))))
    return [weighed[len(weighed) * k // CLASSES] for k in range(1, CLASSES)]


def activity_class(activity: float, edges: Sequence[float]) -> int:
    """0 (calm) to CLASSES - 1 (busy)."""
    return bisect_right(edges, activity)


def draw(
    places: dict[str, list[Place]], names: Sequence[str], edges: Sequence[float], count: int, rng: random.Random
) -> list[Place]:
    """`count` places: as many of each class of activity, even over photographs, little overlap.

    Args:
        places: of each photograph, by name.
        names: the photographs to draw from.
        edges: of the classes of activity.
        count: how many.
        rng: draws.

    Raises:
        PlacesError: a class of activity has too few places.
    """
    taken: dict[str, list[Place]] = {name: [] for name in names}
    by_class: defaultdict[tuple[str, int], list[Place]] = defaultdict(list)
    for place in (place for name in names for place in places[name]):
        by_class[place.photograph, activity_class(place.activity, edges)].append(place)
    for k in range(CLASSES):
        wanted, spacing = count * (k + 1) // CLASSES - count * k // CLASSES, _APART
        while wanted and spacing >= _NEAREST:
            pools = {name: list(by_class[name, k]) for name in names}
            wanted -= _take(pools, taken, wanted, spacing, rng)
            spacing //= 2  # rather overlap than be too few
        if wanted:
            raise PlacesError(
                f"{len(names)} photographs have {wanted} places too few for {count} patches in class {k} of activity. "
                "Ask for fewer with --images."
            )
    drawn = [place for name in names for place in taken[name]]
    rng.shuffle(drawn)
    return drawn


def _take(
    pools: dict[str, list[Place]], taken: dict[str, list[Place]], wanted: int, spacing: int, rng: random.Random
) -> int:
    """Move up to `wanted` places into `taken`, each from the photograph that gave fewest; returns how many it were."""
    for pool in pools.values():
        rng.shuffle(pool)
    found = 0
    while found < wanted and any(pools.values()):
        name = min((n for n in pools if pools[n]), key=lambda n: len(taken[n]))
        place = pools[name].pop()
        if all(abs(place.x - other.x) >= spacing or abs(place.y - other.y) >= spacing for other in taken[name]):
            taken[name].append(place)
            found += 1
    return found
