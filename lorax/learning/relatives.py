"""Which generators an image may be by, where no single one is sure: conformal sets along a tree of relatives.

Generators that the network confuses on the calibration memory are *relatives*, and form groups, one inside the other.
An image that is synthetic is said to be by the likeliest generator, if that is sure enough; else by one of the smallest
group around it that is; else by none in particular. How sure is enough is found, for each likeliest generator apart, on
calibration images: of those that it is the likeliest for, at most a share of `error` may be by one outside the set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorax.stream import ClassTable

_RELATED = 0.05
"""Two groups whose members give each other less than this share of probability, on average, are no relatives."""

Group = tuple[int, ...]
"""Ids of synthetic classes."""


@dataclass(frozen=True)
class Relatives:
    """Groups of generators that are confused, and how sure a statement about one must be."""

    error: float  # the share of synthetic images that may be by a generator that is not in the set
    groups: tuple[Group, ...]  # each within or apart from every other, smaller ones first
    # (C,) for each class where it is the likeliest synthetic one: the share of the probability of all synthetic
    # classes that a set must exceed; 0 for real classes
    levels: Tensor

    @classmethod
    def fit(cls, probabilities: Tensor, ids: Tensor, classes: ClassTable, error: float) -> Relatives | None:
        """Fit to calibration images; None where they are too few to promise anything.

        Split conformal prediction, for each likeliest class apart (that class follows from the image, so the promise
        holds within each); where one was the likeliest too seldom, for all together.

        Args:
            probabilities: (n, C), each image's calibrated on other images.
            ids: (n,) their classes.
            classes: the class table.
            error: see above.

        Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World (2005), Mondrian conformal prediction.
        """
        is_real = torch.tensor(classes.is_real)
        synthetic = ~is_real[ids]
        shares, true = _shares(probabilities[synthetic], is_real), ids[synthetic]
        groups = _groups(shares, true, is_real)
        detected = probabilities[synthetic][:, ~is_real].sum(1) > 0.5
        shares, true = shares[detected], true[detected]
        likeliest = shares.argmax(dim=1)
        scores = torch.tensor([_score(row, int(y), groups) for row, y in zip(shares, true, strict=True)]).double()
        of_all = _quantile(scores, error)
        if math.isinf(of_all):
            return None
        levels = torch.zeros(len(classes), dtype=torch.double)
        for entry in classes.entries:
            if not entry.is_real:
                own = _quantile(scores[likeliest == entry.id], error)
                levels[entry.id] = of_all if math.isinf(own) else own
        return cls(error, groups, levels)

    def of(self, probabilities: Tensor, is_real: Sequence[bool], least: float) -> Group:
        """The generators that an image is by one of, as far as can be said; () where none is sure enough.

        Args:
            probabilities: (C,), calibrated.
            is_real: of each class.
            least: what the set's probability must be at least.
        """
        [shares] = _shares(probabilities[None], torch.tensor(is_real))
        likeliest = int(shares.argmax())
        for group in _path(likeliest, self.groups):
            members = list(group)
            if shares[members].sum() > self.levels[likeliest] and probabilities[members].sum() >= least:
                return group
        return ()

    def record(self) -> dict[str, Any]:
        """What is not a tensor, as JSON."""
        return {"error": self.error, "groups": [list(group) for group in self.groups]}

    @classmethod
    def parse(cls, record: Mapping[str, Any], levels: Tensor) -> Relatives:
        """The opposite of `record`."""
        return cls(record["error"], tuple(tuple(group) for group in record["groups"]), levels)


@dataclass(frozen=True)
class Named:
    """What was said of synthetic images that were called synthetic."""

    images: int  # how many they are
    one: int  # of how many one generator was named
    missed: int  # of how many the generator was not among those named


def named(relatives: Relatives, probabilities: Tensor, ids: Tensor, classes: ClassTable, least: float) -> Named:
    """What `Relatives.of` says of the synthetic ones among images that are more likely synthetic than real.

    Args:
        relatives: what decides.
        probabilities: (n, C), calibrated.
        ids: (n,) the images' classes.
        classes: the class table.
        least: as `Relatives.of` has it.
    """
    is_real = torch.tensor(classes.is_real)
    looked = ~is_real[ids] & (probabilities[:, ~is_real].sum(1) > 0.5)
    sets = [relatives.of(row, classes.is_real, least) for row in probabilities[looked]]
    missed = [bool(group) and true not in group for group, true in zip(sets, ids[looked].tolist(), strict=True)]
    return Named(len(sets), sum(len(group) == 1 for group in sets), sum(missed))


def _shares(probabilities: Tensor, is_real: Tensor) -> Tensor:
    """Probabilities (n, C) of the synthetic classes as shares of their sum; 0 for real ones."""
    synthetic = probabilities.double().masked_fill(is_real, 0.0)
    return synthetic / synthetic.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.double).tiny)


def _path(likeliest: int, groups: Sequence[Group]) -> list[Group]:
    """What may be said of an image: the likeliest class alone, then each group around it, growing."""
    return [(likeliest,), *(group for group in groups if likeliest in group)]


def _score(shares: Tensor, true: int, groups: Sequence[Group]) -> float:
    """The largest share of a set on the image's path that lacks its true class; 0 if none does."""
    wrong = [group for group in _path(int(shares.argmax()), groups) if true not in group]
    return float(shares[list(wrong[-1])].sum()) if wrong else 0.0


def _quantile(scores: Tensor, error: float) -> float:
    """What a new image's score exceeds with a probability of at most `error`; infinite where too few tell."""
    rank = math.ceil((len(scores) + 1) * (1 - error))
    return float(scores.sort().values[rank - 1]) if rank <= len(scores) else math.inf


def _groups(shares: Tensor, true: Tensor, is_real: Tensor) -> tuple[Group, ...]:
    """Groups of classes that take each other's probability, merged two at a time, the most confused first."""
    from scipy.cluster.hierarchy import linkage

    found = [i for i, real in enumerate(is_real.tolist()) if not real]
    if len(found) < 2:  # one alone has no relatives
        return ()
    taken = torch.stack([shares[true == i].mean(dim=0)[found] for i in found])  # (S, S): of row's images, for column
    apart = 1 - (taken + taken.T) / 2
    upper = apart[tuple(torch.triu_indices(len(found), len(found), 1))]
    nodes: list[Group] = [(i,) for i in found]
    groups = list[Group]()
    for left, right, distance, _ in linkage(upper.numpy(), "average"):
        nodes.append(tuple(sorted((*nodes[int(left)], *nodes[int(right)]))))
        if distance <= 1 - _RELATED:
            groups.append(nodes[-1])
    return tuple(sorted(groups, key=len))
