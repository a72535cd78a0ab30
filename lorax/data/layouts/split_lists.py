"""Lists of files that tell which split each belongs to, as data sets bring them beside their images.

Text files of a path in each line (what stands behind a tab is passed over), whose own name tells the split, as
`split1_train.txt`; or JSON that has a list of paths for each split. A listed path is the end of an image's path, with
or without the ending: lists are written relative to a folder that only their author knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lorax.data.layout import is_image
from lorax.data.layouts.items import Found
from lorax.data.layouts.words import listed, split_in, split_of
from lorax.errors import LayoutError
from lorax.text import some

_SHOWN = 3


def by_lists(found: Found, lists: Iterable[Path]) -> Found:
    """The images that lists name, each with the split that these tell.

    Args:
        found: the images of a source.
        lists: files.

    Raises:
        LayoutError: a list can't be read, one path is in two splits, or no image is named at all.
    """
    splits = _splits(lists)
    items, unnamed, named = [], [], set[str]()
    for item in found.items:
        key = next((end for end in _ends(item.path) if end in splits), "")
        if key:
            items.append(replace(item, split=splits[key]))
            named.add(key)
        else:
            unnamed.append(item.shown)
    if not items:
        raise LayoutError(
            f"{listed(str(path) for path in lists)} names no image of the data set: it has such as "
            f"{next(iter(splits), '')}, the data set {some(unnamed, _SHOWN)}."
        )
    told = [f"{len(unnamed):,} images are in no list and left out: {some(unnamed, _SHOWN)}."] if unnamed else []
    if missing := sorted(splits.keys() - named):
        told.append(f"{len(missing):,} images that lists name are not here, such as {missing[0]}.")
    return replace(found, items=tuple(items), told=(*found.told, *told))


def _splits(lists: Iterable[Path]) -> dict[str, str]:
    """Listed path, without its ending -> split."""
    found: dict[str, str] = {}
    for path in lists:
        for given, split in _entries(path):
            key = _bare("/".join(part for part in given.replace("\\", "/").split("/") if part not in ("", ".")))
            if found.setdefault(key, split) != split:
                raise LayoutError(
                    f"{path}: {given} is listed for {split}, and for {found[key]}. Give one set of lists."
                )
    return found


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """Path as listed, and its split."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        told = json.loads(text) if path.suffix == ".json" else None
    except (OSError, ValueError, RecursionError) as error:
        raise LayoutError(f"{path} can't be read as a list of files: {error}.") from error
    if path.suffix != ".json":
        split = split_in(path.name)
        if not split:
            raise LayoutError(f"{path}: its name tells no split; expected train, val or test in it.")
        yield from ((line.partition("\t")[0].strip(), split) for line in text.split("\n") if line.strip())
        return
    if not isinstance(told, Mapping) or not all(split_of(key) and _are_texts(value) for key, value in told.items()):
        raise LayoutError(f"{path}: expected a list of paths for each of train, val and test.")
    for key, paths in told.items():
        yield from ((given, split_of(key)) for given in paths)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _ends(path: Path) -> Iterator[str]:
    """The ends of a path, the longest first, without its ending."""
    parts = _bare(path.absolute().as_posix()).split("/")  # a link's own name, not that of what it leads to
    yield from ("/".join(parts[start:]) for start in range(1, len(parts)))


def _bare(path: str) -> str:
    return path.rpartition(".")[0] if is_image(path) else path
