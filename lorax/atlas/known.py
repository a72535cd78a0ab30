"""What tells whether an adapter is in an atlas already: its digest, its name, and a few numbers of its product."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from lorax.atlas.segments import AtlasEntry
from lorax.atlas.space import Rows
from lorax.errors import AdapterError

_COSINE = 1e-6
_LENGTH = 1e-3
_MARKS = 16
_SHORT_DIGEST = 8


class AlreadyThereError(AdapterError):
    """The atlas holds this adapter."""


class Known:
    """The entries of an atlas and of the add in progress, looked up by what must be unique.

    Args:
        entries: of the atlas.
        marks: their `marks_of`, in blocks (n, 16).
        product: gives the product row (F,) of the entry with a number, counted on for what is taken in.
    """

    def __init__(self, entries: Sequence[AtlasEntry], marks: Iterable[Rows], product: Callable[[int], Rows]) -> None:
        self._product = product
        self._entries = list(entries)
        self._names = {entry.name for entry in entries}
        self._digests = {entry.digest: entry for entry in entries}
        self._marks = np.concatenate([np.empty((0, _MARKS), np.float32), *marks])

    def check(self, digest: str, source: str) -> None:
        """Refuse numbers that are there.

        Raises:
            AlreadyThereError: they are.
        """
        same = self._digests.get(digest)
        if same is not None:
            raise AlreadyThereError(
                f"{source} is in the atlas already, number for number, as {same.name!r}. Leave it out."
            )

    def take(self, entry: AtlasEntry, row: Rows) -> tuple[AtlasEntry, Rows]:
        """Count an adapter in whose numbers are new; gives it back under a name that is free, and its marks.

        Args:
            entry: of the adapter.
            row: its product's (F,).

        Raises:
            AlreadyThereError: the same product, from other factors, is there.
        """
        marks = marks_of(row, entry.length)
        same = self._with_product(entry.length, marks, row)
        if same is not None:
            raise AlreadyThereError(
                f"{entry.source} is in the atlas already as {same.name!r}: other factors, but their product B A is the "
                "same. Leave it out."
            )
        self._add(named := replace(entry, name=self._free_name(entry)), marks)
        return named, marks

    def _add(self, entry: AtlasEntry, marks: Rows) -> None:
        if len(self._entries) == len(self._marks):
            self._marks = np.concatenate([self._marks, np.empty((max(256, len(self._marks)), _MARKS), np.float32)])
        self._marks[len(self._entries)] = marks
        self._entries.append(entry)
        self._names.add(entry.name)
        self._digests[entry.digest] = entry

    def _with_product(self, length: float, marks: Rows, row: Rows) -> AtlasEntry | None:
        """The entry whose product is the same, whatever its factors."""
        most, known = math.sqrt(2 * _COSINE), self._marks[: len(self._entries)]
        near = np.flatnonzero(np.abs(known[:, 0] - marks[0]) <= most)  # few, so that the rest is looked at for few only
        for number in map(int, near[np.abs(known[near] - marks).max(axis=1) <= most]):
            entry = self._entries[number]
            if abs(entry.length / length - 1) <= _LENGTH and _cosine(self._product(number), row) >= 1 - _COSINE:
                return entry
        return None

    def _free_name(self, entry: AtlasEntry) -> str:
        """A second `gaugan` becomes `gaugan@<digest>`."""
        if entry.name not in self._names:
            return entry.name
        short = f"{entry.name}@{entry.digest[:_SHORT_DIGEST]}"
        return short if short not in self._names else f"{entry.name}@{entry.digest}"


def marks_of(row: Rows, length: float) -> Rows:
    """A product row (F,) in short (16,): its inner products with sixteen orthonormal waves, as a unit row.

    Rows that lie near each other have marks that do; others' nearly never.
    """
    return np.asarray(_waves(len(row)) @ (row.astype(np.float64) / length), np.float32)


@lru_cache(maxsize=4)
def _waves(width: int) -> np.ndarray:
    places = (np.arange(width) + 0.5) / width
    return np.cos(np.pi * np.outer(np.arange(1, _MARKS + 1), places)) * math.sqrt(2 / width)


def _cosine(a: Rows, b: Rows) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))
