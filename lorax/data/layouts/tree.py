"""Trees of folders: which level is the split, the class, the generator and the subject.

Two kinds. Where folders are called real and fake, or something like it, the generator is the nearest name above that is
none of these; or below, where classes come first (`Fake/<generator>/`). Where they are not, one folder is real and
those beside it are a generator each. `--levels` says what can't be told.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorax.data.layouts.items import FAKE, REAL, Found, Item, Reading
from lorax.data.layouts.words import BESIDE, class_of, listed, plainly, shared_start, split_of
from lorax.errors import LayoutError

LEVELS = ("split", "class", "generator", "subject", "*")
_ARCHIVE = re.compile(r"imagenet_.+")  # what GenImage's archives unpack to, between generator and split
_NUMBERED = re.compile(r"[1-9]\d*_[a-z0-9][a-z0-9_-]*")
_ASK = "Say what each level of folders is, such as --levels split/generator/class (or subject, or *)."


@dataclass(frozen=True)
class Place:
    """What a file's folders say of it."""

    class_folder: str
    generator: str = ""
    split: str = ""
    subject: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """The folders above a file: names above, between and below where split and class are."""

    class_folder: str
    split: str
    above: tuple[str, ...]
    between: tuple[str, ...]
    below: tuple[str, ...]


def read_tree(root: Path, paths: Sequence[str], reading: Reading, real: Sequence[str]) -> Found:
    """The images of a tree.

    Args:
        root: the folder.
        paths: of the images in it.
        reading: as it was asked for.
        real: which of its folders are real, as a person said.

    Raises:
        LayoutError: it can't be told what is what; says what to say.
    """
    folders = {path: tuple(path.split("/")[:-1]) for path in paths}
    kinds = dict.fromkeys(folders.values())
    names = {plainly(name) for name in real}
    if reading.levels:
        places = {kind: _by_levels(kind, reading.levels, names) for kind in kinds}
        words = f"a tree of {'/'.join(reading.levels)}, as --levels says"
    elif beside := sorted({name for kind in kinds for name in kind if plainly(name) in BESIDE}):
        raise LayoutError(
            f"{root} has {listed(beside)} beside its images: pictures made of these, by their names. Land the folder "
            f"of the images alone. {_ASK}"
        )
    elif all(_class_at(kind, names) is not None for kind in kinds):
        places, words = _by_class([*kinds], names, root)
    else:
        places, words = _by_siblings([*kinds], names, reading, root)
    common = shared_start([place.subject for place in places.values()])
    items = (_item(root, path, places[kind], common) for path, kind in folders.items())
    return Found(words, tuple(items))


def _item(root: Path, path: str, place: Place, common: int) -> Item:
    subject = "-".join(place.subject[common:])
    subject = f"_{subject}" if re.match(r"\d+_", subject) else subject  # else it would be taken for a class folder
    name = path.rpartition("/")[2]
    return Item(root / path, path, name, place.class_folder, place.generator, place.split, subject)


def _by_levels(folders: Sequence[str], levels: Sequence[str], real: set[str]) -> Place:
    roles: dict[str, list[str]] = defaultdict(list)
    for number, folder in enumerate(folders):
        roles[levels[number] if number < len(levels) else "subject"].append(folder)
    split, kind, generator = (next(iter(roles[role]), "") for role in ("split", "class", "generator"))
    if kind:
        found = _class_named(kind, real)
        if not found:
            raise LayoutError(f"{'/'.join(folders)}: {kind!r} is neither real nor synthetic. --real NAME names it.")
    else:
        found = REAL if real & {plainly(folder) for folder in folders} else FAKE
    if split and not split_of(split):
        raise LayoutError(f"{'/'.join(folders)}: {split!r} is no split; expected train, val or test.")
    return Place(found, generator, split_of(split), tuple(roles["subject"]))


def _by_class(kinds: Sequence[tuple[str, ...]], real: set[str], root: Path) -> tuple[dict[tuple[str, ...], Place], str]:
    """Of folders that are all called real or synthetic somewhere."""
    parts = {kind: _parts(kind, real) for kind in kinds}
    common = shared_start([part.above for part in parts.values()])
    fakes = [part for part in parts.values() if part.class_folder != REAL] or [*parts.values()]
    leaves = listed(kind[_class_at(kind, real) or 0] for kind in kinds)
    if any(part.below for part in fakes):
        if any(part.above[common:] or part.between for part in fakes):
            raise LayoutError(f"{root} has folders above and below {leaves}: which are the generators? {_ASK}")
        places = {kind: _class_first(part, _own_name(part, root)) for kind, part in parts.items()}
        return places, f"a tree of class folders ({leaves}) with a folder for each generator in them"
    owner = _owner(parts.values(), root)
    uneven = len({len(part.above[common:]) for part in fakes if part.above[common:]}) > 1
    places = {
        kind: Place(part.class_folder, owner, part.split, part.between)
        if owner and part.split != "test"
        else _named_above(part, common, uneven, root)
        for kind, part in parts.items()
    }
    shown = f", {owner}'s subjects in train and val" if owner else ""
    return places, f"a tree of class folders ({leaves}) below each generator's{shown}"


def _class_first(part: Parts, own: str) -> Place:
    if part.class_folder == REAL:
        return Place(REAL, "", part.split, part.below)
    return Place(part.class_folder, part.below[0] if part.below else own, part.split, part.below[1:])


def _named_above(part: Parts, common: int, uneven: bool, root: Path) -> Place:
    above = part.above[common:]
    if above and not part.split and uneven:  # <generator>/[<subject>/]<class>, as in CNNDetection's test set
        return Place(part.class_folder, above[0], "", above[1:])
    if above:
        return Place(part.class_folder, above[-1], part.split, (*above[:-1], *part.between, *part.below))
    if part.between:
        return Place(part.class_folder, part.between[0], part.split, (*part.between[1:], *part.below))
    return Place(part.class_folder, _own_name(part, root), part.split, part.below)


def _own_name(part: Parts, root: Path) -> str:
    """Of the one generator that a tree holds: that of the nearest folder around it."""
    return part.above[-1] if part.above else root.resolve().name


def _owner(parts: Iterable[Parts], root: Path) -> str:
    """The generator whose subjects lie in train and val, as CNNDetection has them, where test has generators; else ''.

    It is the one that has all these subjects in test/, too.
    """
    names: dict[bool, set[str]] = defaultdict(set)
    subjects: dict[str, set[str]] = defaultdict(set)
    for part in parts:
        if not part.above and part.between and part.split:
            names[part.split == "test"].add(part.between[0])
            if part.split == "test":
                subjects[part.between[0]] |= set(part.between[1:2])
    if not names[True] or not names[False] or names[True] & names[False]:
        return ""
    owners = [name for name, found in subjects.items() if names[False] <= found]
    if len(owners) == 1:
        return owners[0]
    raise LayoutError(
        f"{root} is two data sets: test/ holds {listed(names[True], 3)}, train/ and val/ hold others, "
        f"{listed(names[False], 3)}, which {'several' if owners else 'none'} of these have for subjects. Land "
        f"{root}/test by itself, with --split 0.8; and a folder with train/ and val/ alone, with --task NAME where its "
        "folders are subjects of one generator."
    )


def _parts(folders: tuple[str, ...], real: set[str]) -> Parts:
    at = _class_at(folders, real)
    assert at is not None
    splits = [number for number, folder in enumerate(folders) if number != at and split_of(folder)]
    split_at = splits[0] if splits else None
    head = split_at if split_at is not None and split_at < at else at
    above = [name for name in folders[:head] if not _ARCHIVE.fullmatch(name)]
    below = [name for number, name in enumerate(folders) if number > at and number not in splits]
    split = split_of(folders[split_at]) if split_at is not None else ""
    return Parts(_class_named(folders[at], real), split, tuple(above), folders[head + 1 : at], tuple(below))


def _by_siblings(
    kinds: Sequence[tuple[str, ...]], real: set[str], reading: Reading, root: Path
) -> tuple[dict[tuple[str, ...], Place], str]:
    """Of folders of which some, or all, are called by their generators alone."""
    at = {kind: _class_at(kind, real) for kind in kinds}
    stray = ["/".join(kind) or "the folder itself" for kind in kinds if at[kind] is None]
    if any(place is not None and _class_named(kind[place], real) != REAL for kind, place in at.items()):
        raise LayoutError(
            f"{root} has folders called real and synthetic, and beside them images that are in neither: in "
            f"{listed(stray)}. Move them away, or: {_ASK[0].lower()}{_ASK[1:]}"
        )
    depths = {place for place in at.values() if place is not None}
    if not depths and not reading.real:
        raise LayoutError(
            f"no folder with images in {root} is called real or synthetic: {listed(stray)}. "
            "Which is real? --real NAME names a folder, --real DIR lends real images from elsewhere, --real none says "
            f"that none is, --list FILE gives a list that tells. {_ASK}"
        )
    if len(depths) > 1:
        raise LayoutError(f"{root} has real folders at several levels. {_ASK}")
    level = next(iter(depths)) if depths else None
    places = {kind: _sibling(kind, at[kind], level, root) for kind in kinds}
    common = shared_start([place.subject for place in places.values() if place.class_folder != REAL])
    if level is None and any(place.subject[common:] for place in places.values()):
        raise LayoutError(f"{root} has several levels of folders, {listed(stray, 3)}: which are the generators? {_ASK}")
    shown = listed(kind[place] for kind, place in at.items() if place is not None)
    return places, f"a folder for each generator, {f'beside {shown} as real' if shown else 'none of them real'}"


def _sibling(folders: tuple[str, ...], at: int | None, level: int | None, root: Path) -> Place:
    split_at = next((number for number, folder in enumerate(folders) if number != at and split_of(folder)), None)
    split = split_of(folders[split_at]) if split_at is not None else ""
    names = [number for number in range(len(folders)) if number not in (at, split_at)]
    if at is not None:
        own = "" if class_of(folders[at]) else folders[at]
        return Place(REAL, own, split, tuple(folders[number] for number in names))
    if level is None:
        above = [number for number in names if split_at is not None and number < split_at]
        level = (above or names or [-1])[-1]
    if level not in names:
        generator = root.resolve().name
        if names:
            raise LayoutError(f"{root}/{'/'.join(folders)} lies beside no folder of real images. {_ASK}")
        return Place(FAKE, generator, split)
    return Place(FAKE, folders[level], split, tuple(folders[number] for number in names if number != level))


def _class_at(folders: Sequence[str], real: set[str]) -> int | None:
    """The level of the last folder that is called real or synthetic."""
    return next((n for n in reversed(range(len(folders))) if _class_named(folders[n], real)), None)


def _class_named(folder: str, real: set[str]) -> str:
    if plainly(folder) in real:
        return REAL
    return class_of(folder) or (folder if _NUMBERED.fullmatch(folder) else "")


def is_known(real: str, paths: Sequence[str]) -> bool:
    """Whether a folder of the tree is called so."""
    return any(plainly(real) == plainly(folder) for path in paths for folder in path.split("/")[:-1])
