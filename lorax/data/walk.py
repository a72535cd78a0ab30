"""From what a person names to image files, one after the other: files, folders, patterns, names from a pipe.

Nothing is listed before it is needed, and no names are held but those of the folders on the way to the present file, or
of one pattern's matches, so a tree of any size goes through.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_AT_ONCE = 2**16


@dataclass(frozen=True)
class Found:
    """A file to be read; or, where `problem` says why, something that was named and is none."""

    path: Path
    problem: str = ""


def files_named(names: Iterable[str], *, patterns: bool = True) -> Iterator[Found]:
    """The files that names stand for, in order.

    A folder stands for every file below it that is not hidden, sorted by name, links to folders not followed. A name
    that does not exist and holds `*`, `?` or `[` is a pattern, in which `**` stands for any number of folders.

    Args:
        names: of files, folders and patterns.
        patterns: False takes every name as it is.
    """
    for name in names:
        path = Path(name)
        if patterns and glob.has_magic(name) and not os.path.lexists(path):
            yield from _matches(name)
        else:
            yield from _files(path)


def names_from(read: Callable[[int], bytes], end: bytes = b"\n") -> Iterator[str]:
    """The names that a pipe brings, as they come; empty ones are left out.

    Args:
        read: the next bytes, at most so many; none at the end.
        end: of each name.
    """
    rest = b""
    while data := read(_AT_ONCE):
        *whole, rest = (rest + data).split(end)
        yield from (os.fsdecode(name) for name in whole if name)
    if rest:
        yield os.fsdecode(rest)


def _matches(pattern: str) -> Iterator[Found]:
    matches = sorted(Path(match) for match in glob.iglob(pattern, recursive=True))  # noqa: PTH207 - a pattern may be absolute
    if not matches:
        yield Found(Path(pattern), f"{pattern} matches no file here.")
    walked = None
    for path in matches:
        if walked is None or not path.is_relative_to(walked):
            yield from _files(path)
            walked = path


def _files(path: Path) -> Iterator[Found]:
    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder on the way may not be entered
        yield Found(path)
        return
    waiting = [iter((Found(path),))]
    while waiting:
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
        elif not found.problem and os.path.isdir(found.path):  # noqa: PTH112 - as above
            waiting.append(_listed(found.path))
        else:
            yield found


def _listed(folder: Path) -> Iterator[Found]:
    """Files and folders in a folder."""
    try:
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Found(folder, f"{folder} can't be listed: {error.strerror}.")
        return
    for entry in ordered:
        if not entry.name.startswith(".") and _is_wanted(entry):
            yield Found(folder / entry.name)


def _is_wanted(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, a folder, or a link that can't be followed, which reading it will say.

    Pipes and devices are passed over, they may never end; so are links to folders.
    """
    try:
        if entry.is_file() or entry.is_dir(follow_symlinks=False):
            return True
        entry.stat()  # a link that leads nowhere is neither, and no error until now
    except OSError:
        return True
    return False
