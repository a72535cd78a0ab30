"""What a whole episode costs, composed of measured parts: how often each part is done, in one function for each way.

Nothing else is assumed than that costs grow with these counts. episode.py measures the parts, runs small whole episodes
and prints how far their composition is off.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from measure import spread

CLASSES = 2
"""Of each task: real and synthetic."""


@dataclass(frozen=True)
class Sizes:
    """Images of each task, in the proportions of CDDB's, and how they are trained on.

    `budget` is of exemplars; `batch` images are in a training step and in a pass without training.
    """

    train: int = 4000
    test: int = 1000
    budget: int = 500
    epochs: int = 10
    views: int = 4
    batch: int = 8

    def exemplars(self, k: int) -> int:
        """How many the memory holds before episode k (from 1)."""
        old = CLASSES * (k - 1)
        return self.budget // old * old if old else 0

    def steps(self, k: int) -> int:
        """Of a whole episode; the last incomplete batch of an epoch is dropped, as published."""
        return self.epochs * ((self.train + self.exemplars(k)) // self.batch)


Parts = Mapping[str, float]
"""Seconds of each part at K = k branches, see `published_seconds` and `our_seconds`."""


def published_seconds(k: int, sizes: Sizes, parts: Parts) -> dict[str, float]:
    """Episode k (from 1), the published way.

    Args:
        parts: `published_step`: decoding a batch and one training step with it; `published_pass`: decoding a batch and
            all k branches' features of it.
    """
    one_image = parts["published_pass"] / sizes.batch
    return {
        "training": sizes.steps(k) * parts["published_step"],
        "herding": sizes.train * one_image,
        "evaluation": k * sizes.test * one_image,
    }


def our_features(k: int, sizes: Sizes) -> dict[str, int]:
    """How many features (one branch, one crop) episode k computes; the others were kept in earlier episodes.

    Training asks the k-1 frozen branches for all views of the new images; of the exemplars only the newest of them has
    not been asked. Herding asks the new branch for one view of each new image, about which the others have been asked.
    Evaluation asks all k for the new test set and the new branch for the k-1 old ones.
    """
    asked_before = sizes.exemplars(k) * sizes.views if k > 1 else 0
    return {
        "frozen": (k - 1) * sizes.train * sizes.views + asked_before,
        "herding": sizes.train,
        "evaluation": k * sizes.test + (k - 1) * sizes.test,
    }


def our_seconds(k: int, sizes: Sizes, parts: Parts) -> dict[str, float]:
    """Episode k (from 1), our way.

    Args:
        parts: `our_step`: cutting a batch, looking up its frozen features and one training step; `our_pass`: one
            branch asked about a batch and its answers kept; `our_decode`: one image file checked and decoded;
            `our_opening`: what an episode needs before, between and after its steps: three times the backbone and k
            branches.
    """
    features = our_features(k, sizes)
    return {
        "opening": parts["our_opening"],
        "decoding": (sizes.train + sizes.exemplars(k) + k * sizes.test) * parts["our_decode"],
        "training": sizes.steps(k) * parts["our_step"],
        **{name: count * parts["our_pass"] / sizes.batch for name, count in features.items()},
    }


def parts_at(k: int, measured: Mapping[int, Parts]) -> Parts:
    """The parts at k branches, straight between the counts of branches that were measured."""
    known = sorted(measured)
    return {name: float(np.interp(k, known, [measured[x][name] for x in known])) for name in measured[known[0]]}


def compared(rounds: Sequence[Mapping[int, Parts]], episodes: Sequence[int], sizes: Sizes) -> dict[str, float]:
    """Some episodes together, both ways: medians over the rounds, and the spread of each round's ratio.

    Args:
        rounds: of each round the parts, by the count of branches.
        episodes: from 1.
    """
    published, ours = [], []
    for measured in rounds:
        parts = {k: parts_at(k, measured) for k in episodes}
        published.append(sum(sum(published_seconds(k, sizes, parts[k]).values()) for k in episodes))
        ours.append(sum(sum(our_seconds(k, sizes, parts[k]).values()) for k in episodes))
    return {
        "published_s": statistics.median(published),
        "ours_s": statistics.median(ours),
        **spread([p / o for p, o in zip(published, ours, strict=True)]),
    }


def growth(rounds: Sequence[Mapping[int, Parts]], last: int, sizes: Sizes) -> dict[str, float]:
    """Our episode `last` over our episode 1."""
    totals = {k: [sum(our_seconds(k, sizes, parts_at(k, parts)).values()) for parts in rounds] for k in (1, last)}
    return spread([a / b for a, b in zip(totals[last], totals[1], strict=True)])
