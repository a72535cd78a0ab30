"""Lists of files: CSV, TSV and JSON lines with a path in each row, and DeepfakeBench's JSON of videos' frames.

A listed path is one below the list's folder or the source, in an archive there, too. Many lists are written for folders
that only their author has: where no path of a list leads to a file, each is taken for the end of an image's path,
without the folders that all of the list's paths begin with, as far as it takes.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lorax.data.layout import find_files, is_image
from lorax.data.layouts.apart import inside
from lorax.data.layouts.items import Found, Item, Reading
from lorax.data.layouts.records import Labels, Row, columns, text_of
from lorax.data.layouts.words import class_of, listed, shared_start, split_in, split_named, split_of
from lorax.data.layouts.zips import Member
from lorax.errors import LayoutError
from lorax.text import some

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".txt")
_KINDS = ("path", "label", "generator", "split", "date")
_SHOWN = 5

Text = Callable[[Path], str]
"""Reads a list."""


@dataclass(frozen=True)
class Tree:
    """Where listed images lie: a folder, and what the archives in it hold, as if it were unpacked there.

    Args:
        root: the folder.
        packed: path in it -> file of an archive.
    """

    root: Path
    packed: Mapping[str, Member] = field(default_factory=dict)

    def text(self, path: Path) -> str:
        """What a list says."""
        member = self._member(path)
        return path.read_text(encoding="utf-8-sig") if member is None else member.text()

    def places(self, path: Path, given: Sequence[str]) -> list[Path | None]:
        """The files that a list names as they lie, a row each; None where there is none."""
        root, folders = self.root.resolve(), list(dict.fromkeys((path.parent.resolve(), self.root.resolve())))
        found = [inside(root, folders, one, f"{path.name}, row {number}") for number, one in enumerate(given, 1)]
        return [place or self._packed(path, one) for place, one in zip(found, given, strict=True)]

    def _packed(self, path: Path, given: str) -> Path | None:
        """What an archive has in place of a listed file."""
        if not self.packed:
            return None
        tried = (Path(os.path.normpath(folder / given)) for folder in (path.parent, self.root))
        return next((self._resolved(one) for one in tried if self._member(one) is not None), None)

    def ends(self) -> dict[str, list[str]]:
        """Every end of every image's path -> the paths that end so."""
        found: dict[str, list[str]] = defaultdict(list)
        for path in filter(is_image, (*(find_files(self.root)[0] if self.root.is_dir() else ()), *self.packed)):
            parts = path.split("/")
            for start in range(len(parts)):
                found["/".join(parts[start:])].append(path)
        return found

    def _member(self, path: Path) -> Member | None:
        return self.packed.get(path.relative_to(self.root).as_posix()) if path.is_relative_to(self.root) else None

    def _resolved(self, path: Path) -> Path:
        return self.root.resolve() / path.relative_to(self.root)


def read_manifests(tree: Tree, files: Sequence[Path], reading: Reading, own: str, problem: str = "") -> Found:
    """The images that lists name.

    Args:
        tree: what holds the images.
        files: the lists.
        reading: as it was asked for.
        own: the generator's name where no column has it; of lists in several folders that of the nearest folder that
            is no split.
        problem: why images may be missing, for the error.

    Raises:
        LayoutError: a list is damaged, names what is not there or names it twice, or can't be understood.
    """
    items: dict[Path, Item] = {}
    missing: list[str] = []
    kinds: set[str] = set()
    told: list[str] = []
    in_one_folder = len({path.parent for path in files}) == 1
    root, ends = tree.root.resolve(), cache(tree.ends)
    for path in files:
        rows, known = _opened(path, tree.text, reading)
        kinds |= {f"{kind}: column {column}" for kind, column in known.items()}
        given = [row["path"] for row in rows]
        places = tree.places(path, given)
        if not any(places) and any(places := _by_ends(path, given, tree.root, ends())):
            told.append(f"{path.name} names images by the ends of their paths, such as {given[0]}.")
        missing += [one for one, place in zip(given, places, strict=True) if place is None]
        labels = Labels(path, reading, "label" in known)
        name = own if in_one_folder else _generator(tree.root, path) or own
        found: dict[Path, Item] = {}
        for row, place in zip(rows, places, strict=True):
            item = place and _item(root, path, row, place, labels, name)
            if item:
                _add(found, item, path, row["path"])
        labels.check()
        for item in found.values():
            if not item.is_real or items.get(item.path) != item:  # real images are listed with each generator's
                _add(items, item, path, item.shown)
    if missing:
        lists = files[0].name if len(files) == 1 else f"{len(files)} lists"
        raise LayoutError(
            f"{len(missing):,} files of {lists} are neither below {tree.root} nor beside the list: "
            f"{some(missing, _SHOWN)}. Fetch them, or take them off the list.{problem and f' {problem}'}"
        )
    shown = f"{len(files)} list{'s' * (len(files) > 1)} of files ({'; '.join(sorted(kinds))})"
    return Found(shown, tuple(items.values()), tuple(told))


def _generator(root: Path, path: Path) -> str:
    """The nearest folder above a list that is no split, by its name; '' for that of the images."""
    folders = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else (path.parent.name,)
    return next((name for name in reversed(folders) if not split_of(name)), "")


def _opened(path: Path, text: Text, reading: Reading) -> tuple[list[dict[str, str]], dict[str, str]]:
    """A list's rows, by kinds of columns, and which column is what."""
    rows = list(_rows(path, text))
    known = columns(list(dict.fromkeys(key for row in rows for key in row)), reading, path, _KINDS)
    if not rows:
        raise LayoutError(f"{path} lists nothing: a first line names the columns, and each line after it an image.")
    if "path" not in known:
        there = listed(rows[0], 6)
        raise LayoutError(f"{path} has no column for the images' paths among {there}; --path-column names it.")
    values = [{kind: text_of(row.get(column)) for kind, column in known.items()} for row in rows]
    if nameless := [number for number, row in enumerate(values, 1) if not row["path"]]:
        raise LayoutError(f"{path}: row {nameless[0]} names no file.")
    return values, known


def _by_ends(path: Path, paths: Sequence[str], root: Path, ends: Mapping[str, Sequence[str]]) -> list[Path | None]:
    """The images that a list names by the ends of their paths, None for what is not there.

    Raises:
        LayoutError: an end is that of several.
    """
    plain = [given.replace("\\", "/").split("/") for given in paths]
    parts = [tuple(part for part in folders if part not in ("", ".")) for folders in plain]
    for start in range(shared_start([folders[:-1] for folders in parts]) + 1):
        found = [ends.get("/".join(folders[start:]), ()) for folders in parts]
        if any(found):
            break
    for given, several in zip(paths, found, strict=True):
        if len(several) > 1:
            raise LayoutError(
                f"{path}: {given} could be {listed(several, 2)}. Land a folder that holds one of them, or have the "
                "list name more of the path."
            )
    return [root.resolve() / several[0] if several else None for several in found]


def is_manifest(path: Path, tree: Tree, reading: Reading) -> bool:
    """Whether a file beside images says of them whether they are real, or by which generator.

    Raises:
        LayoutError: it can't be read.
    """
    first = next(_rows(path, tree.text), {})
    known = columns([*first], Reading(), path, _KINDS) | dict(reading.columns)
    return "path" in known and bool(known.keys() & {"label", "generator"})


def _item(root: Path, path: Path, row: Mapping[str, str], file: Path, labels: Labels, own: str) -> Item | None:
    """The image of a row, None where it can't be told what it is."""
    values = Row(*(row.get(kind, "") for kind in _KINDS[1:]))
    place = file.relative_to(root).as_posix()
    split = split_named(path.name) or split_in(f"{place.rpartition('/')[0]}/")
    return labels.item(values, file, place, place.replace("/", "-"), own, split)


def _add(items: dict[Path, Item], item: Item, path: Path, given: str) -> None:
    """An image that no row before has named."""
    older = items.setdefault(item.path, item)
    if older is not item:
        same = (older.class_folder, older.generator, older.split) == (item.class_folder, item.generator, item.split)
        both = ", ".join(" ".join(filter(None, (o.class_folder, o.generator, o.split))) for o in (older, item))
        said = "is listed twice" if same else f"is listed twice, with labels in conflict ({both})"
        raise LayoutError(f"{path}: {given} {said}. Leave one.")


def _rows(path: Path, read: Text) -> Iterator[dict[str, Any]]:
    try:
        text = read(path)
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]  # a prompt may hold other line ends
        elif path.suffix == ".json":
            rows = list(_frames(json.loads(text), ()))
        else:
            rows = list(_columns(text))
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path} can't be read as a list of files: it is not in UTF-8. Save it so.") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise LayoutError(f"{path} can't be read as a list of files: {error}.") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or None in row or None in row.values():
            raise LayoutError(f"{path}: row {number} has more or fewer columns than the first line names.")
        yield row


def _columns(text: str) -> Iterator[dict[str, Any]]:
    """Rows of a table in text. Without a line of names columns are called 1, 2, ..., and that of the images path."""
    first = next(csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)), [])
    names = None
    shown = [is_image(value.replace("\\", "/").rpartition("/")[2]) for value in first]
    if any(shown):
        names = ["path" if is_shown else str(number) for number, is_shown in enumerate(shown, 1)]
    return csv.DictReader(io.StringIO(text, newline=""), names, delimiter=_delimiter(text))


def _delimiter(text: str) -> str:
    """What stands between columns; a space only where the first line is an image and what is said of it."""
    first = text.partition("\n")[0]
    delimiter = max("\t,;", key=first.count)
    head, _, rest = first.partition(" ")
    return " " if delimiter not in first and rest.strip() and is_image(head.rpartition("/")[2]) else delimiter


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
