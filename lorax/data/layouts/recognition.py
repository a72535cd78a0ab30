"""What a source is: told by its files' endings and its folders' names, and then read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from lorax.data.images import Progress
from lorax.data.layout import find_files, is_image
from lorax.data.layouts.cddb import read_cddb
from lorax.data.layouts.items import REAL, Found, Item, Reading
from lorax.data.layouts.tree import is_known, read_tree
from lorax.data.layouts.words import listed, split_in
from lorax.errors import LayoutError

NO_REALS = "none"
_PACKED = (".zip", ".7z", ".rar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
_SHOWN = 3


def read_source(source: Path, task: str, reading: Reading, scratch: Path, progress: Progress | None = None) -> Found:
    """The images of a source, whatever its layout.

    Args:
        source: a folder, or a file that lists or holds images.
        task: the name that was asked for; '' if none was.
        reading: as it was asked for.
        scratch: an empty folder, where images that are no files yet become some.
        progress: told after each of these.

    Raises:
        LayoutError: it can't be told what is what, or something is damaged; says what to do.
    """
    found, complaint = find_files(source)
    images = [path for path in found if is_image(path)]
    names, lenders = _real(reading, images)
    as_is = None if reading.levels else read_cddb(source, found, task, reading.split)
    if as_is:
        return _with_complaint(as_is, complaint)
    if not images:
        return _nothing(source, found, task, complaint)
    tree = read_tree(source, images, reading, names)
    items = (*tree.items, *(item for folder in lenders for item in _lent(folder)))
    return _with_complaint(replace(tree, items=items, told=(*tree.told, *_others(found, images))), complaint)


def _real(reading: Reading, images: Sequence[str]) -> tuple[list[str], list[Path]]:
    """The names of what is real in the source itself, and the folders that lend."""
    names, lenders = [], []
    for real in reading.real:
        if is_known(real, images):
            names.append(real)
        elif Path(real).is_dir():
            lenders.append(Path(real))
        elif real != NO_REALS:
            raise LayoutError(
                f"--real {real}: neither a folder of the data set nor one on this machine that could lend real images."
            )
    return names, lenders


def _lent(folder: Path) -> list[Item]:
    """Real images from elsewhere."""
    found, complaint = find_files(folder)
    images = [path for path in found if is_image(path)]
    if complaint or not images:
        raise LayoutError(complaint or f"--real {folder}: no image lies there.")
    splits = {place: split_in(f"{place}/") for place in {path.rpartition("/")[0] for path in images}}
    return [
        Item(folder / path, f"{folder}/{path}", path.replace("/", "-"), REAL, split=splits[path.rpartition("/")[0]])
        for path in images
    ]


def _others(found: Sequence[str], images: Sequence[str]) -> list[str]:
    """Files that are no images."""
    known = set(images)
    others = [path for path in found if path not in known]
    return [f"{len(others):,} files are no images and stay behind: {listed(others, _SHOWN)}."] if others else []


def _nothing(source: Path, found: Sequence[str], task: str, complaint: str) -> Found:
    """Where no image is."""
    packed = [path for path in found if path.lower().endswith(_PACKED)]
    if packed:
        raise LayoutError(f"{source} holds archives, {listed(packed, _SHOWN)}: unpack them first.")
    if task:
        as_is = {path: source / path for path in found}
        return _with_complaint(Found("one task in CDDB's layout, without an image", as_is=as_is), complaint)
    kinds = Counter(PurePosixPath(path).suffix or "no ending" for path in found)
    there = ", ".join(f"{count:,} x {kind}" for kind, count in kinds.most_common(_SHOWN)) or "nothing"
    raise LayoutError(f"no image was found in {source}; it holds {there}.{' ' + complaint if complaint else ''}")


def _with_complaint(found: Found, complaint: str) -> Found:
    return replace(found, complaints=(*found.complaints, complaint)) if complaint else found
