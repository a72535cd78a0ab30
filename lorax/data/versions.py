"""Data revisions: what has landed, which files it holds, and where their bytes are; the one room that imports DVC.

What has landed, in which order, is one small file in git: data.dvc. Its `outs:` entry is DVC's (the md5 of the list of
all files below data/), and its `meta:` block, which DVC keeps, is ours:

    meta:
      stream:
      - task: gaugan
        digest: <sha256 of the task's (path, md5) pairs>
        accepted_leak: <why a format leak was accepted, where it was>

Reads go through DVC's Python API; writes run its command line (see repository.py), which takes DVC's locks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from lorax.data.layout import parse_task
from lorax.data.repository import create_repository as create_repository  # for readers of this room's interface
from lorax.data.repository import last_commit
from lorax.errors import DataVersionError, LoraxError, StorageError
from lorax.storage import write_whole
from lorax.stream import Sample, Task
from lorax.workspace import Workspace

_MD5 = re.compile(r"[0-9a-f]{32}")
_DIRECTORY_MD5 = re.compile(r"[0-9a-f]{32}\.dir")
_NO_LINE_BREAKS = 2**20
_HOW_TO_GET = (
    "Name the place that has it with 'dvc remote add -d NAME URL' and try again, "
    "or copy .dvc/cache from the machine where it landed."
)


@dataclass(frozen=True)
class DataRevision:
    """A state of data/: `digest` as data.dvc has it ('' if nothing landed), `commit` the last that touched data.dvc."""

    digest: str
    commit: str | None


@dataclass(frozen=True)
class LandedTask:
    """A task of the stream, as data.dvc names it; `accepted_leak` says why its format leak was accepted, if it was."""

    name: str
    digest: str
    accepted_leak: str = field(default="", compare=False)


def task_digest(files: Mapping[str, str]) -> str:
    """sha256 over the sorted (path, md5) pairs of a task's files, paths relative to data/<task>."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def landed(workspace: Workspace) -> tuple[LandedTask, ...]:
    """The stream as data.dvc has it, in landing order; () if nothing landed. Imports no DVC.

    Raises:
        DataVersionError: data.dvc is damaged, or was not written by a landing.
    """
    pins = _read_data_dvc(workspace)
    if not pins:
        return ()
    try:
        return tuple(
            LandedTask(str(entry["task"]), str(entry["digest"]), str(entry.get("accepted_leak", "")))
            for entry in pins["meta"]["stream"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataVersionError(
            f"{workspace.data_dvc_path} names no stream of tasks (expected meta: stream: with task and digest each), "
            "so it was not written by 'lorax land'. Restore it from git, or move data/ and data.dvc away and land each "
            "task's folder."
        ) from error


def revision(workspace: Workspace) -> DataRevision:
    """Which data the workspace is at. Imports no DVC.

    Raises:
        DataVersionError: data.dvc is damaged.
    """
    return DataRevision(_manifest_digest(workspace), last_commit(workspace.root, "data.dvc"))


def manifest(workspace: Workspace) -> Mapping[str, str]:
    """All files that the workspace's data.dvc pins: path relative to data/ -> md5.

    Raises:
        DataVersionError: the list is neither in DVC's cache nor in its remote, or data.dvc is damaged.
    """
    digest = _manifest_digest(workspace)
    return _manifest(workspace.root, digest) if digest else {}


def has_manifest(workspace: Workspace) -> bool:
    """Whether the list of files that data.dvc pins can be had."""
    try:
        manifest(workspace)
    except DataVersionError:
        return False
    return True


def below(files: Mapping[str, str], task: str) -> dict[str, str]:
    """Those of `files` (paths relative to data/) that are the task's, paths relative to data/<task>."""
    prefix = f"{task}/"
    return {path.removeprefix(prefix): md5 for path, md5 in files.items() if path.startswith(prefix)}


def read_task(workspace: Workspace, name: str) -> Task:
    """The samples of a landed task; no image is read, and data/ need not be there.

    Raises:
        DataVersionError: the task has not landed, its list of files can't be had, or is not what the stream names.
    """
    digests = {entry.name: entry.digest for entry in landed(workspace)}
    if name not in digests:
        names = ", ".join(digests) or "none"
        raise DataVersionError(f"task {name!r} has not landed in {workspace.root}; landed are: {names}.")
    files = below(manifest(workspace), name)
    found = task_digest(files)
    if found != digests[name]:
        raise DataVersionError(
            f"{workspace.data_dvc_path} contradicts itself: its stream names task {name!r} with digest "
            f"{digests[name]}, but its files have {found}. Only 'lorax land' may change data/; restore data.dvc from "
            "git."
        )
    return parse_task(name, found, files)


def fetch(workspace: Workspace, samples: Iterable[Sample]) -> dict[str, Path]:
    """Find the bytes of `samples` by md5: in DVC's cache, else in data/, else pulled from DVC's remote in one go.

    Returns:
        md5 -> file.

    Raises:
        DataVersionError: some bytes are nowhere to be had; names them.
    """
    from dvc.repo import Repo

    wanted = {sample.md5: sample for sample in samples}
    if bad := [md5 for md5 in wanted if not _MD5.fullmatch(md5)]:
        raise DataVersionError(f"{bad[0]!r} is no md5, so it names no image. The list that holds it is damaged.")
    with _dvc_errors(workspace, "the images"), Repo(str(workspace.root)) as repo:
        cached = {md5: Path(repo.cache.local.oid_to_path(md5)) for md5 in wanted}
        found = {md5: path for md5, path in cached.items() if path.is_file()}
        for md5 in wanted.keys() - found.keys():
            path = workspace.data_dir / wanted[md5].path
            if path.is_file() and md5_of(path) == md5:
                found[md5] = path
        missing = wanted.keys() - found.keys()
        remote = repo.config["core"].get("remote")
        if missing and remote:
            _pull(repo, sorted(missing))
            found |= {md5: cached[md5] for md5 in missing if cached[md5].is_file()}
    lost = sorted(wanted[md5].path for md5 in wanted.keys() - found.keys())
    if lost:
        shown = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        where = f"nor in DVC's remote {remote!r}" if remote else "and no default DVC remote is set"
        raise DataVersionError(
            f"{len(lost)} of {len(wanted)} images are neither in DVC's cache nor in {workspace.data_dir}, {where}: "
            f"{shown}. {_HOW_TO_GET} Landing the same folder again also restores them."
        )
    return found


def cache_paths(workspace: Workspace, md5s: Iterable[str]) -> dict[str, Path]:
    """md5 -> where DVC's cache keeps, or would keep, the file."""
    from dvc.repo import Repo

    with _dvc_errors(workspace, "its cache"), Repo(str(workspace.root)) as repo:
        return {md5: Path(repo.cache.local.oid_to_path(md5)) for md5 in md5s}


def write_stream(workspace: Workspace, stream: Sequence[LandedTask]) -> None:
    """Write the stream into data.dvc's `meta:` block, whole or not at all."""
    pins = _read_data_dvc(workspace)
    meta = pins.get("meta") or {}
    meta["stream"] = [_entry(task) for task in stream]
    pins["meta"] = meta
    write_whole(
        workspace.data_dvc_path, yaml.safe_dump(pins, sort_keys=False, allow_unicode=True, width=_NO_LINE_BREAKS)
    )


def _entry(task: LandedTask) -> dict[str, str]:
    entry = {"task": task.name, "digest": task.digest}
    return entry | {"accepted_leak": task.accepted_leak} if task.accepted_leak else entry


def default_remote(workspace: Workspace) -> str | None:
    """The name of DVC's default remote, or None where none is set."""
    from dvc.config import Config

    with _dvc_errors(workspace, "its configuration"):
        name = Config(str(workspace.root / ".dvc"))["core"].get("remote")
    return str(name) if name else None


def md5_of(path: Path) -> str:
    """The md5 of a file's bytes, which is DVC's name for them."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@lru_cache(maxsize=4)  # what a digest stands for never changes, and reading 20,000 lines takes DVC a second
def _manifest(root: Path, digest: str) -> Mapping[str, str]:
    from dvc.api import DVCFileSystem
    from dvc.repo import Repo

    workspace = Workspace(root)
    with _dvc_errors(workspace, f"the list of files below data/ (md5 {digest})"), Repo(str(root)) as repo:
        # '/' is the repository's root; a relative path would be looked for below the current folder
        found = DVCFileSystem(repo).find("/data", detail=True, dvc_only=True)
        return {path.removeprefix("/data/"): str(entry["md5"]) for path, entry in sorted(found.items())}


def _pull(repo: Any, md5s: Sequence[str]) -> None:
    """Bring objects from DVC's default remote into its cache; the caller looks at what came."""
    from dvc_data.hashfile.hash_info import HashInfo

    repo.cloud.pull([HashInfo("md5", md5) for md5 in md5s])


@contextmanager
def _dvc_errors(workspace: Workspace, what: str) -> Iterator[None]:
    """Turn what DVC raises; it lets through whatever its storage libraries raise, so no list of kinds would do."""
    try:
        yield
    except LoraxError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageError(f"the disk is full: DVC could not store {what} in {workspace.root}.") from error
        raise _unavailable(workspace, what, error) from error
    except Exception as error:
        raise _unavailable(workspace, what, error) from error


def _unavailable(workspace: Workspace, what: str, error: Exception) -> DataVersionError:
    return DataVersionError(
        f"DVC can't give {what} in {workspace.root}; expected it in DVC's cache or its default remote "
        f"({type(error).__name__}: {error}). {_HOW_TO_GET}"
    )


def _manifest_digest(workspace: Workspace) -> str:
    pins = _read_data_dvc(workspace)
    return str(pins["outs"][0]["md5"]) if pins else ""


def _read_data_dvc(workspace: Workspace) -> dict[str, Any]:
    """data.dvc as it is; {} if there is none."""
    path = workspace.data_dvc_path
    try:
        pins = yaml.safe_load(path.read_text())
        [output] = pins["outs"]
        if output["path"] != "data" or not _DIRECTORY_MD5.fullmatch(output["md5"]):
            raise ValueError("its only output should be data, with the md5 of a directory")
        return dict(pins)
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise DataVersionError(
            f"{path} can't be read as DVC's file that pins data/ ({type(error).__name__}: {error}). "
            "Restore it with 'git checkout -- data.dvc'; after a merge, resolve its conflict first."
        ) from error
