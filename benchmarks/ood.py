"""Leave one network out of cached features: how well many scores tell its images from those of the known networks.

For each network in turn all is fitted on the train images of the others and on real ones; its synthetic val images are
the unknown ones, and the val images of all other tasks, real and synthetic, the known ones. Features come as one npz:

    F      (N, D)      what the frozen backbone says, layer by layer
    B      (N, K·W)    what the branches say, a block of W each, in the order in which tasks first appear
    y      (N,)        0 real, else synthetic
    task   (N,)        names; those named by --without are left alone
    split  (N,)        "train" or "val"

Scores (higher is further out of distribution):

    Mahalanobis    to the nearest class mean, covariance shared and shrunk (Lee et al., NeurIPS 2018): on F, on each of
                   its layers, on B, on both
    relative       that, less the distance to all classes taken as one (Ren et al., 2021)
    neighbour      cosine to the fifth nearest train image (Sun et al., ICML 2022)
    PCA residual   what the leading components of all known images leave over
    ViM            that residual against the logits' energy (Wang et al., CVPR 2022)
    energy, max logit, probability, residual, leverage    of a ridge regression on F to the classes
    measured residual    that residual as the product has it: in units of what it is on held-out images of known classes
    joined         sums of -log p over several scores (Fisher), p against the known images
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.special import logsumexp, softmax

from lorax.learning.ood import Residual
from lorax.learning.unknown import auroc

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_CLIP = 8.0  # standard deviations; heavier tails would rule the covariances
_SHRUNK = 0.05
_RIDGE, _SCALE = 100.0, 8.0
_NEIGHBOUR, _PER_CLASS, _HELD = 5, 200, 30
_KEPT_VARIANCE = 0.95
_LEFT_OVER = 1e-9
_COMPONENTS = 32  # of a branch's block
_FAR, _LAYER = "Mahalanobis ", "layer "


@dataclass(frozen=True)
class Gaussians:
    """Sums over the train images of each class in one space, of which some classes may be left out."""

    x: Floats  # (N, d), standardised by the real images
    counts: Floats  # (C,)
    sums: Floats  # (C, d)
    squares: Floats  # (C, d, d)

    @classmethod
    def of(cls, features: Floats, ids: Integers, train: NDArray[np.bool_], real: NDArray[np.bool_]) -> Gaussians:
        own = features[train & real]
        x = np.clip((features - own.mean(0)) / (own.std(0) + 1e-3), -_CLIP, _CLIP).astype(np.float64)
        parts = [x[train & (ids == c)] for c in range(ids.max() + 1)]
        return cls(
            x,
            np.array([float(len(p)) for p in parts]),
            np.stack([p.sum(0) for p in parts]),
            np.stack([p.T @ p for p in parts]),
        )

    def without(self, columns: Integers) -> Gaussians:
        """The same without some dimensions."""
        x, sums = (np.delete(part, columns, axis=1) for part in (self.x, self.sums))
        return Gaussians(x, self.counts, sums, np.delete(np.delete(self.squares, columns, axis=1), columns, axis=2))

    def within(self, classes: Integers) -> tuple[Floats, Floats]:
        """Means (C, d) and the shared covariance (d, d), shrunk towards its mean variance."""
        counts, means = self.counts[classes], self.sums[classes] / self.counts[classes, None]
        scatter = self.squares[classes].sum(0) - (means.T * counts) @ means
        return means, _shrunk(scatter / counts.sum())

    def total(self, classes: Integers) -> tuple[Floats, Floats]:
        """Mean (1, d) and covariance of all classes taken as one."""
        count, mean = self.counts[classes].sum(), self.sums[classes].sum(0) / self.counts[classes].sum()
        return mean[None], _shrunk(self.squares[classes].sum(0) / count - np.outer(mean, mean))


def _shrunk(covariance: Floats) -> Floats:
    level = np.trace(covariance) / len(covariance)
    shrunk: Floats = (1 - _SHRUNK) * covariance + _SHRUNK * level * np.eye(len(covariance))
    return shrunk


def nearest(x: Floats, means: Floats, covariance: Floats) -> Floats:
    """The squared Mahalanobis distance to the nearest mean, (n,)."""
    lower = np.linalg.cholesky(covariance)
    points, centres = (solve_triangular(lower, part.T, lower=True).T for part in (x, means))
    squared = (points**2).sum(1)[:, None] - 2 * points @ centres.T + (centres**2).sum(1)
    closest: Floats = squared.min(1)
    return closest


def ridge_scores(space: Gaussians, x: Floats, classes: Integers, held: tuple[Floats, Integers]) -> dict[str, Floats]:
    """Scores of a ridge regression on one-hot classes, with a constant; `held` are images that it isn't fitted on."""
    d, counts, sums = space.x.shape[1], space.counts[classes], space.sums[classes]
    gram = np.zeros((d + 1, d + 1))
    gram[:d, :d], gram[d, d] = space.squares[classes].sum(0), counts.sum()
    gram[d, :d] = gram[:d, d] = sums.sum(0)
    factor = cho_factor(gram + _RIDGE * np.eye(d + 1))
    weights = cho_solve(factor, np.vstack([sums.T, counts]))
    z = np.hstack([x, np.ones((len(x), 1))])
    logits = z @ weights
    plain = Residual.of_head(torch.from_numpy(weights[:-1].T), torch.from_numpy(weights[-1]))
    measured = plain.measured(torch.from_numpy(held[0]), torch.from_numpy(np.searchsorted(classes, held[1])))
    return {
        "energy": -logsumexp(_SCALE * logits, axis=1),
        "max logit": -logits.max(1),
        "probability": -softmax(_SCALE * logits, axis=1).max(1),
        "ridge residual": plain.squared(torch.from_numpy(x)).numpy(),
        "measured residual": measured.squared(torch.from_numpy(x)).numpy(),
        "leverage": (z * cho_solve(factor, z.T).T).sum(1),
    }


def residual_scores(space: Gaussians, x: Floats, classes: Integers, energy: Floats) -> dict[str, Floats]:
    """The PCA residual and ViM; the residual is scaled so that it varies as much as the energy does."""
    mean, covariance = space.total(classes)
    values, vectors = np.linalg.eigh(covariance)
    left_over = vectors[:, np.cumsum(values) < (1 - _KEPT_VARIANCE) * values.sum()]
    residual = np.linalg.norm((x - mean) @ left_over, axis=1)
    return {"PCA residual": residual, "ViM": residual * energy.std() / (residual.std() + _LEFT_OVER) + energy}


def joined(scores: Mapping[str, Floats], names: Sequence[str], known: NDArray[np.bool_]) -> Floats:
    """-log of each score's share of known images that are as strange, summed."""
    total = np.zeros(len(known))
    for name in names:
        order = np.sort(scores[name][known])
        above = len(order) - np.searchsorted(order, scores[name], side="left")
        total -= np.log((above + 1) / (len(order) + 1))
    return total


@dataclass(frozen=True)
class Cached:
    """The features, and what their rows are; class 0 is real, the others are synthetic, one for each task."""

    spaces: Mapping[str, Gaussians]
    tasks: Sequence[str]
    task: Integers
    ids: Integers
    train: NDArray[np.bool_]
    held: NDArray[np.bool_]  # of the train split, but not fitted on
    blocks: int  # columns of B that each task has, 0 where they are nobody's
    near: NDArray[np.float32]  # cosines of val images to some train images
    near_rows: Integers  # which train images these are

    @classmethod
    def read(cls, path: Path, without: Sequence[str], layers: Sequence[int]) -> Cached:
        with np.load(path) as found:
            rows = ~np.isin(found["task"].astype(str), without)
            frozen, branches, y, names, split = (found[key][rows] for key in ("F", "B", "y", "task", "split"))
        tasks = list(dict.fromkeys(names.astype(str)))
        task = np.array([tasks.index(name) for name in names.astype(str)])
        ids, train = np.where(y > 0, task + 1, 0), split.astype(str) == "train"
        val, held = ~train, _held_out(2 * task + (y > 0), train)
        train &= ~held
        branches, blocks = _shortened(branches, len(tasks), train & (y == 0))
        parts = {"F": frozen, "B": branches, "F+B": np.hstack([frozen, branches])}
        if sum(layers) == frozen.shape[1]:
            by_layer = np.split(frozen, np.cumsum(layers)[:-1], axis=1)
            parts |= {f"{_LAYER}{number}": part for number, part in enumerate(by_layer, 1)}
        spaces = {name: Gaussians.of(part, ids, train, y == 0) for name, part in parts.items()}
        unit = spaces["F"].x / np.linalg.norm(spaces["F"].x, axis=1, keepdims=True)
        some = np.concatenate(
            [np.flatnonzero(train & (ids == c))[:: _stride(train, ids, c)] for c in range(ids.max() + 1)]
        )
        near = (unit[val].astype(np.float32)) @ unit[some].T.astype(np.float32)
        return cls(spaces, tasks, task, ids, train, held, blocks, near, some)

    def without(self, index: int) -> dict[str, Gaussians]:
        """The spaces without the branch of task number `index`, where each task has one."""
        if not self.blocks:
            return dict(self.spaces)
        kept = {}
        for name, space in self.spaces.items():
            first = space.x.shape[1] - len(self.tasks) * self.blocks + index * self.blocks
            own = np.arange(first, first + self.blocks)
            kept[name] = space.without(own) if name in ("B", "F+B") else space
        return kept


def _shortened(branches: Floats, tasks: int, real: NDArray[np.bool_]) -> tuple[Floats, int]:
    """Each task's block of B as the leading components that it has over real images, and how many these are.

    0, and B as it is, where there are not as many blocks as tasks.
    """
    if branches.shape[1] % tasks or branches.shape[1] // tasks < _COMPONENTS:
        return branches, 0
    short = []
    for block in np.split(branches, tasks, axis=1):
        mean = block[real].mean(0)
        directions = np.linalg.svd(block[real] - mean, full_matrices=False)[2][:_COMPONENTS]
        short.append((block - mean) @ directions.T)
    return np.hstack(short), _COMPONENTS


def _held_out(classes: Integers, train: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Some train images of each class, as an episode holds out."""
    random, held = np.random.default_rng(0), np.zeros(len(train), dtype=bool)
    for one in np.unique(classes):
        held[random.permutation(np.flatnonzero(train & (classes == one)))[:_HELD]] = True
    return held


def _stride(train: NDArray[np.bool_], ids: Integers, one: int) -> int:
    return max(1, int((train & (ids == one)).sum()) // _PER_CLASS)


def scores_without(cached: Cached, index: int) -> tuple[dict[str, Floats], NDArray[np.bool_], NDArray[np.bool_]]:
    """All scores of the val images, and which of these are known and which unknown, without task number `index`."""
    val = ~(cached.train | cached.held)
    classes = np.array([c for c in range(len(cached.tasks) + 1) if c != index + 1])
    known = (cached.task != index)[val]
    unknown = (cached.ids == index + 1)[val]
    spaces = cached.without(index)
    scores = {f"{_FAR}{name}": nearest(s.x[val], *s.within(classes)) for name, s in spaces.items()}
    frozen, x = spaces["F"], spaces["F"].x[val]
    scores["relative"] = scores["Mahalanobis F"] - nearest(x, *frozen.total(classes))
    among = np.isin(cached.ids[cached.near_rows], classes)
    scores["neighbour"] = -np.partition(cached.near[:, among], -_NEIGHBOUR, axis=1)[:, -_NEIGHBOUR].astype(np.float64)
    held = cached.held & np.isin(cached.ids, classes)
    scores |= ridge_scores(frozen, x, classes, (frozen.x[held], cached.ids[held]))
    scores |= residual_scores(frozen, x, classes, scores["energy"])
    for names in _joinable(scores):
        scores["joined: " + ", ".join(name.removeprefix(_FAR) for name in names)] = joined(scores, names, known)
    return scores, known, unknown


def _joinable(scores: Mapping[str, Floats]) -> Iterator[tuple[str, ...]]:
    yield "Mahalanobis F", "ridge residual"
    yield "Mahalanobis F", "neighbour", "energy"
    yield "Mahalanobis B", "ridge residual"
    yield "Mahalanobis F", "Mahalanobis B", "ridge residual", "neighbour"
    if layers := tuple(name for name in scores if name.startswith(_FAR + _LAYER)):
        yield layers
        yield *layers, "Mahalanobis B", "ridge residual"


def measured(cached: Cached) -> list[dict[str, object]]:
    """A row for each network and score."""
    rows: list[dict[str, object]] = []
    for index, task in enumerate(cached.tasks):
        scores, known, unknown = scores_without(cached, index)
        for name, score in scores.items():
            low, high = score[known], score[unknown]
            found = float((high > np.quantile(low, 0.95)).mean())
            value = auroc(torch.from_numpy(high), torch.from_numpy(low))
            rows.append({"left_out": task, "score": name, "auroc": value, "detection_at_5": found})
    return rows


def print_table(rows: Sequence[Mapping[str, object]], tasks: Sequence[str], key: str, title: str) -> None:
    names = list(dict.fromkeys(str(row["score"]) for row in rows))
    wide = max(map(len, names)) + 1
    print(f"\n{title:<{wide}}" + "".join(f"{task[:8]:>9}" for task in tasks) + f"{'mean':>8}{'worst':>7}")
    lines = []
    for name in names:
        values = [float(str(row[key])) for row in rows if row["score"] == name]
        lines.append((float(np.mean(values)), name, values))
    for mean, name, values in sorted(lines, reverse=True):
        print(f"{name:<{wide}}" + "".join(f"{v:>9.3f}" for v in values) + f"{mean:>8.3f}{min(values):>7.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help="npz of cached features")
    parser.add_argument("--without", nargs="*", default=["control"], help="tasks to leave alone")
    parser.add_argument("--layers", type=int, nargs="*", default=[64, 96, 192, 256], help="widths of F's layers")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    arguments = parser.parse_args()
    cached = Cached.read(arguments.features, arguments.without, arguments.layers)
    rows = measured(cached)
    print_table(rows, cached.tasks, "auroc", "AUROC")
    print_table(rows, cached.tasks, "detection_at_5", "found at 5 %")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
