"""Where every image comes from: one row an image, one table a task, and one of all."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lorax.storage import write_whole


@dataclass(frozen=True)
class Row:
    """One image of the set.

    Args:
        file: its path below the root: FOLDER/TASK/SPLIT/CLASS/NUMBER.png.
        task, split, kind: as in its path.
        photograph, photograph_package: what it was cut from, and what brought that.
        x, y: place of the patch in the master, pixels.
        activity, activity_class: of the photograph there, before any network.
        package, version, licence, command: what made it; empty for reals.
        sha256: of its bytes.
    """

    file: str
    task: str
    split: str
    kind: str
    photograph: str
    photograph_package: str
    x: int
    y: int
    activity: float
    activity_class: int
    package: str
    version: str
    licence: str
    command: str
    sha256: str


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write a table, whole or not at all."""
    write_whole(path, _text(asdict(row) for row in rows))


def read(path: Path) -> list[dict[str, str]]:
    """A table's rows as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def join(root: Path, tasks: Sequence[str]) -> int:
    """Write manifest.csv: the tables of `tasks`, in order; returns how many images it names."""
    rows = [row for task in tasks for row in read(table_path(root, task))]
    write_whole(root / "manifest.csv", _text(rows))
    return len(rows)


def table_path(root: Path, task: str) -> Path:
    """Where a task's own table is."""
    return root / "manifests" / f"{task}.csv"


def digest(rows: Iterable[dict[str, str]]) -> str:
    """One sha256 over the paths and the bytes of all images."""
    total = hashlib.sha256()
    for row in sorted(rows, key=lambda row: row["file"]):
        total.update(f"{row['sha256']}  {row['file']}\n".encode())
    return total.hexdigest()


def _text(rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
