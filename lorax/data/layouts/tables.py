"""Tables that hold their images: Parquet and Arrow files, as Hugging Face's `datasets` and others write them.

What each row is, is read first, which takes no image; then the images become files, a few rows at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorax.data.images import Progress
from lorax.data.layouts.apart import Apart, inside
from lorax.data.layouts.items import Found, Item, Reading
from lorax.data.layouts.records import Labels, Row, columns, path_names, text_of, told_by_path
from lorax.data.layouts.words import listed, split_in
from lorax.errors import LayoutError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ENDINGS = (".parquet", ".arrow")
_KINDS = ("label", "generator", "split", "date")
_AT_ONCE = 32  # rows, each with an image
_MANY = 8192  # rows without
_BUFFER = 2**20  # bytes of a column that Parquet reads at once; else it reads all of a row group's


@dataclass(frozen=True)
class Table:
    """A file: its place in the source, its columns by kind, and what numbers of columns stand for."""

    path: Path
    shown: str
    columns: Mapping[str, str]
    names: Mapping[str, Sequence[str]]


def read_tables(
    root: Path, files: Sequence[str], reading: Reading, own: str, apart: Apart, progress: Progress | None
) -> Found:
    """The images of tables.

    Args:
        root: the folder that holds them.
        files: their paths in it.
        reading: as it was asked for.
        own: the generator's name where no column has it.
        apart: where the images become files.
        progress: told after each.

    Raises:
        LayoutError: a table is damaged, or it can't be told what is what.
    """
    tables = [_opened(root / name, name, reading) for name in files]
    rows = [_rows(table, Labels(table.path, reading, "label" in table.columns), own) for table in tables]
    total = sum(item is not None for items in rows for item in items)
    found: list[Item] = []
    for table, items in zip(tables, rows, strict=True):
        for item in _with_images(root, table, items, apart):
            found.append(item)
            if progress is not None:
                progress(len(found), total, "reading images")
    told = sorted({f"{kind}: column {name}" for table in tables for kind, name in table.columns.items()})
    kind = "Parquet" if files[0].endswith(ENDINGS[0]) else "Arrow"
    return Found(
        f"{len(files)} {kind} file{'s' * (len(files) > 1)} of images ({'; '.join(told)})",
        tuple(found),
        _unread(tables, reading),
    )


def _unread(tables: Sequence[Table], reading: Reading) -> tuple[str, ...]:
    """What to say where names of files may be those of generators, and are not asked for."""
    unsaid = [table.shown for table in tables if "generator" not in table.columns and not split_in(table.shown)]
    names = {path_names(shown)[-1] for shown in unsaid}
    if reading.levels or len({name.rstrip("0123456789") for name in names}) < 2:  # part-1, part-2
        return ()
    levels = "*/" * (len(path_names(tables[0].shown)) - 1) + "generator"
    return (f"no column tells generators. If the files' names do, {listed(names)}: --levels '{levels}'.",)


def _opened(path: Path, shown: str, reading: Reading) -> Table:
    with readable(path):
        schema = _schema(path)
    features = _features(schema)
    found = columns(schema.names, reading, path, _KINDS)
    image = columns(schema.names, reading, path, ("image",)).get("image") if reading.columns.get("image") else None
    image = image or image_column(path, schema)
    names = {kind: features[name]["names"] for kind, name in found.items() if "names" in features.get(name, {})}
    return Table(path, shown, {**found, "image": image}, names)


def image_column(path: Path, schema: pa.Schema) -> str:
    """The column whose type is that of images; by its name where several could be.

    Args:
        path: what messages call the table.
        schema: its columns.

    Raises:
        LayoutError: there is none, or it can't be told which it is.
    """
    import pyarrow.types as types

    def holds_bytes(kind: pa.DataType) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    features = _features(schema)
    typed = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    able = typed or [field.name for field in schema if holds_bytes(field.type)]
    named = columns(able, Reading(), path, ("image",)).get("image")
    if len(able) != 1 and not named:
        what = f"columns {', '.join(able)} all hold bytes" if able else "no column holds bytes of images"
        raise LayoutError(f"{path}: {what}. It has {', '.join(schema.names)}; --image-column names the one.")
    return named or able[0]


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What `datasets` says of the columns: in particular what a ClassLabel's numbers stand for."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: feature for name, feature in told.items() if isinstance(feature, dict)}


def _rows(table: Table, labels: Labels, own: str) -> list[Item | None]:
    """What each row is, without its image yet; None where it is not wanted."""
    generator, split = told_by_path(table.shown, labels.reading.levels)
    kinds = [kind for kind in _KINDS if kind in table.columns]
    found: list[Item | None] = []
    wanted = labels.reading.generators
    for batch in _batches(table, [table.columns[kind] for kind in kinds], _MANY):
        values = {kind: _texts(batch.column(table.columns[kind]), table.names.get(kind)) for kind in kinds}
        for number in range(batch.num_rows):
            row = Row(*(values[kind][number] if kind in values else "" for kind in _KINDS))
            item = labels.item(row, table.path, f"{table.shown}, row {len(found)}", "", generator or own, split)
            is_wanted = item is not None and (item.is_real or not wanted or item.generator in wanted)
            found.append(item if is_wanted else None)
    labels.check()
    return found


def _texts(column: pa.Array, names: Sequence[str] | None) -> list[str]:
    values = column.to_pylist()
    if names is None:
        return [text_of(value) for value in values]
    return [names[value] if isinstance(value, int) and 0 <= value < len(names) else "" for value in values]


def _with_images(root: Path, table: Table, items: Sequence[Item | None], apart: Apart) -> Iterator[Item]:
    number = -1
    stem = table.shown.rpartition(".")[0].replace("/", "-")
    for batch in _batches(table, [table.columns["image"]], _AT_ONCE):
        for value in batch.column(table.columns["image"]):
            number += 1
            item = items[number]
            if item is not None:
                path, name = _image(root, table, value.as_py(), item.shown, f"{stem}-{number:06d}", apart)
                yield replace(item, path=path, name=name)


def _image(root: Path, table: Table, value: Any, shown: str, name: str, apart: Apart) -> tuple[Path, str]:
    """The file of a row's image: of its bytes, or one beside the table, as `datasets` has it where there are none."""
    given = str(value.get("path") or "") if isinstance(value, dict) else ""
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is not None:
        return apart.file(bytes(data), name, given)
    if not given:
        raise LayoutError(f"{root}: {shown} has no image. Remove such rows.")
    path = inside(root.resolve(), [table.path.parent.resolve(), root.resolve()], given, shown)
    if path is None:
        raise LayoutError(f"{shown}: {given} is neither in {table.path.parent}, nor in {root}.")
    return path, f"{name}{path.suffix}"


def _schema(path: Path) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ENDINGS[0]:
        return pq.read_schema(path)
    with pa.memory_map(str(path)) as file:
        return _arrow(file).schema


def _arrow(file: Any) -> Any:
    """Its reader: of the streaming kind, which `datasets` writes, or of the other."""
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(file)
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_file(file)


def _batches(table: Table, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """The table's rows, some at a time, with these columns."""
    import pyarrow as pa

    if table.path.suffix == ENDINGS[0]:
        with parquet_file(table.path, table.path) as file:
            yield from row_batches(file, table.path, range(file.num_row_groups), names, rows)
        return
    with readable(table.path), pa.memory_map(str(table.path)) as mapped:
        reader = _arrow(mapped)
        whole: Iterable[pa.RecordBatch] = (
            reader if hasattr(reader, "__iter__") else (reader.get_batch(n) for n in range(reader.num_record_batches))
        )
        for batch in whole:
            part = batch.select([*names]) if names else _without_columns(batch.num_rows)
            for start in range(0, part.num_rows, rows):
                yield part.slice(start, rows)


def parquet_file(source: Any, path: Path) -> pq.ParquetFile:
    """A Parquet file that is read a few rows at a time, damage to its pages found.

    Args:
        source: its path, or the file itself, opened.
        path: what messages call it.

    Raises:
        LayoutError: it is no Parquet file, or cut off.
    """
    import pyarrow.parquet as pq

    with readable(path):
        return pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER, page_checksum_verification=True)


def row_batches(
    file: pq.ParquetFile, path: Path, groups: Iterable[int], names: Sequence[str], rows: int = _AT_ONCE
) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups, a few at a time, with these columns.

    Raises:
        LayoutError: a group is damaged.
    """
    for group in groups:
        with readable(path, f"row group {group + 1} of {file.num_row_groups}"):
            if not names:
                yield _without_columns(file.metadata.row_group(group).num_rows)
            else:
                yield from file.iter_batches(rows, row_groups=[group], columns=[*names], use_threads=False)


def _without_columns(rows: int) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.record_batch({"": pa.nulls(rows)})


@contextmanager
def readable(path: Path, part: str = "it") -> Iterator[None]:
    """Turn what Arrow raises of a damaged file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        said = " ".join(str(error).split())[:200]
        raise LayoutError(f"{path} is damaged: {part} can't be read ({said}). Fetch the file again.") from error
