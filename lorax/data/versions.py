"""Data revisions: what has landed, which files it holds, and where their bytes are; the one room that imports DVC.

What has landed is what git's HEAD has committed (see pins.py). Reads go through DVC's Python API; writes run its
command line (see repository.py), which takes DVC's locks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from lorax import environment
from lorax.data import memory, pins
from lorax.data.layout import parse_task
from lorax.data.memory import md5_of as md5_of  # for readers of this room's interface
from lorax.data.pins import Pins
from lorax.data.repository import create_repository as create_repository  # likewise
from lorax.data.repository import last_commit
from lorax.errors import DataVersionError, LoraxError, StorageError
from lorax.stream import DataRevision, PinnedTask, Sample, Task
from lorax.workspace import Workspace

_MD5 = re.compile(r"[0-9a-f]{32}")
_HOW_TO_GET = (
    "Name the place that has it with 'dvc remote add -d NAME URL' and try again, "
    "or copy .dvc/cache from the machine where it landed."
)


def task_digest(files: Mapping[str, str]) -> str:
    """sha256 over the sorted (path, md5) pairs of a task's files, paths relative to data/<task>."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def landed(workspace: Workspace) -> tuple[PinnedTask, ...]:
    """The stream as committed, in landing order; () if nothing landed. Imports no DVC.

    Raises:
        DataVersionError: data.dvc is damaged, or was not written by a landing.
    """
    return pins.committed(workspace).stream


def extensions(workspace: Workspace) -> dict[str, str]:
    """The landed tasks that bring more images of another -> that one. Imports no DVC.

    Raises:
        DataVersionError: data.dvc is damaged.
    """
    return {task.name: kept.extends for task, kept in pins.committed(workspace).notes.items() if kept.extends}


def revision(workspace: Workspace) -> DataRevision:
    """Which data the workspace is at. Imports no DVC.

    Raises:
        DataVersionError: data.dvc is damaged.
    """
    commit = last_commit(workspace.root, pins.NAME)
    return DataRevision(pins.committed(workspace, commit or "HEAD").digest, commit)


def manifest(workspace: Workspace, of: Pins | None = None) -> Mapping[str, str]:
    """All files that are pinned: path relative to data/ -> md5.

    Args:
        workspace: where.
        of: what pins them; None: what git's HEAD has.

    Raises:
        DataVersionError: the list is neither in DVC's cache nor in its remote, or data.dvc is damaged.
    """
    digest = (of or pins.committed(workspace)).digest
    return _manifest(workspace.root, digest) if digest else {}


def below(files: Mapping[str, str], task: str) -> dict[str, str]:
    """Those of `files` (paths relative to data/) that are the task's, paths relative to data/<task>."""
    prefix = f"{task}/"
    return {path.removeprefix(prefix): md5 for path, md5 in files.items() if path.startswith(prefix)}


def read_task(workspace: Workspace, name: str, commit: str = "HEAD") -> Task:
    """The samples of a landed task; no image is read, and data/ need not be there.

    Args:
        workspace: where.
        name: the task's.
        commit: whose data.dvc is read.

    Raises:
        DataVersionError: the task has not landed, its list of files can't be had, or is not what the stream names.
        LayoutError: the task that it extends was replaced by one without its classes.
    """
    return pinned_task(workspace, pins.committed(workspace, commit), name)


def pinned_task(workspace: Workspace, found: Pins, name: str) -> Task:
    """The same of a data.dvc that was read already."""
    digests = {entry.name: entry.digest for entry in found.stream}
    if name not in digests:
        names = ", ".join(digests) or "none"
        raise DataVersionError(f"task {name!r} has not landed in {workspace.root}; landed are: {names}.")
    files = _files_by_task(workspace.root, found.digest).get(name, {})
    digest = task_digest(files)
    if digest != digests[name]:
        raise DataVersionError(
            f"{found.place} contradicts itself: its stream names task {name!r} with digest {digests[name]}, but its "
            f"files have {digest}. Only 'lorax land' may change data/; restore data.dvc from git."
        )
    task, base = parse_task(name, digest, files), found.notes_of(name).extends
    return task.as_more_of(pinned_task(workspace, found, base)) if base else task


def fetch(workspace: Workspace, samples: Iterable[Sample]) -> dict[str, Path]:
    """Find the bytes of `samples` by md5: in DVC's cache, in data/ or in the memory, else in DVC's remote.

    What is damaged in the cache is replaced there by what one of the others has.

    Returns:
        md5 -> file.

    Raises:
        DataVersionError: some bytes are nowhere to be had; names them.
        StorageError: the disk is full or refuses to be written.
    """
    wanted = {sample.md5: sample for sample in samples}
    if bad := [md5 for md5 in wanted if not _MD5.fullmatch(md5)]:
        raise DataVersionError(f"{bad[0]!r} is no md5, so it names no image. The list that holds it is damaged.")
    with opened(workspace, "the images") as repo:
        cached = {md5: Path(repo.cache.local.oid_to_path(md5)) for md5 in wanted}
        found = {md5: path for md5 in wanted if (path := _whole(workspace, wanted[md5], cached[md5]))}
        if damaged := [md5 for md5, path in found.items() if path != cached[md5] and cached[md5].exists()]:
            with repo.lock:  # as for `_pull`
                for md5 in damaged:
                    memory.copy(found[md5], cached[md5])
        missing, remote = sorted(wanted.keys() - found.keys()), repo.config["core"].get("remote")
        if missing and remote:
            _pull(repo, missing, cached)
            memory.download(workspace, repo.cloud.get_remote(), [md5 for md5 in missing if not cached[md5].exists()])
            found |= {md5: path for md5 in missing if (path := _whole(workspace, wanted[md5], cached[md5]))}
    if lost := [wanted[md5] for md5 in sorted(wanted.keys() - found.keys())]:
        where = f"nor in DVC's remote {remote!r}" if remote else "and no default DVC remote is set"
        raise DataVersionError(
            f"{len(lost)} of {len(wanted)} images are neither in DVC's cache nor in {workspace.data_dir}, {where}: "
            f"{memory.named(lost)}. {cure(workspace, lost)}"
        )
    return found


def keep(workspace: Workspace, state_digest: str, samples: Sequence[Sample]) -> None:
    """Keep the images that a learner state needs where DVC's collector does not look, here and in DVC's remote.

    Raises:
        DataVersionError: some bytes are nowhere to be had, or DVC's remote takes none; they are kept here then.
        StorageError: the disk is full or refuses to be written.
    """
    memory.keep(workspace, state_digest, samples, fetch(workspace, samples))
    if default_remote(workspace) is not None:
        with opened(workspace, "a copy of the exemplars") as repo:
            memory.upload(workspace, repo.cloud.get_remote(), {sample.md5 for sample in samples})


def lost(workspace: Workspace, state_digest: str) -> list[Sample]:
    """The images that a learner state needs and that this workspace had, but are nowhere to be had any more.

    Imports no DVC while all are there.
    """
    lacking = memory.lacking(workspace, state_digest)
    if not lacking:
        return []
    with opened(workspace, "the images") as repo:
        places = {s.md5: Path(repo.cache.local.oid_to_path(s.md5)) for s in lacking}
        gone = [sample for sample in lacking if not _whole(workspace, sample, places[sample.md5])]
        if not gone or not repo.config["core"].get("remote"):
            return gone
        md5s = [sample.md5 for sample in gone]
        there = {*repo.cloud.get_remote_odb().oids_exist(md5s), *memory.are_remote(repo.cloud.get_remote(), md5s)}
        return [sample for sample in gone if sample.md5 not in there]


def cure(workspace: Workspace, gone: Sequence[Sample]) -> str:
    """What to do about bytes that are nowhere to be had; bytes that were replaced can't land again."""
    told = _HOW_TO_GET
    if any(not sample.task for sample in gone):
        told += " Where real photographs were added, 'dvc push' shares them."
    try:
        pinned = set(manifest(workspace).values())
    except DataVersionError:
        return told
    if any(sample.md5 in pinned for sample in gone):
        told += " Landing the same folder again also restores them."
    if replaced := sorted({sample.task for sample in gone if sample.task and sample.md5 not in pinned}):
        commands = " and ".join(f"'lorax relearn {task}'" for task in replaced)
        told += f" Or learn what needs them anew, from the data that is landed now: {commands}."
    return told


def _whole(workspace: Workspace, sample: Sample, cached: Path) -> Path | None:
    """Where this machine has the bytes as they were."""
    places = (cached, workspace.data_dir / sample.path, memory.path_of(workspace, sample.md5))
    return next((path for path in places if memory.is_whole(path, sample.md5)), None)


def cache_paths(workspace: Workspace, md5s: Iterable[str]) -> dict[str, Path]:
    """md5 -> where DVC's cache keeps, or would keep, the file."""
    with opened(workspace, "its cache") as repo:
        return {md5: Path(repo.cache.local.oid_to_path(md5)) for md5 in md5s}


def default_remote(workspace: Workspace) -> str | None:
    """The name of DVC's default remote, or None where none is set."""
    from dvc.config import Config

    with _dvc_errors(workspace, "its configuration"):
        name = Config(str(workspace.root / ".dvc"))["core"].get("remote")
    return str(name) if name else None


@lru_cache(maxsize=4)  # what a digest stands for never changes, and reading 20,000 lines takes DVC a second
def _manifest(root: Path, digest: str) -> Mapping[str, str]:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    wanted = HashInfo("md5", digest)
    with opened(Workspace(root), f"the list of files below data/ (md5 {digest})") as repo:
        try:
            tree = Tree.load(repo.cache.local, wanted)
        except (FileNotFoundError, ObjectFormatError):
            tree = Tree.load(repo.cloud.get_remote_odb(), wanted)
            repo.cache.local.add(tree.path, tree.fs, tree.oid)
        return {"/".join(key): str(info.value) for key, _, info in tree}


@lru_cache(maxsize=4)  # else each task of a stream would look through the files of all
def _files_by_task(root: Path, digest: str) -> Mapping[str, Mapping[str, str]]:
    found = defaultdict[str, dict[str, str]](dict)
    for path, md5 in _manifest(root, digest).items():
        task, _, below_it = path.partition("/")
        found[task][below_it] = md5
    return dict(found)


def _pull(repo: Any, md5s: Sequence[str], cached: Mapping[str, Path]) -> None:
    """Bring objects from DVC's default remote into its cache; the caller looks at what came.

    DVC takes what lies in its cache for whole: what is damaged makes room, and comes back where nothing better does.
    """
    from dvc_data.hashfile.hash_info import HashInfo

    aside = {cached[md5]: cached[md5].with_suffix(".damaged") for md5 in md5s if cached[md5].exists()}
    for path, other in aside.items():
        path.rename(other)
    try:
        with repo.lock:  # its drafts in the cache are then seen to be somebody's
            repo.cloud.pull([HashInfo("md5", md5) for md5 in md5s])
    finally:
        for path, other in aside.items():
            other.unlink() if path.exists() else other.rename(path)


@contextmanager
def opened(workspace: Workspace, what: str) -> Iterator[Any]:
    """DVC's repository; what DVC raises is turned, as `_dvc_errors` does it."""
    environment.complete()
    with _dvc_errors(workspace, what):
        from dvc.repo import Repo

        with Repo(str(workspace.root), _wait_for_lock=True) as repo:
            yield repo


@contextmanager
def _dvc_errors(workspace: Workspace, what: str) -> Iterator[None]:
    """Turn what DVC raises; it lets through whatever its storage libraries raise, so no list of kinds would do."""
    try:
        yield
    except LoraxError:
        raise
    except Exception as error:
        if _is_full_disk(error):
            raise StorageError(f"the disk is full: DVC could not store {what} in {workspace.root}.") from error
        raise DataVersionError(
            f"DVC can't give {what} in {workspace.root}; expected it in DVC's cache or its default remote "
            f"({type(error).__name__}: {' '.join(str(error).split())}). {_HOW_TO_GET}"
        ) from error


def _is_full_disk(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
