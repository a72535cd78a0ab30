"""A known generator that grows: more of its images land as a task of their own, whose classes are the older task's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count

from lorax.data import versions
from lorax.data.duplicates import Landed
from lorax.data.findings import Finding
from lorax.data.incoming import Incoming
from lorax.data.layout import class_index, parse_task
from lorax.data.pins import Pins, TaskNotes
from lorax.data.prints import Print
from lorax.errors import DataVersionError, LayoutError
from lorax.stream import PinnedTask


def base_of(found: Pins, task: str) -> str:
    """The task whose classes a landed task's are: the one that it extends, or itself.

    Raises:
        DataVersionError: it has not landed.
    """
    if task not in {entry.name for entry in found.stream}:
        names = ", ".join(entry.name for entry in found.stream) or "none"
        raise DataVersionError(
            f"task {task!r} has not landed, so it can be neither extended nor followed by a new version; landed are: "
            f"{names}. Land it first, or leave --extend and --new-version-of out."
        )
    return found.notes_of(task).extends or task


def notes_for(found: Pins, task: str, extend: bool, new_version_of: str, accept_leak: str) -> TaskNotes:
    """What is to be kept with a task that lands; one that lands again stays what it was to others.

    Args:
        found: what has landed.
        task: as the user named it: the older task, where it is to be extended.
        extend, new_version_of, accept_leak: the options of the landing.

    Raises:
        DataVersionError: the task that is to be extended or followed has not landed, or is this one.
    """
    older = TaskNotes() if extend else found.notes_of(task)
    if (extend or older.extends) and new_version_of:
        raise DataVersionError(
            f"more images of {task!r} can't be a new version of {new_version_of!r} as well. Give --extend or "
            "--new-version-of, not both."
        )
    if new_version_of == task:
        raise DataVersionError(
            f"task {task!r} can't be a new version of itself. Land it under another --task name, or, if these are more "
            "images of the same generator, with --extend."
        )
    extends = base_of(found, task) if extend else older.extends
    follows = base_of(found, new_version_of) if new_version_of else older.new_version_of
    return TaskNotes(accept_leak, extends, follows)


def check_relation(found: Pins, task: PinnedTask, asked: str) -> None:
    """See that what has landed with the same files is the new version of what is `asked` for; '' asks for nothing.

    Raises:
        DataVersionError: it is not.
    """
    kept = found.notes_of(task.name).new_version_of
    if asked and asked != kept:
        what = f"as a new version of {kept!r}" if kept else "as no other's new version"
        raise DataVersionError(
            f"task {task.name!r} has landed already with these files, {what}, and stays what it is. Land them under "
            "another --task name."
        )


def extension_name(found: Pins, base: str, digest: str) -> str:
    """The name under which more images of a task land: `<base>-2`, or the next that is free.

    It is that of an extension that has the same files, so that landing twice lands once.
    """
    digests = {entry.name: entry.digest for entry in found.stream}
    for name in (f"{base}-{number}" for number in count(2)):
        is_own = found.notes_of(name).extends == base
        if name not in digests or (is_own and digests[name] == digest):
            return name
    raise AssertionError("numbers don't end")


def family_of(incoming: Incoming, found: Pins) -> set[str]:
    """The landed tasks of the same generators: what a data set extends, and what extends either."""
    base = incoming.extends or incoming.task
    return {base, *(task.name for task, notes in found.notes.items() if notes.extends == base)} - {incoming.task}


def problems(incoming: Incoming, found: Pins, landed: Landed) -> Iterator[Finding]:
    """Why a data set can't land as more images of another task, or in place of one that others extend.

    Args:
        incoming: the data set.
        found: what has landed.
        landed: all images that have.
    """
    base, family = incoming.extends or incoming.task, family_of(incoming, found)
    if not family or incoming.complaints:
        return
    files = {name: versions.below(landed.files, name) for name in sorted(family)}
    tasks = {name: parse_task(name, "", own) for name, own in files.items()}
    new = parse_task(incoming.task, "", incoming.md5s)
    pairs = [(new, tasks[base])] if incoming.extends else [(task, new) for task in tasks.values()]
    for extension, of in pairs:
        try:
            extension.as_more_of(of)
        except LayoutError as error:
            yield Finding("other-classes", "refused", f"{extension.name} extends {of.name}: {error}")
    yield from _same_pictures(incoming, files, landed.prints)


def _same_pictures(
    incoming: Incoming, family: Mapping[str, Mapping[str, str]], prints: Mapping[str, Print]
) -> Iterator[Finding]:
    """Pictures that would be trained on here and tested on there, or the reverse; and more images that are none."""
    sides: dict[str, set[str]] = {}
    for files in family.values():
        for path, md5 in files.items():
            for name in {md5, prints[md5].pixels if md5 in prints else md5}:
                sides.setdefault(name, set()).add(path.partition("/")[0])
    seen = {path: sides.get(one.md5, set()) | sides.get(one.identity, set()) for path, one in incoming.files.items()}
    torn = tuple(path for path, where in seen.items() if where - {path.partition("/")[0]})
    synthetic = tuple(path for path in seen if class_index(path))
    if incoming.extends and synthetic and all(seen[path] for path in synthetic):
        message = f"{', '.join(family)} has each of these synthetic images already, so there is nothing to learn."
        yield Finding("nothing-new", "refused", message, synthetic)
    if torn:
        message = (
            f"{len(torn)} images lie in the other split of {', '.join(family)}, pixel for pixel; a test on them "
            "measures nothing."
        )
        yield Finding("same-in-train-and-val", "refused", message, torn)
