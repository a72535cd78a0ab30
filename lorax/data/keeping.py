"""What is pinned can be had: what a task's new files replace, and what a landing that is repeated finds missing."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorax.data import memory, pins, repository, versions
from lorax.data.commands import failure
from lorax.data.layout import list_files
from lorax.errors import DataVersionError
from lorax.storage import copy_bytes, storage_errors
from lorax.workspace import Workspace


def keep_old_bytes(workspace: Workspace, task: str) -> None:
    """See to it that what a task's new files replace can still be had by its md5: exemplars may be among it."""
    old = versions.below(versions.manifest(workspace, pins.on_disk(workspace)), task)
    if any(not path.exists() for path in versions.cache_paths(workspace, old.values()).values()):
        folder = workspace.data_dir / task
        found = {path: versions.md5_of(folder / path) for path in list_files(folder)} if folder.exists() else {}
        if found == old:
            store(workspace, {f"{task}/{path}": md5 for path, md5 in old.items()})
    if versions.default_remote(workspace) is not None:
        repository.push_data(workspace.root)  # later pushes bring only the new ones


def store(workspace: Workspace, files: Mapping[str, str]) -> None:
    """Bring files of data/ into DVC's cache and tell DVC which they are, so that `dvc add` reads and copies none.

    It would read each a second time, and make and remove a file to find out for each whether bytes can be shared.
    Where DVC's `cache.type` asks for hard links, file and cached one are the same, read-only, from the start.

    Args:
        workspace: where they lie.
        files: path relative to data/ -> md5.

    Raises:
        DataVersionError: DVC can't tell where its cache is.
        StorageError: the disk is full or refuses to be written.
    """
    from dvc_data.hashfile.hash_info import HashInfo

    with versions.opened(workspace, "the images") as repo, repo.lock:
        cache, fs, data = repo.cache.local, repo.fs, str(workspace.data_dir)
        with storage_errors(Path(cache.path)):
            for folder in {md5[:2] for md5 in files.values()}:
                cache.makedirs(f"{cache.path}/{folder}")
            # drafts of its own, as DVC's are: another workspace with this cache may bring the same image
            own, bring = secrets.token_hex(8), _link if cache.cache_types[:1] == ["hardlink"] else copy_bytes
            for number, (path, md5) in enumerate(files.items()):
                kept = cache.oid_to_path(md5)
                if not os.path.exists(kept):  # noqa: PTH110  # a Path for each takes as long as the question
                    draft = f"{cache.path}/{md5[:2]}/.{own}-{number}.tmp"
                    try:
                        bring(f"{data}/{path}", draft)
                        cache.protect(draft)
                        os.replace(draft, kept)  # noqa: PTH105
                    except BaseException:
                        Path(draft).unlink(missing_ok=True)
                        raise
        places = {f"{data}/{path}": HashInfo("md5", md5) for path, md5 in files.items()}
        repo.state.save_many(((place, digest, None) for place, digest in places.items()), fs)


def _link(source: str, target: str) -> None:
    """A second name for a file; a copy where the file system has none, as DVC does it."""
    try:
        os.link(source, target)  # a Path for each takes longer than linking
    except OSError:
        copy_bytes(source, target)


def add_to_dvc(workspace: Workspace, *paths: str) -> None:
    """What `dvc add PATH...` does, in this process: pin files in data.dvc; those that the cache lacks get there.

    Raises:
        DataVersionError: DVC refused.
        StorageError: the disk is full.
    """
    with versions.opened(workspace, "the images") as repo, _silent():
        try:
            repo.add([f"{repo.root_dir}/{path}" for path in paths])
        except Exception as error:  # DVC lets through whatever its storage libraries raise
            said = ": ".join(str(one) for one in (error, error.__cause__) if one)
            raise failure(f"dvc add {' '.join(paths)}", workspace.root, said) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Let DVC print neither what it does nor advice for who called it by hand, and leave our streams where they are."""
    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    before, streams = [logger.level for logger in loggers], (sys.stdout, sys.stderr)
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        sys.stdout, sys.stderr = streams  # DVC has colorama put its own there
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def mend_cache(workspace: Workspace, files: Mapping[str, str]) -> None:
    """Have DVC's cache hold files that lie in data/, whole.

    In a clone without DVC's cache and remote it is made anew once all that landed lies in data/ again.

    Args:
        workspace: whose cache.
        files: path relative to data/ -> md5.

    Raises:
        DataVersionError: DVC can't tell where its cache is.
        StorageError: the disk is full or refuses to be written.
    """
    if _has_manifest(workspace):
        for md5, path in versions.cache_paths(workspace, files.values()).items():
            if not memory.is_whole(path, md5):
                path.unlink(missing_ok=True)
        store(workspace, files)
        return
    found = {path: versions.md5_of(workspace.data_dir / path) for path in list_files(workspace.data_dir)}
    if all(versions.task_digest(versions.below(found, t.name)) == t.digest for t in pins.on_disk(workspace).stream):
        store(workspace, found)
        store_manifest(workspace, found)


def drop(workspace: Workspace, cached: Sequence[Path]) -> None:
    """Remove what an undone landing brought into DVC's cache, drafts too, but for what is committed.

    It waits for DVC's lock, under which all who write to the cache are, so the drafts that are there then are nobody's.

    Raises:
        DataVersionError: what is committed can't be read; nothing is removed.
    """
    if not cached:
        return
    pinned = {*versions.manifest(workspace).values(), pins.committed(workspace).digest}
    with versions.opened(workspace, "its cache") as repo, repo.lock:
        for path in cached:
            if path.parent.name + path.name not in pinned:
                path.unlink(missing_ok=True)
        for piece in {draft for folder in {path.parent for path in cached} for draft in folder.glob(".*.tmp")}:
            piece.unlink(missing_ok=True)


def complete_remote(workspace: Workspace, md5s: Iterable[str]) -> None:
    """See to it that DVC's default remote, where one is set, holds these files; it is asked for each of them.

    'dvc push' does not ask: what it pushed once it takes to be there for ever.

    Raises:
        DataVersionError: the remote can't be reached, or does not take them.
    """
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.transfer import transfer

    with versions.opened(workspace, "its remote") as repo:
        if repo.config["core"].get("remote"):
            wanted = [HashInfo("md5", md5) for md5 in md5s]
            failed = transfer(repo.cache.local, repo.cloud.get_remote_odb(), wanted).failed
            if failed:
                raise DataVersionError(f"DVC's remote did not take {len(failed)} of {len(wanted)} files.")


def store_manifest(workspace: Workspace, files: Mapping[str, str]) -> str:
    """Bring a list of files into DVC's cache.

    Args:
        workspace: whose cache.
        files: path relative to data/ -> md5.

    Returns:
        The list's digest, as data.dvc names it.
    """
    with versions.opened(workspace, "a list of files") as repo:
        tree = _list_of(files)
        repo.cache.local.add(tree.path, tree.fs, tree.oid)
        return str(tree.oid)


def list_paths(workspace: Workspace, lists: Iterable[Mapping[str, str]]) -> list[Path]:
    """Where DVC's cache keeps, or would keep, lists of files: path -> md5, each as for `store_manifest`."""
    return [*versions.cache_paths(workspace, [str(_list_of(files).oid) for files in lists]).values()]


def _list_of(files: Mapping[str, str]) -> Any:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    tree = Tree()
    for path, md5 in files.items():
        tree.add(tuple(path.split("/")), None, HashInfo("md5", md5))
    tree.digest()
    return tree


def _has_manifest(workspace: Workspace) -> bool:
    """Whether the list of files that the data.dvc on disk pins can be had."""
    try:
        versions.manifest(workspace, pins.on_disk(workspace))
    except DataVersionError:
        return False
    return True
