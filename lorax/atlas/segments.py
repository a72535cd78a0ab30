"""What an atlas keeps of adapters, in segments: what one add brought, written once and never changed.

segments/000001-<hash8>/    entries.csv, and one matrix (n, F) as safetensors for each kind of row
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from lorax.atlas.space import Rows
from lorax.errors import AtlasError
from lorax.storage import storage_errors, whole_directory

ADAPTER, BRANCH, DERIVED = "adapter", "branch", "derived"
"""Kinds: a file from anywhere, a learner state's branch, one whose training began at another entry's weights."""


@dataclass(frozen=True)
class AtlasEntry:
    """One row of entries.csv."""

    digest: str  # of its factors; see `lorax.atlas.adapter.digest_of`.
    name: str  # unique within the atlas
    label: str  # what it is known to have learned, or ""
    kind: str  # "adapter", "branch" or "derived"; the last is alike by birth: of no family, and nobody's nearest
    source: str  # where it was read from
    format: str  # of its file
    base: str  # the base model that it states, or "NAME (by its layers)", which is a guess, or ""
    rank: int  # the largest of its layers
    length: float  # of its product's sketch row; that of BA over all layers, but for the sketch's error
    added: str  # when, UTC
    algorithm: str = "LoRA"  # the kinds of its layers; see `lorax.atlas.kinds`
    lost: float = 0.0  # the share of its squared norm that its factors lack, where they are a leading part

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
    return AtlasEntry(
        **row | {"rank": int(row["rank"]), "length": float(row["length"]), "lost": float(row.get("lost", 0))}
    )


_FOLDER = "segments"
_ENTRIES = "entries.csv"
_NAME, _FILE = re.compile(r"\d{6,}-[0-9a-f]{8}"), re.compile(r"[a-z]+\.(csv|safetensors)")
_OURS = re.compile(r"\d{6,}-[0-9a-f]{8}|\.\d{6,}-[0-9a-f]{8}-\w+")
"""How segments and their drafts are named; whatever else lies beside them is somebody's."""


@dataclass(frozen=True)
class Segment:
    """Its folder's name, how many entries it holds, when it was written, and the sha256 of each of its files."""

    name: str
    count: int
    when: str
    files: Mapping[str, str]

    def __post_init__(self) -> None:
        """Another's atlas.json names files; so that these lie in the atlas."""
        for name, form in ((self.name, _NAME), *((file, _FILE) for file in self.files)):
            if not form.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a segment or of its files")


def write_segment(atlas_dir: Path, number: int, entries: Sequence[AtlasEntry], rows: Mapping[str, Rows]) -> Segment:
    """Write n entries with their rows (n, F) of each kind. Nothing knows of the segment yet."""
    files = {_ENTRIES: to_csv(entries).encode()}
    files |= {f"{kind}.safetensors": safetensors.numpy.save({"rows": matrix}) for kind, matrix in rows.items()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    name = f"{number:06d}-{hashlib.sha256(''.join(sorted(digests.values())).encode()).hexdigest()[:8]}"
    with whole_directory(atlas_dir / _FOLDER / name) as draft:
        for file, data in files.items():
            (draft / file).write_bytes(data)
    return Segment(name, len(entries), now(), digests)


def remove_leftovers(atlas_dir: Path, known: Sequence[Segment]) -> None:
    """Remove segments, whole or half written, that no revision came to name: their add was killed, or failed."""
    names = {segment.name for segment in known}
    folder = atlas_dir / _FOLDER
    with storage_errors(folder):
        for path in list(folder.iterdir()) if folder.is_dir() else []:
            if path.name not in names and _OURS.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)


def has_segments(atlas_dir: Path) -> bool:
    """Whether anything lies where segments do, hidden files aside."""
    folder = atlas_dir / _FOLDER
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


class Segments:
    """All segments of one revision, read. A file's sha256 is checked when it is read first.

    Whatever reads raises AtlasError where a file is missing or damaged.
    """

    def __init__(self, atlas_dir: Path, segments: Sequence[Segment]) -> None:
        self._folder, self._segments = atlas_dir / _FOLDER, tuple(segments)
        self._checked: set[Path] = set()

    def entries(self) -> list[AtlasEntry]:
        """In the order of adding."""
        all_entries: list[AtlasEntry] = []
        for segment in self._segments:
            entries = from_csv(self.read(segment, _ENTRIES).decode())
            if len(entries) != segment.count:
                raise self._damage(segment, _ENTRIES, f"it has {len(entries)} rows, {segment.count} are expected")
            all_entries += entries
        return all_entries

    def check_widths(self, widths: Mapping[str, int]) -> None:
        """Refuse an atlas whose record was changed, so that its rows are not what it says: kind -> numbers in a row.

        Raises:
            AtlasError: it was.
        """
        for segment in self._segments[:1]:  # all were written by one describer
            for kind, width in widths.items():
                file = f"{kind}.safetensors"
                with suppress(OSError, safetensors.SafetensorError):  # is told when its rows are asked for
                    with safetensors.safe_open(self._folder / segment.name / file, "numpy") as stored:
                        width_there = stored.get_slice("rows").get_shape()[1]
                    if width_there != width:
                        raise self._damage(segment, file, f"its rows have {width_there} numbers, {width} by atlas.json")

    def blocks(self, kind: str, start: int = 0) -> Iterator[Rows]:
        """Rows (n, F) of one kind from entry number `start` on, one segment after the other."""
        first = 0
        for segment in self._segments:
            if first + segment.count > start:
                yield self._matrix(segment, kind)[max(0, start - first) :]
            first += segment.count

    def row(self, kind: str, number: int) -> Rows:
        """The row (F,) of one entry."""
        first = 0
        for segment in self._segments:
            if number < first + segment.count:
                return np.asarray(self._matrix(segment, kind)[number - first])
            first += segment.count
        raise IndexError(number)

    def _matrix(self, segment: Segment, kind: str) -> Rows:
        file = f"{kind}.safetensors"
        data: dict[str, Any] = safetensors.numpy.load(self.read(segment, file))
        matrix: Rows = data["rows"]
        if len(matrix) != segment.count:
            raise self._damage(segment, file, f"it has {len(matrix)} rows, {segment.count} are expected")
        return matrix

    def read(self, segment: Segment, file: str) -> bytes:
        """One of a segment's files, whole."""
        path = self._folder / segment.name / file
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise self._damage(segment, file, "it is missing") from None
        except OSError as error:
            raise self._damage(segment, file, f"it can't be read ({error.strerror})") from error
        if path not in self._checked:
            actual, stated = hashlib.sha256(data).hexdigest(), segment.files.get(file, "none")
            if actual != stated:
                raise self._damage(segment, file, f"its sha256 is {actual[:12]}, atlas.json states {stated[:12]}")
            self._checked.add(path)
        return data

    def _damage(self, segment: Segment, file: str, what: str) -> AtlasError:
        return AtlasError(
            f"{self._folder / segment.name / file}: {what}. The atlas is damaged: bring this file back from a copy, "
            "or make the atlas anew from its adapters."
        )


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
