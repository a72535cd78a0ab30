"""The images that model versions need (exemplars and calibration images), in a store of their own.

DVC's collector keeps what data.dvc pins now, and these may be of data that was replaced since. So they are copied to
where no `dvc gc` looks: to work/memory/, and in DVC's default remote to the folder `lorax-memory` beside DVC's objects.
Each is called by its md5; a list for each learner state says which ones that needs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from lorax.storage import storage_errors, write_whole
from lorax.stream import Sample
from lorax.text import some
from lorax.workspace import Workspace

_REMOTE_FOLDER = "lorax-memory"
_READ_ONLY = 0o444
_COLUMNS = ("md5", "path", "task", "class_index")


def path_of(workspace: Workspace, md5: str) -> Path:
    """Where an image lies, if it is kept here."""
    return workspace.memory_dir / md5


def keep(workspace: Workspace, state_digest: str, samples: Iterable[Sample], files: Mapping[str, Path]) -> None:
    """Keep the images that a learner state needs, and the list of them.

    Args:
        workspace: where.
        state_digest: the state's.
        samples: the images.
        files: md5 -> file, for each of them.

    Raises:
        StorageError: the disk is full or refuses to be written.
    """
    rows = {sample.md5: sample for sample in samples}
    for md5 in rows:
        if not is_whole(path_of(workspace, md5), md5):
            copy(files[md5], path_of(workspace, md5))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerows([_COLUMNS, *([s.md5, s.path, s.task, s.class_index] for s in rows.values())])
    write_whole(workspace.memory_dir / f"{state_digest}.csv", text.getvalue())


def lacking(workspace: Workspace, state_digest: str) -> list[Sample]:
    """The images that a learner state needs and that were kept here once, but are not any more."""
    try:
        rows = list(csv.DictReader(io.StringIO((workspace.memory_dir / f"{state_digest}.csv").read_text())))
        kept = [Sample(row["path"], row["md5"], row["task"], int(row["class_index"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # no list, or a damaged one: the state has its own
        return []
    return [sample for sample in kept if not path_of(workspace, sample.md5).is_file()]


def upload(workspace: Workspace, remote: Any, md5s: Iterable[str]) -> None:
    """Copy images that are kept here to DVC's remote, as far as it lacks them."""
    folder = remote.fs.join(remote.path, _REMOTE_FOLDER)
    remote.fs.makedirs(folder, exist_ok=True)
    there = {remote.fs.name(path) for path in remote.fs.find(folder)}
    for md5 in sorted(set(md5s) - there):
        draft = remote.fs.join(folder, f"{md5}.{secrets.token_hex(3)}")
        remote.fs.put_file(str(path_of(workspace, md5)), draft)
        remote.fs.mv(draft, remote.fs.join(folder, md5))


def download(workspace: Workspace, remote: Any, md5s: Iterable[str]) -> None:
    """Copy images from DVC's remote to here, as far as it keeps them."""
    for md5 in md5s:
        place = remote.fs.join(remote.path, _REMOTE_FOLDER, md5)
        if remote.fs.exists(place):
            workspace.memory_dir.mkdir(parents=True, exist_ok=True)
            draft = path_of(workspace, f"{md5}.{secrets.token_hex(3)}")
            remote.fs.get_file(place, str(draft))
            draft.replace(path_of(workspace, md5))


def are_remote(remote: Any, md5s: Iterable[str]) -> set[str]:
    """Which of the images DVC's remote keeps."""
    wanted = list(md5s)
    return {md5 for md5, path in zip(wanted, remote_paths(remote, wanted), strict=True) if remote.fs.exists(path)}


def remote_paths(remote: Any, md5s: Iterable[str]) -> list[str]:
    """Where DVC's remote keeps images, or would."""
    return [remote.fs.join(remote.path, _REMOTE_FOLDER, md5) for md5 in md5s]


def named(samples: Sequence[Sample]) -> str:
    """Some of the samples, for people."""
    return some(sorted(sample.path for sample in samples), 5)


def copy(source: Path, target: Path) -> None:
    """Copy a file such that `target` is the old one or the new one, never a part.

    Raises:
        StorageError: the disk is full or refuses to be written.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{secrets.token_hex(3)}.tmp")
        try:
            shutil.copyfile(source, draft)
            draft.chmod(_READ_ONLY)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)


def is_whole(path: Path, md5: str) -> bool:
    """Whether a file is there and has this md5."""
    try:
        found = path.stat()
        return _md5_at(path, found.st_size, found.st_mtime_ns, found.st_ino) == md5
    except OSError:
        return False


def md5_of(path: Path) -> str:
    """The md5 of a file's bytes, which is DVC's name for them."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@lru_cache(maxsize=2**18)  # the steps of an episode ask for the same files
def _md5_at(path: os.PathLike[str], size: int, mtime_ns: int, inode: int) -> str:
    return md5_of(Path(path))
