"""Two data.dvc that both grew from a third become one: the upstream's stream, then what landed here alone."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from lorax.data import keeping, versions
from lorax.data.pins import Pins
from lorax.errors import DataVersionError
from lorax.stream import PinnedTask
from lorax.workspace import Workspace


def merged(workspace: Workspace, base: Pins, theirs: Pins, ours: Pins) -> str:
    """The text of a data.dvc that has what `theirs` has, and what `ours` changed since `base`.

    The list of files that it pins is in DVC's cache afterwards.

    Raises:
        DataVersionError: both changed the same task, or a list of files can't be had.
    """
    old, new, other = (_by_name(pins) for pins in (base, ours, theirs))
    changed = {name: task for name, task in new.items() if task not in (old.get(name), other.get(name))}
    gone = {name for name in old.keys() - new.keys() if name in other}
    if torn := sorted(name for name in changed.keys() | gone if other.get(name) != old.get(name)):
        raise DataVersionError(_torn(torn))
    stream = [task for task in (other | changed).values() if task.name not in gone]
    files = _files(workspace, theirs, other.keys() - changed.keys() - gone)
    files |= _files(workspace, ours, changed.keys())
    pinned = {"md5": keeping.store_manifest(workspace, files), "size": _size(base, theirs, ours), "nfiles": len(files)}
    output = {key: value for key, value in ({**_output(theirs), **pinned}).items() if value is not None}
    notes = {task: kept for task, kept in ours.notes.items() if task.name in changed}
    return Pins({**theirs.content, "outs": [output]}, theirs.place).text(stream, notes)


def _output(pins: Pins) -> dict[str, Any]:
    return dict(pins.content["outs"][0]) if pins.content else {"size": 0}


def _size(base: Pins, theirs: Pins, ours: Pins) -> int | None:
    """Bytes of all files, told by the three sums alone, so that all who join these two write the same.

    None where they don't tell: one of them is missing, or both sides made the same change, which would count twice.
    """
    sizes = [_output(pins).get("size") for pins in (theirs, ours, base)]
    old, new, other = (set(pins.stream) for pins in (base, ours, theirs))
    if (new ^ old) & (other ^ old):
        return sizes[0] if new ^ old <= other ^ old else None
    told = [size for size in sizes if size is not None]
    return told[0] + told[1] - told[2] if len(told) == len(sizes) else None


def _by_name(pins: Pins) -> dict[str, PinnedTask]:
    return {task.name: task for task in pins.stream}


def _files(workspace: Workspace, pins: Pins, tasks: Set[str]) -> dict[str, str]:
    found = versions.manifest(workspace, pins)
    return {path: md5 for path, md5 in found.items() if path.partition("/")[0] in tasks}


def _torn(names: list[str]) -> str:
    first = names[0]
    return (
        f"{', '.join(names)}: landed in the upstream, too, with other files than here. Take back what landed here and "
        f"land it under another name: 'git reset --keep @{{upstream}}', 'mv data/{first} /tmp/{first}', then 'lorax "
        f"land /tmp/{first} --task NEWNAME'; what else the reset took back lands again in the same way."
    )
