"""What landed images look like: of each a digest of its pixels and a perceptual hash, for later landings.

A table for each task, `work/prints/<digest>.npz`, kept when the task lands. It is derived: where there is none, as in a
fresh clone, it is made anew from the images that are here, which takes as long as to read them for landing.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lorax.data import versions
from lorax.data.examine import Examined, examine_all
from lorax.data.images import Progress
from lorax.storage import write_whole
from lorax.stream import PinnedTask
from lorax.workspace import Workspace

_KIND = "2.npz"
"""Changes with what is in a table; those of another kind are made anew."""

_DIGEST = "S32"  # hexadecimal digits of an md5, and of a digest of pixels


@dataclass(frozen=True)
class Print:
    """What an image looks like: the digest of its pixels, and its 64-bit perceptual hash."""

    pixels: str
    fingerprint: int


def prints_of(files: Iterable[Examined]) -> dict[str, Print]:
    """md5 -> what the image looks like, of those that could be decoded."""
    return {file.md5: Print(file.pixels, file.fingerprint) for file in files if not file.problem}


def keep(workspace: Workspace, task: PinnedTask, prints: Mapping[str, Print]) -> None:
    """Keep a task's table.

    Raises:
        StorageError: the disk is full or refuses to be written.
    """
    table = io.BytesIO()
    np.savez(
        table,
        md5=np.array(list(prints), _DIGEST),
        pixels=np.array([known.pixels for known in prints.values()], _DIGEST),
        fingerprint=np.array([known.fingerprint for known in prints.values()], np.uint64),
    )
    write_whole(_path(workspace, task), table.getvalue())


def prune(workspace: Workspace, stream: Iterable[PinnedTask]) -> None:
    """Remove the tables of what is not in the stream."""
    wanted = {_path(workspace, task) for task in stream}
    for path in workspace.prints_dir.glob("[!.]*"):
        if path not in wanted:
            path.unlink(missing_ok=True)


def kept(workspace: Workspace) -> set[str]:
    """The md5s of the images that tables are kept of."""
    return {md5 for path in workspace.prints_dir.glob("[!.]*") for md5 in _load(path) or ()}


def known(
    workspace: Workspace, stream: Iterable[PinnedTask], files: Mapping[str, str], progress: Progress | None = None
) -> dict[str, Print]:
    """md5 -> what the image looks like, of the images of landed tasks, as far as they are known or can be read here.

    Args:
        workspace: where they landed.
        stream: the tasks.
        files: path -> md5 of these tasks' images.
        progress: told after each image that has to be read.

    Raises:
        DataVersionError: DVC can't tell where its cache is.
        StorageError: the disk is full or refuses to be written.
    """
    found: dict[str, Print] = {}
    for task in stream:
        table = _load(_path(workspace, task))
        if table is None:
            own = versions.below(files, task.name)
            seen = _read(workspace, task.name, own, progress)
            table = prints_of(seen.values())
            if seen.keys() >= set(own.values()):
                keep(workspace, task, table)
        found |= table
    return found


def _path(workspace: Workspace, task: PinnedTask) -> Path:
    return workspace.prints_dir / f"{task.digest}.{_KIND}"


def _load(path: Path) -> dict[str, Print] | None:
    """A table; None if there is none, or none that can be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as table:
            columns = [table[name].tolist() for name in ("md5", "pixels", "fingerprint")]
            return {md5.decode(): Print(pixels.decode(), bits) for md5, pixels, bits in zip(*columns, strict=True)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError):
        return None


def _read(workspace: Workspace, task: str, files: Mapping[str, str], progress: Progress | None) -> dict[str, Examined]:
    """Look at the images, as far as they are here; none is fetched."""
    shown = None if progress is None else partial(_told, progress, task)
    landed = {md5: workspace.data_dir / task / path for path, md5 in files.items()}
    seen = _looked_at(landed, shown)
    missing = landed.keys() - seen.keys()
    return seen | _looked_at(versions.cache_paths(workspace, missing), shown) if missing else seen


def _looked_at(paths: Mapping[str, Path], progress: Progress | None) -> dict[str, Examined]:
    found = examine_all({md5: path for md5, path in paths.items() if path.is_file()}, progress)
    return {md5: file for md5, file in found.items() if file.md5 == md5}


def _told(progress: Progress, task: str, done: int, total: int, what: str) -> None:
    progress(done, total, f"{what} of {task}")
