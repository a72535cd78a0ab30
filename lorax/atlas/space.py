"""The space in which adapters of a collection are compared: centred descriptor rows, their principal components.

Every column counts by how much it varies, and so every layer by how much was learned there. Layers that hardly changed
say more of where training began than of what was learned; made as loud as the others, they drown them (docs/log.md,
2026-11-30).

A basis is fitted over a collection. Adapters that it was fitted on lie closer to it than newcomers do: the components
bend towards the very rows they were fitted on, the more so the fewer rows there are, and a newcomer's scores come out
too small. How much is measured by leaving rows out while fitting, and newcomers' scores are stretched accordingly;
what lies outside the basis is their residual.

Source: PCA over a collection of LoRAs and the need to calibrate newcomers: Liu et al. (arXiv 2412.12048); that scores
of new rows shrink: Lee, Zou and Wright, Convergence and prediction of principal component scores in high-dimensional
settings (Annals of Statistics, 2010). The factors here are found by cross-validation, not by their formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Rows = NDArray[np.float32]

MOST_FITTED = 2048
"""Rows that a basis is fitted on at most: what bounds its time and memory."""

LEAST_FITTED = 8
"""Rows below which principal components say more about chance than about adapters."""

_FOLDS = 5
_STRANGE = 0.95
_NONE = 1e-12


@dataclass(frozen=True)
class Basis:
    """F numbers of an adapter to d scores."""

    mean: Rows  # of the rows fitted on, (F,)
    components: Rows  # (d, F), orthonormal
    stretch: Rows  # what newcomers' scores are multiplied by, (d,); at least 1
    usual: Rows  # residuals of rows that were left out while fitting, as shares of their squared length, sorted
    collection: int  # how many rows the collection had when it was fitted
    varying: int  # columns in which the rows fitted on differ

    def project(self, rows: Floats, *, newcomers: bool) -> tuple[Rows, Rows]:
        """Rows (n, F) -> scores (n, d), and residuals (n,) in [0, 1]: the share of a row outside the basis.

        Args:
            newcomers: they were not among those that the basis was fitted on, so their scores are stretched.
        """
        centred = _centred(rows, self.mean)
        scores = centred @ self.components.T
        length = np.square(centred).sum(1)
        residuals = 1 - np.square(scores).sum(1) / np.maximum(length, _NONE)
        return scores * (self.stretch if newcomers else 1), residuals.clip(0, 1)

    @property
    def is_whole(self) -> bool:
        """Whether it has as many components as there are columns with anything in them: nothing lies outside."""
        return len(self.components) >= self.varying

    @property
    def limit(self) -> float:
        """The residual that one newcomer in twenty like those it was fitted on would exceed."""
        return float(np.quantile(self.usual, _STRANGE))

    def is_drifting(self, residuals: Floats) -> bool:
        """Whether newcomers lie so far outside that the basis should be fitted anew.

        Half of them beyond the usual median would be chance; so their median is held to the limit.
        """
        return len(residuals) > 0 and float(np.median(residuals)) > self.limit

    def tensors(self) -> dict[str, Floats]:
        """For a safetensors file; `parse` is the inverse."""
        counts = np.array([self.collection, self.varying], np.float32)
        return {name: getattr(self, name) for name in _ARRAYS} | {"counts": counts}

    @classmethod
    def parse(cls, tensors: Mapping[str, Floats]) -> Basis:
        arrays = {name: np.asarray(tensors[name], np.float32) for name in _ARRAYS}
        collection, varying = (int(count) for count in tensors["counts"])
        return cls(**arrays, collection=collection, varying=varying)


_ARRAYS = ("mean", "components", "stretch", "usual")


def drawn(count: int) -> NDArray[np.intp]:
    """Numbers of the rows that a basis is fitted on, sorted: all, or `MOST_FITTED` drawn at random, always the same.

    Collections come in some order, family by family or in rotation; every so-manyth would be none of some families.
    """
    if count <= MOST_FITTED:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MOST_FITTED, replace=False))


def fit_basis(rows: Floats, dims: int) -> Basis:
    """Fit a basis over a collection's rows.

    Args:
        rows: (N, F), N at least `LEAST_FITTED`.
        dims: d at most; fewer where there are fewer rows.
    """
    sample = np.asarray(rows, np.float32)
    mean = sample.mean(0)
    centred = _centred(sample, mean)
    folds = min(_FOLDS, len(sample))
    dims = min(dims, len(sample) - 1 - -(-len(sample) // folds), centred.shape[1])
    components = _components(centred, dims)
    stretch, usual = _left_out(centred, components, folds)
    return Basis(mean, components, stretch, np.sort(usual), len(sample), int(np.count_nonzero(centred.any(0))))


def similarity(one: Floats, other: Floats) -> Rows:
    """Cosines (n, m) of rows (n, d) and (m, d), in [-1, 1]; 0 where a row is zero."""
    return np.asarray(directions(one) @ directions(other).T, np.float32).clip(-1, 1)


def directions(rows: Floats) -> Rows:
    """Rows (n, F), each scaled to length 1: what was learned, not how strongly; a row of zeros stays one."""
    rows = np.asarray(rows, np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _NONE), np.float32)


def _centred(rows: Floats, mean: Rows) -> Rows:
    return np.asarray(rows, np.float32) - mean


def _components(centred: Rows, dims: int) -> Rows:
    """The first principal components (d, F) of centred rows (N, F); the signs are scikit-learn's rule."""
    from sklearn.decomposition import PCA

    solver = "randomized" if min(centred.shape) > 8 * dims else "full"
    return np.asarray(PCA(dims, svd_solver=solver, random_state=0).fit(centred).components_, np.float32)


def _left_out(centred: Rows, components: Rows, folds: int) -> tuple[Rows, Rows]:
    """How much newcomers' scores must be stretched (d,), and their residuals (N,).

    Rows are left out by turns, in an order of chance, and projected on components fitted without them. What of a row is
    found so, seen in the whole collection's components, is held against its score there: the stretch is the slope
    between the two.
    """
    scores = centred @ components.T
    without, residuals = np.zeros_like(scores), np.zeros(len(centred), np.float32)
    turns = np.random.default_rng(0).permutation(len(centred)) % folds
    for turn in range(folds):
        out = turns == turn
        mean = centred[~out].mean(0)
        others = _components(centred[~out] - mean, len(components))
        left = centred[out] - mean
        part = left @ others.T
        without[out] = (part @ others + mean) @ components.T
        residuals[out] = 1 - np.square(part).sum(1) / np.maximum(np.square(left).sum(1), _NONE)
    slope = (scores * without).sum(0) / np.maximum(np.square(without).sum(0), _NONE)
    return np.maximum(slope, 1).astype(np.float32), residuals.clip(0, 1)
