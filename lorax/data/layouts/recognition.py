"""What a source is: told by its files' endings and its folders' names, and then read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from lorax.data.images import Progress
from lorax.data.layout import find_files, is_image
from lorax.data.layouts import manifest, tables, tars, zips
from lorax.data.layouts.apart import Apart
from lorax.data.layouts.cddb import read_cddb
from lorax.data.layouts.items import REAL, Found, Item, Reading
from lorax.data.layouts.manifest import Tree, is_manifest, read_manifests
from lorax.data.layouts.split_lists import by_lists
from lorax.data.layouts.tables import read_tables
from lorax.data.layouts.tars import read_tars
from lorax.data.layouts.tree import is_known, read_tree
from lorax.data.layouts.words import class_of, listed, own_name, plainly, split_in
from lorax.errors import LayoutError

NO_REALS = "none"
_PACKED = (".7z", ".rar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
_METADATA, _LABELS = (re.compile(rf"(?:.+/)?{name}\.(?:csv|tsv|jsonl)") for name in ("metadata", "labels"))
"""What lists that lie beside their images are called; the second only where folders don't tell what these are."""
_LISTS = (".csv", ".tsv", ".jsonl")
_SHOWN = 3


@dataclass(frozen=True)
class _Packed:
    """What archives hold: path in the tree -> file of an archive; what to tell of them; why they can't be read."""

    files: Mapping[str, zips.Member]
    told: Sequence[str] = ()
    problem: str = ""

    @property
    def images(self) -> dict[str, zips.Member]:
        return {path: member for path, member in self.files.items() if is_image(path)}


def read_source(source: Path, task: str, reading: Reading, apart: Apart, progress: Progress | None = None) -> Found:
    """The images of a source, whatever its layout.

    Args:
        source: a folder, or a file that lists or holds images.
        task: the name that was asked for; '' if none was.
        reading: as it was asked for.
        apart: where images that are no files yet become some.
        progress: told after each of these.

    Raises:
        LayoutError: it can't be told what is what, or something is damaged; says what to do.
    """
    root = source if source.is_dir() else source.parent
    found, complaint = find_files(source) if source.is_dir() else ([source.name], "")
    own = task or own_name(source)
    held = _held(root, found, reading, own, apart, progress)
    packed = _Packed({}) if held else _packed(source, found)
    read = held or _listed(source, found, packed, reading, own)
    if read is None:
        return _with_complaint(_tree(source, found, packed, complaint, task, reading, apart, progress), complaint)
    if reading.lists:
        raise LayoutError(
            f"{source} was taken for {read.taken_for}, of which --split-list tells nothing; it is for trees."
        )
    if reading.levels and not held:
        raise LayoutError(f"{source} was taken for {read.taken_for}, of which --levels tells nothing: leave it out.")
    lenders = [Path(real) for real in reading.real if _lends(real, [*filter(is_image, found), *packed.images])]
    _check_reals(reading, read, lenders)
    read = replace(read, told=(*read.told, *packed.told))
    return _with_complaint(_complete(_unpacked(read, packed.images, reading, apart, progress), lenders), complaint)


def _held(
    root: Path, found: Sequence[str], reading: Reading, own: str, apart: Apart, progress: Progress | None
) -> Found | None:
    """The images that files hold; None where there are no such files."""
    for read, endings in ((read_tables, tables.ENDINGS), (read_tars, tars.ENDINGS)):
        if files := [path for path in found if path.endswith(endings)]:
            if reading.manifests:
                raise LayoutError(f"{root} holds {listed(files, _SHOWN)}, of which --list tells nothing: leave it out.")
            told = _others(found, files, "hold no images")
            held = read(root, files, reading, own, apart, progress)
            return replace(held, told=(*held.told, *told))
    return None


def _packed(source: Path, found: Sequence[str]) -> _Packed:
    """What the archives of a source hold."""
    if source.is_dir():
        archives = {path.rpartition(".")[0]: source / path for path in found if _is_zip(path)}
    else:
        archives = {"": source} if _is_zip(source.name) else {}
    try:
        return _Packed(*zips.members(_root(source), archives))
    except LayoutError as error:  # of no matter where a list names no image in there
        return _Packed({}, problem=str(error))


def _root(source: Path) -> Path:
    """The tree: the folder, or what an archive would be unpacked to."""
    return source if source.is_dir() else source.with_suffix("")


def _listed(source: Path, found: Sequence[str], packed: _Packed, reading: Reading, own: str) -> Found | None:
    """The images that lists name; None where there is no such list."""
    is_tree = source.is_dir() or _is_zip(source.name)
    tree = Tree(_root(source) if is_tree else source.parent, packed.files)
    if reading.manifests:
        return read_manifests(tree, _lists(reading.manifests), reading, own, packed.problem)
    if is_tree:
        lists = _beside(tree, found, _METADATA, reading)
        if not lists and not (reading.real or reading.levels or reading.lists or _has_classes(found, packed)):
            lists = _beside(tree, found, _LABELS, reading)
        return read_manifests(tree, lists, reading, own, packed.problem) if lists else None
    if not source.name.endswith(manifest.ENDINGS):
        raise LayoutError(
            f"{source} is no list of files ({', '.join(manifest.ENDINGS)}) and holds no images that are read "
            f"({', '.join((*tables.ENDINGS, *tars.ENDINGS, *zips.ENDINGS))}). Unpack an archive first, and land its "
            "folder."
        )
    return read_manifests(tree, [source], reading, own)


def _beside(tree: Tree, found: Sequence[str], called: re.Pattern[str], reading: Reading) -> list[Path]:
    """The lists of such a name in a tree."""
    paths = [tree.root / path for path in (*found, *tree.packed) if called.fullmatch(path)]
    return [path for path in paths if _says(path, tree, reading) is True]


def _has_classes(found: Sequence[str], packed: _Packed) -> bool:
    """Whether any folder is called real or synthetic."""
    folders = {path.rpartition("/")[0] for path in (*found, *packed.files)}
    return any(class_of(name) for folder in folders for name in folder.split("/"))


def _says(path: Path, tree: Tree, reading: Reading) -> bool | str:
    """Whether a list tells what images are; why it can't be read, if so."""
    try:
        return is_manifest(path, tree, reading)
    except LayoutError as error:
        return str(error)


def _lists(given: Sequence[Path]) -> list[Path]:
    """Files, and those in folders."""
    found: list[Path] = []
    for path in given:
        here = sorted(one for one in path.iterdir() if one.name.endswith(manifest.ENDINGS)) if path.is_dir() else [path]
        if not here or not all(one.is_file() for one in here):
            raise LayoutError(f"--list {path}: no list of files ({', '.join(manifest.ENDINGS)}) is there.")
        found += here
    return found


def _tree(
    source: Path, found: Sequence[str], packed: _Packed, complaint: str, task: str, reading: Reading, apart: Apart,
    progress: Progress | None,
) -> Found:  # fmt: skip
    if packed.problem:
        raise LayoutError(packed.problem)
    root, told = _root(source), packed.told
    paths = [*(path for path in found if not _is_zip(path)), *packed.images]
    images = [path for path in paths if is_image(path)]
    if complaint and not images and not task:
        raise LayoutError(complaint)
    as_is = None if reading.levels or reading.lists else read_cddb(root, paths, task, reading.split)
    if as_is:
        return _unpacked(replace(as_is, told=(*as_is.told, *told)), packed.images, reading, apart, progress)
    if not images:
        return _nothing(source, found, task)
    lenders = [Path(real) for real in reading.real if _lends(real, images)]
    names = [real for real in reading.real if is_known(real, images)]
    for real in reading.real:
        if real not in names and real != NO_REALS and Path(real) not in lenders:
            raise LayoutError(f"--real {real}: neither a folder of the data set nor one that could lend real images.")
    try:
        tree = read_tree(root, images, reading, names)
    except LayoutError as error:
        raise LayoutError(f"{error}{_of_lists(source, [*paths, *packed.files], packed)}") from error
    tree = replace(tree, told=(*tree.told, *told, *_others([*paths, *packed.files], images, "are no images")))
    tree = by_lists(tree, reading.lists) if reading.lists else tree
    return _complete(_unpacked(tree, packed.images, reading, apart, progress), lenders)


def _of_lists(source: Path, found: Sequence[str], packed: _Packed) -> str:
    """What to say of lists that lie beside the images, and were not read."""
    tree, text = Tree(_root(source), packed.files), ""
    for path in [path for path in dict.fromkeys(found) if path.endswith(_LISTS)][:_SHOWN]:
        says = _says(tree.root / path, tree, Reading())
        if says is True:
            first = f"unpack {packed.files[path].archive.name}, then " if path in packed.files else ""
            text += f" {tree.root / path} tells what images are: {first}--list reads it."
        elif says:
            text += f" {says}"
    return text


def _is_zip(path: str) -> bool:
    return path.lower().endswith(zips.ENDINGS)


def _unpacked(
    found: Found, packed: Mapping[str, zips.Member], reading: Reading, apart: Apart, progress: Progress | None
) -> Found:
    """With files in place of archives' members."""
    if not packed:
        return found
    chosen = reading.generators
    shown = {item.shown for item in found.items if item.is_real or not chosen or item.generator in chosen}
    shown |= (found.as_is or {}).keys()
    files = zips.unpacked({name: member for name, member in packed.items() if name in shown}, apart, progress)
    if found.as_is is not None:
        return replace(found, as_is={path: files.get(path, file) for path, file in found.as_is.items()})
    return replace(found, items=tuple(replace(item, path=files.get(item.shown, item.path)) for item in found.items))


def _complete(found: Found, lenders: Sequence[Path]) -> Found:
    """With what is lent."""
    return replace(found, items=(*found.items, *(item for folder in lenders for item in _lent(folder))))


def _lends(real: str, images: Sequence[str]) -> bool:
    """Whether what was called real is a folder from elsewhere."""
    return not is_known(real, images) and Path(real).is_dir()


def _check_reals(reading: Reading, found: Found, lenders: Sequence[Path]) -> None:
    """See that what was called real is there."""
    there = {plainly(item.generator) for item in found.items if item.is_real}
    for real in reading.real:
        if real != NO_REALS and Path(real) not in lenders and plainly(real) not in there:
            raise LayoutError(
                f"--real {real}: neither a generator that the data set names nor a folder that could lend real images."
            )


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


def _others(found: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """Files that are not used."""
    others = sorted(set(found) - set(known))
    return [f"{len(others):,} files {what} and stay behind: {listed(others, _SHOWN)}."] if others else []


def _nothing(source: Path, found: Sequence[str], task: str) -> Found:
    """Where no image is."""
    packed = [path for path in found if path.lower().endswith(_PACKED)]
    if packed:
        raise LayoutError(f"{source} holds archives, {listed(packed, _SHOWN)}: unpack them first.")
    if task:
        as_is = {path: source / path for path in found}
        return Found("one task in CDDB's layout, without an image", as_is=as_is)
    kinds = Counter(PurePosixPath(path).suffix or "no ending" for path in found)
    there = ", ".join(f"{count:,} x {kind}" for kind, count in kinds.most_common(_SHOWN)) or "nothing"
    raise LayoutError(f"no image was found in {source}; it holds {there}.")


def _with_complaint(found: Found, complaint: str) -> Found:
    return replace(found, complaints=(*found.complaints, complaint)) if complaint else found
