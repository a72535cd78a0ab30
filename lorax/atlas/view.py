"""A view of an atlas: its entries as vectors, by one descriptor and one module group.

    bases/<descriptor>-<group>.safetensors    the basis, every entry's scores in it, and their residuals

Views are derived from the segments. Their files may be removed at any time; one that is damaged, or was made of other
segments, counts as removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from lorax.atlas.descriptor import SINGULAR_VALUES
from lorax.atlas.segments import Segment, Segments
from lorax.atlas.space import Basis, Rows, directions, drawn, fit_basis
from lorax.errors import StorageError
from lorax.storage import write_whole

POOLED, POOLED_WIDTH = "pooled", 6 * (1 + SINGULAR_VALUES)
"""The kind of rows by which base models are compared, and how many columns they have: of six cells of layers."""

LEAST = 24
"""Entries from which on a basis is fitted unasked. With fewer, neighbours are found less often by principal components
than by the descriptors themselves (docs/log.md): what they leave out is not only noise."""

DIMS = 64
"""Principal components of a basis, if not asked for others."""

_FOLDER = "bases"
_EQUAL = 1e-4
_NONE = 1e-12
_OUTGROWN = 2
"""A basis of few entries leaves so much of any newcomer outside that drift can't show; it is refitted for its age."""


_OF_LENGTH_1 = ("product", "factors")
"""Kinds of rows of which the direction counts. An adapter's alpha, and how long it was trained, set their lengths: with
these in the basis, all weak ones would lie together, beyond the mean. Spectra are logarithms and shares as they are."""


@dataclass(frozen=True)
class Lens:
    """Which columns of which rows are looked at."""

    kind: str
    group: str
    columns: np.ndarray

    @property
    def file(self) -> str:
        return f"{_FOLDER}/{self.kind}-{self.group}.safetensors"

    def seen(self, rows: Rows) -> Rows:
        """What is compared of rows (n, F): (n, d)."""
        chosen = rows[:, self.columns]
        return directions(chosen) if self.kind in _OF_LENGTH_1 else chosen


@dataclass(frozen=True)
class View:
    """Entries' vectors (N, d), and what of each lies outside the basis (N,).

    Without a basis, in a small collection, vectors are the descriptors' own columns; nothing lies outside.
    """

    lens: Lens
    basis: Basis | None
    vectors: Rows
    residuals: Rows

    def place(self, row: Rows) -> tuple[Rows, float]:
        """A descriptor row (F,) -> its vector (d,), and its residual."""
        seen = self.lens.seen(row[None])
        if self.basis is None:
            return seen[0], 0.0
        scores, residuals = self.basis.project(seen, newcomers=False)
        equal = _EQUAL * np.abs(scores).max()
        near = np.flatnonzero(np.abs(self.residuals - residuals) <= equal)  # few: to look at all takes long
        apart = np.abs(self.vectors[near] - scores).max(axis=1) + np.abs(self.residuals[near] - residuals)
        if apart.min(initial=np.inf) <= equal:  # one that the basis was fitted on is no newcomer
            return scores[0], float(residuals[0])
        return scores[0] * self.basis.stretch, float(residuals[0])

    def similarities(self, vectors: Rows) -> Rows:
        """Cosines (n, N) of vectors (n, d) with every entry's, in [-1, 1]."""
        return np.asarray(directions(vectors) @ self.vectors.T / self._lengths, np.float32).clip(-1, 1)

    @cached_property
    def _lengths(self) -> Rows:
        return np.asarray(np.maximum(np.linalg.norm(self.vectors, axis=1), _NONE), np.float32)

    @property
    def limit(self) -> float | None:
        """The residual that one newcomer in twenty exceeds; None without a basis, or with a whole one."""
        return None if self.basis is None or self.basis.is_whole else self.basis.limit

    def residual_of(self, number: int) -> float | None:
        """What of an entry lies outside the basis; None without a limit, and of entries that it was fitted on."""
        if self.basis is None or self.limit is None or number < self.basis.collection:
            return None
        return float(self.residuals[number])

    def is_drifting(self, newcomers: Sequence[int]) -> bool:
        """Whether the newcomers among the entries with these numbers lie outside what the basis was fitted on."""
        residuals = [residual for number in newcomers if (residual := self.residual_of(number)) is not None]
        return self.basis is not None and self.basis.is_drifting(np.array(residuals))

    def refit_advice(self, newcomers: Sequence[int]) -> str:
        """Why the basis should be fitted anew after these entries came in; "" if it need not be."""
        if self.basis is None:
            return ""
        if self.is_drifting(newcomers):
            usual = f"{100 * self.basis.limit:.1f} %"
            return f"the newcomers lie outside what the basis was fitted on (up to {usual} outside is usual)"
        if len(self.vectors) >= _OUTGROWN * self.basis.collection:
            return f"the basis was fitted on {self.basis.collection} of now {len(self.vectors)} entries"
        return ""

    @property
    def described(self) -> str:
        """By what its entries are compared, in words."""
        of = f"{self.lens.kind} of {self.lens.group} layers"
        if self.basis is None:
            few = "1 entry is" if len(self.vectors) == 1 else f"{len(self.vectors)} entries are"
            return f"{of}: plain cosine, since {few} too few for principal components"
        dims, fitted = len(self.basis.components), self.basis.collection
        return f"{of}: cosine in {dims} principal components fitted on {fitted} entries"


def open_view(atlas_dir: Path, lens: Lens, segments: Sequence[Segment]) -> View:
    """The view as it was last fitted, with what was added since placed in it; fitted now if it never was."""
    rows = Segments(atlas_dir, segments)
    count = sum(segment.count for segment in segments)
    kept = _read(atlas_dir / lens.file, lens, segments)
    if kept is None or kept.basis is None:
        if count < LEAST:
            return _plain(lens, rows)
        view = _fitted(atlas_dir, lens, segments, DIMS)
        with suppress(StorageError):  # an atlas that may only be read
            _write(atlas_dir / lens.file, view, segments)
        return view
    if len(kept.vectors) == count:
        return kept
    vectors, residuals = _projected(kept.basis, lens, rows, len(kept.vectors), np.array([], int))
    view = replace(
        kept,
        vectors=np.concatenate([kept.vectors, vectors]),
        residuals=np.concatenate([kept.residuals, residuals]),
    )
    with suppress(StorageError):  # an atlas that may only be read
        _write(atlas_dir / lens.file, view, segments)
    return view


def fit_view(atlas_dir: Path, lens: Lens, segments: Sequence[Segment], dims: int = DIMS) -> View:
    """Fit the basis over all entries, place them in it and keep it.

    Args:
        dims: principal components at most.

    Raises:
        AtlasError: a segment is damaged.
        StorageError: the basis can't be kept.
    """
    view = _fitted(atlas_dir, lens, segments, dims)
    _write(atlas_dir / lens.file, view, segments)
    return view


def _fitted(atlas_dir: Path, lens: Lens, segments: Sequence[Segment], dims: int) -> View:
    rows = Segments(atlas_dir, segments)
    count = sum(segment.count for segment in segments)
    chosen = drawn(count)
    basis = replace(fit_basis(_sample(rows, lens, chosen), dims), collection=count)
    vectors, residuals = _projected(basis, lens, rows, 0, chosen)
    return View(lens, basis, vectors, residuals)


def _sample(rows: Segments, lens: Lens, chosen: np.ndarray) -> Rows:
    first, seen = 0, []
    for block in rows.blocks(lens.kind):
        here = chosen[(chosen >= first) & (chosen < first + len(block))] - first
        seen.append(lens.seen(block[here]))
        first += len(block)
    return np.concatenate(seen)


def _projected(basis: Basis, lens: Lens, rows: Segments, start: int, fitted: np.ndarray) -> tuple[Rows, Rows]:
    """Scores and residuals of the entries from number `start` on; all but the `fitted` ones are newcomers."""
    scores, residuals = [], []
    for block in rows.blocks(lens.kind, start):
        plain, residual = basis.project(lens.seen(block), newcomers=False)
        is_new = ~np.isin(np.arange(start, start + len(block)), fitted)
        scores.append(np.where(is_new[:, None], plain * basis.stretch, plain))
        residuals.append(residual)
        start += len(block)
    return np.concatenate(scores), np.concatenate(residuals)


def _plain(lens: Lens, rows: Segments) -> View:
    blocks = [lens.seen(block) for block in rows.blocks(lens.kind)]
    stacked = np.concatenate([np.empty((0, len(lens.columns)), np.float32), *blocks])
    return View(lens, None, stacked, np.zeros(len(stacked), np.float32))


def _write(path: Path, view: View, segments: Sequence[Segment]) -> None:
    assert view.basis is not None
    tensors = {**view.basis.tensors(), "vectors": view.vectors, "residuals": view.residuals}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    about = {"segments": str(len(segments)), "made_of": _names(segments), "sha256": _digest(tensors)}
    write_whole(path, safetensors.numpy.save(tensors, about))


def _read(path: Path, lens: Lens, segments: Sequence[Segment]) -> View | None:
    """The view that was kept, of all of these segments or of the first ones; None if there is none that can be used."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        of = segments[: int(about["segments"])]
        if about["made_of"] != _names(of) or about["sha256"] != _digest(tensors):
            return None
        basis = Basis.parse(tensors)
        view = View(lens, basis, tensors["vectors"], tensors["residuals"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError):
        return None
    return view if len(view.vectors) == sum(segment.count for segment in of) else None


def _names(segments: Sequence[Segment]) -> str:
    """What a kept view was made of, and how: a view of another release counts as removed."""
    made_of = ["rows of length 1, layers by their size", *(segment.name for segment in segments)]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _digest(tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()
