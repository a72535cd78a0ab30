"""What an atlas knows of an adapter beside its numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

ADAPTER, BRANCH, DERIVED = "adapter", "branch", "derived"
"""Kinds: a file from anywhere, a learner state's branch, one whose training began at another entry's weights."""


@dataclass(frozen=True)
class AtlasEntry:
    """One row of entries.csv.

    Args:
        digest: of its factors; see `lorax.atlas.adapter.digest_of`.
        name: unique within the atlas.
        label: what it is known to have learned, or "".
        kind: "adapter", "branch" or "derived"; the last is alike by birth: of no family, and nobody's nearest.
        source: where it was read from.
        format: of its file.
        base: the base model that it states, or "".
        rank: the largest of its layers.
        length: of its product's sketch row; that of BA over all layers, but for the sketch's error.
        added: when, UTC.
    """

    digest: str
    name: str
    label: str
    kind: str
    source: str
    format: str
    base: str
    rank: int
    length: float
    added: str

    @property
    def is_derived(self) -> bool:
        return self.kind == DERIVED


COLUMNS = tuple(column.name for column in fields(AtlasEntry))


def counted(count: int, one: str, many: str = "") -> str:
    """A number and what is counted: "1 entry", "2 entries"; without `many`, an "s" is put behind `one`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def to_csv(entries: Iterable[AtlasEntry]) -> str:
    """The text of entries.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(entry) for entry in entries)
    return text.getvalue()


def from_csv(text: str) -> list[AtlasEntry]:
    """Its inverse.

    Raises:
        ValueError, TypeError: it isn't one.
    """
    return [_parsed(row) for row in csv.DictReader(io.StringIO(text))]


def _parsed(row: dict[str, Any]) -> AtlasEntry:
    return AtlasEntry(**row | {"rank": int(row["rank"]), "length": float(row["length"])})
