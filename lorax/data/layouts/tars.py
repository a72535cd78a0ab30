"""WebDataset's tar files: members that differ in their ending only are one sample, an image and what is said of it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from lorax.data.images import Progress
from lorax.data.layout import is_image
from lorax.data.layouts.apart import Apart, check_size
from lorax.data.layouts.items import Found, Item, Reading
from lorax.data.layouts.records import Labels, Row, columns, text_of, told_by_path
from lorax.data.layouts.words import class_of
from lorax.errors import LayoutError

ENDINGS = (".tar",)
_KINDS = ("label", "generator", "split", "date")


def read_tars(
    root: Path, files: Sequence[str], reading: Reading, own: str, apart: Apart, progress: Progress | None
) -> Found:
    """The images of tar files, each read from beginning to end.

    Args:
        root, files, reading, own, apart, progress: as for `tables.read_tables`.

    Raises:
        LayoutError: an archive is damaged or has a member with an unsafe name, or it can't be told what is what.
    """
    found: dict[str, Item] = {}
    for name in files:
        labels: Labels | None = None
        generator, split = told_by_path(name, reading.levels)
        for key, members in _samples(root / name):
            said = _said(members, root / name, key)
            known = columns([*said], reading, root / name, _KINDS) if not reading.columns else _asked(said, reading)
            if labels is None or labels.has_label != ("label" in known):
                labels = Labels(root / name, reading, "label" in known)
            shown = f"{name}, {key}"
            row = Row(*(text_of(said.get(known[kind])) if kind in known else "" for kind in _KINDS))
            called = f"{PurePosixPath(name).stem}-{key}"
            item = _item(row, labels, members, shown, called, generator or own, split, apart)
            if item is not None:
                if shown in found:
                    raise LayoutError(f"{root / name} has two images under one name, {key}. Rename one.")
                found[shown] = item
            if progress is not None:
                progress(len(found), len(found) + 1, "reading images")
        if labels is not None:
            labels.check()
    return Found(f"{len(files)} WebDataset tar file{'s' * (len(files) > 1)}", tuple(found.values()))


def _item(
    row: Row, labels: Labels, members: Mapping[str, bytes], shown: str, name: str, own: str, split: str, apart: Apart
) -> Item | None:
    images = [ending for ending in members if is_image(f"x.{ending}")]
    if len(images) != 1:
        raise LayoutError(
            f"{labels.place}: sample {shown} has {len(images)} images ({', '.join(members)}); expected one in each. "
            "If it is a folder that was packed, unpack it."
        )
    if not (row.label or row.generator) and any(map(class_of, name.split("/"))):  # else all would be synthetic
        raise LayoutError(
            f"{labels.place} is a folder that was packed, with {shown}, and no WebDataset: unpack it, and land that."
        )
    plain = labels.item(row, labels.place, shown, "", own, split)
    wanted = labels.reading.generators
    if plain is None or (wanted and not plain.is_real and plain.generator not in wanted):
        return None
    path, called = apart.file(members[images[0]], name.replace("/", "-"), f"x.{images[0]}")
    return Item(path, shown, called, plain.class_folder, plain.generator, plain.split, "", plain.released)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key -> {ending: bytes}, one sample at a time; members of a sample lie one behind the other."""
    key, members = "", dict[str, bytes]()
    for name, data in _members(path):
        folder, _, file = name.rpartition("/")
        stem, _, ending = file.partition(".")
        this = f"{folder}/{stem}" if folder else stem
        if this != key and members:
            yield key, members
            members = {}
        if ending.lower() in members:
            raise LayoutError(f"{path} has two members called {name}. Rename one.")
        key, members[ending.lower()] = this, data
    if members:
        yield key, members


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with readable(path), tarfile.open(path, "r|*") as archive:
        for member in archive:
            name = member_name(path, member)
            if name:
                file = archive.extractfile(member)
                assert file is not None
                yield name, file.read()
        check_end(path, archive, archive.fileobj.tell())


def member_name(path: Path, member: tarfile.TarInfo) -> str:
    """What a member of an archive is called; "" for a folder, and for what is hidden.

    Raises:
        LayoutError: its name is unsafe, it is neither file nor folder, or too large.
    """
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not member.name.isprintable():
        raise LayoutError(f"{path} has a member called {member.name!r}, which leads out of it; it is not read.")
    if member.isdir() or any(part.startswith(".") for part in name.parts):
        return ""
    if not member.isfile():
        raise LayoutError(f"{path}: {member.name} is neither a file nor a folder; it is not read.")
    check_size(path, member.name, member.size)
    return name.as_posix()


def check_end(path: Path, archive: tarfile.TarFile, end: int) -> None:
    """See that an archive, read through, has more than its members: tarfile takes the end of the bytes for its end.

    Raises:
        LayoutError: it was cut off behind one.
    """
    if end == archive.offset:
        raise LayoutError(f"{path} has no end, as if it was cut off behind a member. Fetch it again.")


def _said(members: Mapping[str, bytes], path: Path, key: str) -> dict[str, Any]:
    """What the members beside the image say: a JSON's values, a class, a text if it is a class's name."""
    said: dict[str, Any] = {}
    try:
        if "json" in members:
            told = json.loads(members["json"])
            said |= told if isinstance(told, dict) else {}
        if "cls" in members:
            said["label"] = members["cls"].decode().strip()
        elif "txt" in members and class_of(text := members["txt"].decode().strip()):
            said.setdefault("label", text)
    except ValueError as error:
        raise LayoutError(f"{path}: what is said of {key} can't be read ({error}).") from error
    return said


def _asked(said: Iterable[str], reading: Reading) -> dict[str, str]:
    """The columns, where some were named; a sample may lack one."""
    there = [*said]
    usual = columns(there, Reading(), Path(), _KINDS)
    return usual | {kind: name for kind, name in reading.columns.items() if kind in _KINDS and name in there}


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what is raised of a damaged archive."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError) as error:
        raise LayoutError(f"{path} is damaged: it can't be read to its end ({error}). Fetch it again.") from error
