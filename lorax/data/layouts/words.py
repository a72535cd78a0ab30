"""The words by which data sets call splits, real and synthetic images, and what generators' names become."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lorax.data.layouts.items import FAKE, REAL

_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing"),
}
_REAL = {"real", "0-real", "nature"}
_FAKE = {"fake", "1-fake", "ai", "synthetic", "generated", "ai-generated"}
BESIDE = {"recon", "recons", "reconstruction", "reconstructions", "dire", "mask", "masks"}
"""Folders of what was made of images to look into them, as DIRE's reconstructions and differences."""

_SPLIT_BY_WORD = {word: split for split, words in _SPLITS.items() for word in words}
_YEAR = re.compile(r"(19|20)\d\d$")  # train2017
_PART = "partial-"  # partial-train, as the Hub calls the beginning of a split that it has converted to Parquet
_LONGEST = 63


def split_of(word: str) -> str:
    """train, val or test, where a folder or a value is called so in whatever way; else ''."""
    return _SPLIT_BY_WORD.get(_YEAR.sub("", word.lower()).removeprefix(_PART), "")


def split_in(path: str) -> str:
    """The split that a file's folders or the parts of its name tell, as in `data/train-00000-of-00004.parquet`."""
    *folders, name = path.split("/")
    parts = [part for part in (*reversed(folders), *re.split(r"[-_.\s]", name)) if split_of(part)]
    return split_of(parts[0]) if parts else ""


def split_named(name: str) -> str:
    """The split that a file's name tells, as `split1_train.txt`; '' where it tells none, or several."""
    found = {split_of(part) for part in re.split(r"[-_.\s]", name)} - {""}
    return found.pop() if len(found) == 1 else ""


def class_of(word: str) -> str:
    """The class folder, where a folder or a label is called real or synthetic in whatever way; else ''."""
    plain = plainly(word)
    return REAL if plain in _REAL else FAKE if plain in _FAKE else ""


def plainly(word: str) -> str:
    """A word in lower case, with a hyphen for all that is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")


def task_name(generator: str) -> str:
    """A generator's name as a task's: in lower case, with a hyphen for what can't be in one; may still be unusable."""
    return re.sub(r"[^a-z0-9_-]+", "-", generator.lower()).strip("-_")[:_LONGEST]


def own_name(source: Path) -> str:
    """What a data set is called: its folder, `sd-1.5`, or its file without the ending."""
    return source.resolve().name if source.is_dir() else source.stem


def shared_start(names: Sequence[tuple[str, ...]]) -> int:
    """How many folders all these paths, each as its folders, begin with."""
    if not names:
        return 0
    alike = 0
    for column in zip(*names, strict=False):
        if len(set(column)) > 1:
            break
        alike += 1
    return alike


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for people, each once, sorted."""
    found = sorted(set(names))
    more = len(found) - most
    return ", ".join(found[:most]) + (f" and {more:,} more" if more > 0 else "")
