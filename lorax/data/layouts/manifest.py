"""Lists of files: CSV, TSV and JSON lines with a path in each row, and DeepfakeBench's JSON of videos' frames."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorax.data.layouts.apart import inside
from lorax.data.layouts.items import Found, Item, Reading
from lorax.data.layouts.records import Labels, Row, columns, text_of
from lorax.data.layouts.words import class_of, listed, split_in, split_of
from lorax.errors import LayoutError
from lorax.text import some

ENDINGS = (".csv", ".tsv", ".jsonl", ".json")
_KINDS = ("path", "label", "generator", "split", "date")
_SHOWN = 5


def read_manifests(root: Path, files: Sequence[str], reading: Reading, own: str) -> Found:
    """The images that lists name.

    Args:
        root: the folder that holds the lists; what they name lies in it, too.
        files: their paths in it.
        reading: as it was asked for.
        own: the generator's name where no column has it; of several lists each folder's name.

    Raises:
        LayoutError: a list is damaged, names what is not there or names it twice, or can't be understood.
    """
    items: dict[Path, Item] = {}
    missing: list[str] = []
    kinds: set[str] = set()
    for name in files:
        path = root / name
        rows = list(_rows(path))
        known = columns(list(dict.fromkeys(key for row in rows for key in row)), reading, path, _KINDS)
        if not rows:
            raise LayoutError(f"{path} lists nothing: a first line names the columns, and each line after it an image.")
        if "path" not in known:
            there = listed(rows[0], 6)
            raise LayoutError(f"{path} has no column for the images' paths among {there}; --path-column names it.")
        kinds |= {f"{kind}: column {column}" for kind, column in known.items()}
        labels = Labels(path, reading, "label" in known)
        for number, row in enumerate(rows, 1):
            _add(items, missing, root, path, number, {k: text_of(row.get(c)) for k, c in known.items()}, labels,
                 own if len(files) == 1 else path.parent.name)  # fmt: skip
        labels.check()
    if missing:
        raise LayoutError(
            f"{len(missing):,} files of {files[0]} are neither below {root} nor beside the list: "
            f"{some(missing, _SHOWN)}. Fetch them, or take them off the list."
        )
    shown = f"{len(files)} list{'s' * (len(files) > 1)} of files ({'; '.join(sorted(kinds))})"
    return Found(shown, tuple(items.values()))


def is_manifest(path: Path, reading: Reading) -> bool:
    """Whether a file beside images says of them whether they are real, or by which generator."""
    try:
        first = next(_rows(path), {})
    except LayoutError:
        return False
    known = columns([*first], Reading(), path, _KINDS) | dict(reading.columns)
    return "path" in known and bool(known.keys() & {"label", "generator"})


def _add(
    items: dict[Path, Item], missing: list[str], root: Path, path: Path, number: int, values: Mapping[str, str],
    labels: Labels, own: str,
) -> None:  # fmt: skip
    """The image of a row, to `items`, or its path to `missing`."""
    given = values["path"]
    if not given:
        raise LayoutError(f"{path}: row {number} names no file.")
    if not any((place / given).is_file() for place in (path.parent, root)):
        missing.append(given)
        return
    file = inside(root, path.parent, given, f"{path.name}, row {number}")
    row = Row(*(values.get(kind, "") for kind in _KINDS[1:]))
    place = file.relative_to(root.resolve()).as_posix()
    item = labels.item(row, file, place, place.replace("/", "-"), own, split_in(f"{place.rpartition('/')[0]}/"))
    if item is None:
        return
    older = items.setdefault(file, item)
    if older is not item:
        same = (older.class_folder, older.generator, older.split) == (item.class_folder, item.generator, item.split)
        both = (
            f"{older.class_folder} {older.generator} {older.split}, {item.class_folder} {item.generator} {item.split}"
        )
        said = "is listed twice" if same else f"is listed twice, with labels in conflict ({both})"
        raise LayoutError(f"{path}: {given} {said}. Leave one.")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]  # a prompt may hold other line ends
        elif path.suffix == ".json":
            rows = list(_frames(json.loads(text), ()))
        else:
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text)))
    except (ValueError, RecursionError, csv.Error) as error:
        raise LayoutError(f"{path} can't be read as a list of files: {error}.") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or None in row or None in row.values():
            raise LayoutError(f"{path}: row {number} has more or fewer columns than the first line names.")
        yield row


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max("\t,;", key=first.count)


def _frames(node: Any, keys: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Rows of DeepfakeBench's JSON: set -> label -> split -> ... -> video -> {label, frames}."""
    if not isinstance(node, dict):
        raise ValueError("expected DeepfakeBench's set -> label -> split -> video -> frames")
    if "frames" in node:
        label = str(node.get("label") or next((key for key in keys[1:] if _word(key)), ""))
        split = next((split_of(key) for key in keys if split_of(key)), "")
        for frame in node["frames"]:
            yield {"path": str(frame), "label": _word(label) or label, "generator": keys[0], "split": split}
        return
    for key, value in node.items():
        yield from _frames(value, (*keys, str(key)))


def _word(label: str) -> str:
    """The part of a label such as `simswap_Fake` that says what it is."""
    return next((part for part in re.split(r"[-_ ]", label) if class_of(part)), "")
