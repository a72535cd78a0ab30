"""The images of a source: files, rows of Parquet files, members of WebDataset's tar files; found first, read later.

What is found says where an image's bytes lie, so that any part of a source can be read by itself.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from lorax.data.layout import is_image
from lorax.data.layouts import tables, tars
from lorax.errors import ImageError, LayoutError, ScoringError
from lorax.scoring.places import Place

TABLE, TAR = tables.ENDINGS[0].encode(), tars.ENDINGS[0].encode()


@dataclass(frozen=True)
class Entry:
    """Where an image lies.

    Args:
        name: what verdicts call it.
        file: the file's name in the source.
        offset: of a row of a Parquet file its number, of a member of a tar file where its bytes begin.
        size: of a member, bytes.
        problem: why it can't be read; else "".
    """

    name: str
    file: bytes
    offset: int = 0
    size: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Image:
    """One to be judged: its name, and how its bytes are had, which raises an ImageError where they can't be."""

    name: str
    fetch: Callable[[], bytes]


def holders(place: Place) -> list[bytes]:
    """The files that hold a source's images, in order; none where each image is a file.

    Raises:
        ScoringError: there are Parquet files and tar files.
    """
    found: dict[bytes, list[bytes]] = {TABLE: [], TAR: []}
    for name, _ in place.files():
        if ending := next((ending for ending in found if name.endswith(ending)), None):
            found[ending].append(name)
    if all(found.values()):
        raise ScoringError(
            f"{place.source} has Parquet files and tar files: name one file, or a folder of either kind."
        )
    return found[TABLE] or found[TAR]


def file_entries(place: Place) -> Iterator[Entry]:
    """The images of a source in which each is a file; whatever else lies there turns out to be none."""
    for name, problem in place.files():
        yield Entry(shown(name), name, problem=problem)


def held_entries(place: Place, file: bytes, column: str | None) -> list[Entry]:
    """The images that a file holds, in its order.

    Args:
        place: of the source.
        file: one of its `holders`.
        column: the one that holds images, where it was named.

    Raises:
        LayoutError: the file is damaged, or it can't be told which of its columns holds images.
    """
    path = _path(place, file)
    if file.endswith(TAR):
        with tars.readable(path), place.open(file) as opened:
            return list(_members(opened, path, file))
    with tables.readable(path), place.open(file) as opened, tables.parquet_file(opened, path) as table:
        _column(table, path, column)
        return [Entry(f"{shown(file)}, row {row}", file, row) for row in range(table.metadata.num_rows)]


def read(place: Place, entries: Iterable[Entry], column: str | None) -> Iterator[Image]:
    """Images of a source, in the order of their entries, which has those of a Parquet file by row.

    Args:
        place: of the source.
        entries: see above.
        column: as above.

    Raises:
        ScoringError: a file that holds images is gone, or its store fails: its images are no bad ones.
    """
    for file, group in groupby(entries, key=lambda entry: entry.file):
        wanted = list(group)
        if file.endswith((TABLE, TAR)):
            try:
                yield from _rows(place, file, wanted, column) if file.endswith(TABLE) else _bytes(place, file, wanted)
            except OSError as error:
                raise ScoringError(
                    f"{_path(place, file)} can't be read ({error}). What is finished stays: run again once it can."
                ) from error
        else:
            yield from (Image(entry.name, partial(_file, place, entry)) for entry in wanted)


def shown(name: bytes) -> str:
    """A file's name as text; bytes that are none come out escaped."""
    return os.fsdecode(name).encode(errors="backslashreplace").decode()


def _file(place: Place, entry: Entry) -> bytes:
    if entry.problem:
        raise ImageError(entry.problem)
    return place.read(entry.file)


def _path(place: Place, file: bytes) -> Path:
    """What messages call a file."""
    return Path(shown(file)) if "://" in place.source else Path(place.source).joinpath(shown(file))


def _members(opened: Any, path: Path, file: bytes) -> Iterator[Entry]:
    with tarfile.open(fileobj=opened, mode="r:") as archive:
        for member in archive:
            name = tars.member_name(path, member)
            if name and is_image(name):
                yield Entry(f"{shown(file)}, {name}", file, member.offset_data, member.size)
        tars.check_end(path, archive, opened.seek(0, os.SEEK_END))


def _bytes(place: Place, file: bytes, entries: Sequence[Entry]) -> Iterator[Image]:
    with place.open(file) as opened:
        for entry in entries:
            opened.seek(entry.offset)
            data = opened.read(entry.size)
            yield Image(entry.name, partial(_given, data, entry.name))


def _given(data: bytes | None, name: str, problem: str = "") -> bytes:
    if data is None:
        raise ImageError(f"{name} {problem}")
    return data


def _column(table: Any, path: Path, asked: str | None) -> str:
    schema = table.schema_arrow
    if asked is not None and asked not in schema.names:
        raise LayoutError(f"{path} has no column {asked!r}; it has {', '.join(schema.names)}.")
    return asked or tables.image_column(path, schema)


def _rows(place: Place, file: bytes, entries: Sequence[Entry], asked: str | None) -> Iterator[Image]:
    """Rows of a Parquet file, of which only the row groups that hold them are read."""
    path = _path(place, file)
    with place.open(file) as opened, tables.parquet_file(opened, path) as table:
        column = _column(table, path, asked)
        waiting, begin = list(reversed(entries)), 0
        for group in range(table.num_row_groups):
            end = begin + table.metadata.row_group(group).num_rows
            wanted = []
            while waiting and waiting[-1].offset < end:
                wanted.append(waiting.pop())
            if wanted:
                yield from _group(table, path, group, column, wanted, begin)
            begin = end


def _group(table: Any, path: Path, group: int, column: str, entries: Sequence[Entry], begin: int) -> Iterator[Image]:
    """Rows of a row group that begins at row `begin`; those of a damaged one can't be read."""
    waiting = list(reversed(entries))
    try:
        for batch in tables.row_batches(table, path, [group], [column]):
            while waiting and waiting[-1].offset < begin + batch.num_rows:
                entry = waiting.pop()
                value = batch.column(0)[entry.offset - begin].as_py()
                data = value.get("bytes") if isinstance(value, dict) else value
                yield Image(entry.name, partial(_given, data, entry.name, "has no image in it."))
            if not waiting:
                return
            begin += batch.num_rows
    except LayoutError as error:
        problem = f"can't be read: {error}"
        yield from (Image(entry.name, partial(_given, None, entry.name, problem)) for entry in reversed(waiting))
