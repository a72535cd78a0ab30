"""From images to tasks: a task for each generator, its images where they will lie below data/<task>."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorax.data.layout import class_folder, side_of, split_by_content, well_placed
from lorax.data.layouts.items import Found, Item, Reading
from lorax.data.layouts.words import listed, own_name, task_name
from lorax.errors import LayoutError
from lorax.stream import check_new_name
from lorax.text import some

_DATE = re.compile(r"\d{4}(-\d\d(-\d\d([T ].*)?)?)?")
_REALS_SHARE = 0.8
"""Of real images without a split, for train/: fixed, so that no landing trains on what another tests with."""


@dataclass(frozen=True)
class Arranged:
    """A task that would land.

    Args:
        name: the task's.
        generator: what the source calls its generator.
        files: path below data/<task> -> what lies there.
        released: when its generator came out; "" if the source does not say.
        complaint: why its images can't lie where they would; "" if nothing is wrong.
    """

    name: str
    generator: str
    files: Mapping[str, Item]
    released: str = ""
    complaint: str = ""


@dataclass(frozen=True)
class Plan:
    """What a source holds: what it was taken for, what else is to be told, and the tasks in the order of landing."""

    taken_for: str
    told: tuple[str, ...]
    tasks: tuple[Arranged, ...]


Md5s = Mapping[Path, str]
"""File -> md5 of its bytes."""


def named(found: Found, task: str, root: Path, reading: Reading) -> dict[str, str]:
    """The generators that a source holds, in the order of landing -> the name of each one's task.

    Args:
        found: the source's images.
        task: the name that was asked for; '' if none was.
        root: the source; an only generator that has no name is called like it.
        reading: as it was asked for.

    Raises:
        LayoutError: there is none, one that was asked for is missing, or a name can't be used.
    """
    own = task or task_name(own_name(root))
    fakes = [item.generator for item in found.items if not item.is_real]
    if not fakes:
        raise LayoutError(
            f"{root} was taken for {found.taken_for}; it holds {len(found.items)} real images and no synthetic one."
        )
    there = list(dict.fromkeys(fakes))
    if missing := [name for name in reading.generators if name not in there]:
        raise LayoutError(f"{root} holds no generator {missing[0]!r}; it holds {listed(there)}.")
    taken = list(reading.generators) or _in_order(there, found, reading.order)
    if task and len(taken) > 1:
        raise LayoutError(
            f"{root} holds {len(taken)} generators, {listed(taken)}: a task each. Leave --task out, or take one with "
            "--generators NAME."
        )
    names = {name: task or reading.generators.get(name, "") or task_name(name) or own for name in taken}
    alike = [name for name, count in Counter(names.values()).items() if count > 1]
    if alike:
        both = listed(name for name, made in names.items() if made == alike[0])
        raise LayoutError(f"{both} would all be called {alike[0]!r}. Name them: --generators OLD=NEW,OTHER=OTHER-NEW.")
    for name, made in names.items():
        try:
            check_new_name(made)
        except LayoutError as error:
            raise LayoutError(f"{error} Or name it with --generators {name}=NEW.") from error
    return names


def _in_order(there: Sequence[str], found: Found, order: str) -> list[str]:
    released = _released(found)
    undated = [name for name in there if name not in released]
    if order == "release" and undated:
        raise LayoutError(
            f"when {listed(undated)} came out is not told: --order release takes a date for each generator, in a "
            "column release_date or the one that --date-column names. Take --order name, or --generators A,B,..."
        )
    if order == "name":
        return sorted(there, key=str.lower)
    if order == "release" or (not order and not undated):
        return sorted(there, key=lambda name: (released[name], there.index(name)))
    return list(there)


def _released(found: Found) -> dict[str, str]:
    """Generator -> the earliest date that is told of it."""
    dates: dict[str, str] = {}
    for item in found.items:
        if item.released and not item.is_real:
            if not _DATE.fullmatch(item.released):
                raise LayoutError(f"{item.shown}: {item.released!r} is no date; expected such as 2024-08-01.")
            dates[item.generator] = min(dates.get(item.generator, item.released), item.released)
    return dates


def arranged(found: Found, names: Mapping[str, str], reading: Reading, md5s: Md5s) -> Plan:
    """The tasks, every image in its place.

    Args:
        found: the source's images.
        names: generator -> task, in the order of landing.
        reading: as it was asked for.
        md5s: of all images; one that can't be read has none.

    Raises:
        LayoutError: two images would have one name, or --split is of no use.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in found.items:
        groups[item.generator].append(item)
    free = [_free(item) for group in groups.values() if all(item.is_real for item in group) for item in group]
    told, lent = _dealt(free, groups, names, reading, md5s)
    dates, tasks = _released(found), []
    if reading.split is not None:
        _check_split(reading.split, [groups[name] for name in names])
    for name, task in names.items():
        items, said = _splits(groups[name], reading.split, md5s)
        files, complaint = _placed([*items, *lent.get(name, ())], reading.limit, md5s)
        told = [*told, *said]
        tasks.append(Arranged(task, name, files, dates.get(name, ""), complaint))
    return Plan(found.taken_for, tuple(dict.fromkeys((*found.told, *told, *_passed_over(groups, names)))), tuple(tasks))


def as_is(found: Found, task: str, reading: Reading, md5s: Md5s) -> Plan:
    """The one task that is laid out already.

    Raises:
        LayoutError: its name can't be used, or the split is of no use.
    """
    assert found.as_is is not None
    places = {path: path for path in found.as_is}
    if reading.split is not None:
        places = split_by_content({path: md5s.get(file) or "0" for path, file in found.as_is.items()}, reading.split)
    files = {place: Item(found.as_is[path], path, path, "") for path, place in places.items()}
    if reading.limit is not None:
        good = {files[place]: (place.partition("/")[0], class_folder(place)) for place in well_placed(files)}
        drawn = _drawn([(kind, item) for item, kind in good.items()], reading.limit, md5s)
        files = {place: item for place, item in files.items() if item in drawn or item not in good}
    return Plan(found.taken_for, found.told, (Arranged(check_new_name(task), task, files),))


def _free(item: Item) -> Item:
    """Of no generator; where it came from is its subject."""
    return replace(item, generator="", subject="-".join(filter(None, (item.generator, item.subject))))


def _passed_over(groups: Mapping[str, Sequence[Item]], names: Mapping[str, str]) -> list[str]:
    left = [name for name, group in groups.items() if name not in names and not all(item.is_real for item in group)]
    return [f"left out, since --generators does not name them: {listed(left)}."] if left else []


def _dealt(
    free: Sequence[Item], groups: Mapping[str, Sequence[Item]], names: Mapping[str, str], reading: Reading, md5s: Md5s
) -> tuple[list[str], dict[str, list[Item]]]:
    """Real images that belong to no generator in particular, each dealt by its content to one that has none of its own.

    Returns:
        What is to be told, and the generators' shares.
    """
    if not free:
        return [], {}
    without = [name for name in names if not any(item.is_real for item in groups[name])]
    if not without:
        return [f"{len(free):,} real images are left out: every generator has its own."], {}
    share = _REALS_SHARE if reading.split is None else reading.split
    items, told = [], []
    for part in ([item for item in free if item.split], [item for item in free if not item.split]):
        split, said = _splits(part, share, md5s)
        items += split
        told += said
    dealt: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        dealt[without[int(md5s.get(item.path) or "0", 16) % len(without)]].append(item)
    if len(without) > 1:
        told.append(f"{len(free):,} real images are dealt by content to {len(without)} tasks, each image to one.")
    return told, dealt


def _check_split(share: float, groups: Sequence[Sequence[Item]]) -> None:
    if not 0 < share < 1:
        raise LayoutError(f"--split {share} is not usable: expected a share between 0 and 1, such as 0.8.")
    if all(len({_side(item.split, group) for item in group}) > 1 for group in groups):
        raise LayoutError("--split was given, but the data has a test split already. Leave --split out.")


def _side(split: str, group: Sequence[Item]) -> str:
    """Where a split's images go: the last of train, val and test that there is, is tested with."""
    has_test = any(item.split == "test" for item in group)
    return "val" if split == ("test" if has_test else "val") else "train"


def _splits(items: Sequence[Item], share: float | None, md5s: Md5s) -> tuple[list[Item], list[str]]:
    """Each with train or val, and what is to be told of it.

    Args:
        items: of one generator, or real ones of none.
        share: for train/, by content, where the splits that there are come to one; None: all are for train/.
        md5s: of the images.
    """
    found = frozenset(item.split for item in items)
    sides = {split: _side(split, items) for split in found}
    if len(set(sides.values())) > 1:
        said = _TOLD.get(found)
        return [_moved(item, sides[item.split], found) for item in items], [said] if said else []
    if share is None:
        return [replace(item, split="train") for item in items], []
    return [replace(item, split=side_of(md5s.get(item.path) or "0", share)) for item in items], []


_TOLD = {
    frozenset(("train", "val", "test")): "test is what is tested with; val joins train.",
    frozenset(("val", "test")): "test is what is tested with, val what is trained with: there is no train.",
}


def _moved(item: Item, side: str, splits: frozenset[str]) -> Item:
    """What joins another split may be called as something there is."""
    is_joining = item.split == "val" and {"train", "test"} <= splits
    return replace(item, split=side, name=f"val-{item.name}" if is_joining else item.name)


def _placed(items: Sequence[Item], limit: int | None, md5s: Md5s) -> tuple[dict[str, Item], str]:
    """Path below data/<task> -> image; and what would lie where another does, '' if nothing would."""
    chosen: Iterable[Item] = items
    if limit is not None:
        chosen = _drawn([((item.split, item.class_folder), item) for item in items], limit, md5s)
    files: dict[str, Item] = {}
    twice = []
    for item in chosen:
        place = "/".join(filter(None, (item.split, item.subject, item.class_folder, item.name)))
        if place in files:
            twice.append(f"{files[place].shown} and {item.shown}")
        files.setdefault(place, item)
    complaint = f"{len(twice)} images would land under a name that another has: {some(twice, 5)}. Rename them."
    return files, complaint if twice else ""


def _drawn(items: Sequence[tuple[Hashable, Item]], limit: int, md5s: Md5s) -> dict[Item, None]:
    """So many of each kind, by content."""
    kept: dict[Hashable, list[Item]] = defaultdict(list)
    for kind, item in sorted(items, key=lambda pair: (md5s.get(pair[1].path, ""), pair[1].shown)):
        kept[kind].append(item)
    return {item: None for group in kept.values() for item in group[:limit]}
