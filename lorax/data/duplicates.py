"""The same picture twice: pixel for pixel, whatever file holds it, or by its looks; here, and in landed tasks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set, Sized
from dataclasses import dataclass, field

from lorax.data.alike import nearest_within
from lorax.data.examine import Examined
from lorax.data.findings import Finding, Severity
from lorax.data.layout import class_folder, class_index
from lorax.data.prints import Print


@dataclass(frozen=True)
class Landed:
    """The images of the other tasks.

    `files` is path -> md5, `prints` what is known of their pixels, by md5; `family`: tasks of the same generators.
    """

    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    prints: Mapping[str, Print] = field(default_factory=dict, repr=False)
    family: Set[str] = frozenset()


def same_pictures(files: Mapping[str, Examined], landed: Landed) -> Iterator[Finding]:
    """Pictures that lie in both splits, under two labels, or in another task, pixel for pixel."""
    yield from _across_splits(files)
    yield from _conflicting(files)
    yield from _known_elsewhere(files, landed)


def alike_pictures(files: Mapping[str, Examined], landed: Landed, bits: int) -> Iterator[Finding]:
    """Pictures that look like one of the other split, of the other label, or of another task.

    Args:
        files: of the data set.
        landed: the other tasks'.
        bits: of a perceptual hash that may differ.
    """
    here = {path: Print(file.pixels, file.fingerprint) for path, file in files.items() if not file.problem}
    there = {path: landed.prints[md5] for path, md5 in landed.files.items() if md5 in landed.prints}
    real, synthetic = _by_label(here)
    real_there, synthetic_there = _by_label(there)
    yield from _look_alike(
        "near-duplicates",
        "of val/ like one of train/ (perceptual hash); scores on them flatter.",
        _pairs(_of(here, "val/"), _of(here, "train/"), bits),
    )
    torn = _pairs(synthetic, real, bits)
    torn |= _pairs(synthetic, real_there, bits) | _pairs(real, synthetic_there, bits)
    yield from _look_alike(
        "near-conflicting-labels",
        "like one of the other label, here or in another task (perceptual hash). As it should be where a "
        "generator redraws photographs, as an upscaler does; else one of each two has the wrong label.",
        torn,
    )
    yield from _not_compared(landed)
    yield from _look_alike(
        "near-landed-elsewhere",
        "like one of the same label in another task (perceptual hash); where one of the two is tested on, "
        "its score flatters.",
        _pairs(real, real_there, bits) | _pairs(synthetic, synthetic_there, bits),
    )


def _across_splits(files: Mapping[str, Examined]) -> Iterator[Finding]:
    train = {file.identity for path, file in files.items() if path.startswith("train/") and file.identity}
    both = tuple(path for path, file in files.items() if path.startswith("val/") and file.identity in train)
    if both:
        message = f"{_images(both)} of val/ in train/ too, pixel for pixel; a test on them measures nothing."
        yield Finding("same-in-train-and-val", "refused", message, both)


def _conflicting(files: Mapping[str, Examined]) -> Iterator[Finding]:
    places: dict[str, list[str]] = defaultdict(list)
    for path, file in files.items():
        if file.identity:
            places[file.identity].append(path)
    torn = [paths for paths in places.values() if len(paths) > 1 and len({class_index(path) for path in paths}) > 1]
    if torn:
        message = f"{_images(torn)} in several classes, pixel for pixel; each can have one label."
        yield Finding("conflicting-labels", "refused", message, tuple(path for paths in torn for path in paths))


def _known_elsewhere(files: Mapping[str, Examined], landed: Landed) -> Iterator[Finding]:
    """Pictures that other tasks have: as the other kind of image, as real ones too, as synthetic ones too."""
    wanted = {name for file in files.values() for name in (file.md5, file.pixels) if name}
    elsewhere: dict[str, list[str]] = defaultdict(list)
    for path, md5 in landed.files.items():
        known = landed.prints.get(md5)
        for name in {md5, known.pixels if known else md5} & wanted:
            elsewhere[name].append(path)
    found: dict[str, dict[str, None]] = defaultdict(dict)
    tasks: dict[str, set[str]] = defaultdict(set)
    again = set[str]()
    for path, file in files.items():
        for other in (*elsewhere.get(file.md5, ()), *elsewhere.get(file.pixels, ())):
            kind = _relation(class_index(path) == 0, class_index(other) == 0)
            found[kind][path] = None
            tasks[kind].add(task := other.partition("/")[0])
            if kind == "landed-elsewhere" and task not in landed.family:
                again.add(path)
    for kind, (severity, what, text) in _RELATIONS.items():
        if found[kind]:
            message = f"{_images(found[kind], what)} {text} {', '.join(sorted(tasks[kind]))}."
            twice = _twice(again, files) if kind == "landed-elsewhere" else ""
            yield Finding(kind, "refused" if twice else severity, f"{message}{twice}", tuple(found[kind]))


def _twice(again: Iterable[str], files: Iterable[str]) -> str:
    """Why a class can't land more than half of whose images another generator has; '' if there is none."""
    in_class, theirs = Counter(map(class_folder, files)), Counter(map(class_folder, again))
    mostly = sorted(folder for folder, count in theirs.items() if 2 * count > in_class[folder])
    if not mostly:
        return ""
    return (
        f" They are most of {', '.join(mostly)}: one generator under two names, either of which would be taken for the "
        "other. Land more of its images with --extend; to give it this name, 'lorax withdraw' that task first."
    )


_RELATIONS: dict[str, tuple[Severity, str, str]] = {
    "conflicting-labels": ("refused", "image", "real here and synthetic elsewhere, or the reverse, in task"),
    "shared-reals": ("warned", "real image", "shared with task"),
    "landed-elsewhere": ("warned", "synthetic image", "landed already, pixel for pixel, in task"),
}


def _relation(is_real: bool, is_real_elsewhere: bool) -> str:
    if is_real != is_real_elsewhere:
        return "conflicting-labels"
    return "shared-reals" if is_real else "landed-elsewhere"


def _not_compared(landed: Landed) -> Iterator[Finding]:
    unseen = [path for path, md5 in landed.files.items() if md5 not in landed.prints]
    if unseen:
        tasks = ", ".join(sorted({path.partition("/")[0] for path in unseen}))
        message = (
            f"{_images(unseen)} of {tasks} neither in data/ nor in DVC's cache here, so only the files' bytes "
            "were compared with these. 'dvc pull' brings them."
        )
        yield Finding("not-compared", "warned", message)


def _look_alike(kind: str, text: str, pairs: Mapping[str, str]) -> Iterator[Finding]:
    if pairs:
        yield Finding(
            kind, "warned", f"{_images(pairs)} {text}", tuple(f"{one} ~ {other}" for one, other in pairs.items())
        )


def _images(found: Sized, what: str = "image") -> str:
    """How many there are: '1 image', '2 images'."""
    return f"{len(found)} {what}{'' if len(found) == 1 else 's'}"


def _by_label(pictures: Mapping[str, Print]) -> tuple[dict[str, Print], dict[str, Print]]:
    """The real ones, and the synthetic ones."""
    sides: tuple[dict[str, Print], dict[str, Print]] = ({}, {})
    for path, known in pictures.items():
        sides[class_index(path) != 0][path] = known
    return sides


def _of(pictures: Mapping[str, Print], prefix: str) -> dict[str, Print]:
    return {path: known for path, known in pictures.items() if path.startswith(prefix)}


def _pairs(ones: Mapping[str, Print], others: Mapping[str, Print], bits: int) -> dict[str, str]:
    """Which of `ones` look like which of `others`; the very same pictures are told of anyway."""
    same = {known.pixels for known in others.values()}
    left, right = [path for path, known in ones.items() if known.pixels not in same], list(others)
    found = nearest_within(
        [ones[path].fingerprint for path in left], [others[path].fingerprint for path in right], bits
    )
    return {left[one]: right[other] for one, other in found.items()}
