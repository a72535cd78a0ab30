"""Images of a withdrawn task are removed wherever this workspace keeps bytes, and looked for there afterwards."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorax.data import layout, memory, pins, prints, upstream, versions
from lorax.data.commands import git
from lorax.data.pins import Pins
from lorax.errors import DataVersionError
from lorax.workspace import Workspace

_EVERYWHERE = ("--all", "--reflog", "--full-history")
"""Also what was landed and withdrawn beside another's landing, which git else leaves out where the two were joined."""

_MD5 = re.compile(rb"\b[0-9a-f]{32}\b")


@dataclass(frozen=True)
class Images:
    """The images that ever landed as a task: `gone` are to be removed, `shared` are needed by what stays.

    `unknown` are commits that landed the task and whose list of files is nowhere to be had. `branches` names the tasks
    whose branches learned them: the task's own, or that of the task which it extends.
    """

    gone: frozenset[str]
    shared: frozenset[str]
    unknown: tuple[str, ...]
    branches: frozenset[str]


@dataclass(frozen=True)
class Place:
    """Somewhere that was looked at, and what was found there: digests of images, or versions by name."""

    name: str
    found: tuple[str, ...]


def images_of(workspace: Workspace, task: str, kept_states: Collection[str], reals: str | None) -> Images:
    """Which images a task brought, in all of git's history here.

    Args:
        workspace: where.
        task: withdrawn.
        kept_states: digests of the learner states that stay: what their memory holds is needed.
        reals: the folder of real photographs that params.yaml names, or None.

    Raises:
        DataVersionError: the task is landed; or what stays can't be read, so that nothing may be removed.
    """
    staying = check_withdrawn(workspace, task)
    ever: set[str] = set()
    unknown, branches = [], set()
    for commit, found in _history(workspace):
        if task in {one.name for one in found.stream}:
            branches.add(found.notes_of(task).extends or task)
            try:
                ever |= set(versions.below(versions.manifest(workspace, found), task).values())
            except DataVersionError:
                unknown.append(commit)
    needed = _remembered(workspace, kept_states).union(*(versions.manifest(workspace, one).values() for one in staying))
    if reals:
        needed |= set(versions.manifest(workspace, pins.committed(workspace, folder=reals)).values())
    return Images(frozenset(ever - needed), frozenset(ever & needed), tuple(unknown), frozenset(branches))


def check_withdrawn(workspace: Workspace, task: str) -> list[Pins]:
    """See that a task has landed once, and is not landed any more; asks git alone, and the upstream.

    Returns:
        What is landed here, and what others have landed meanwhile.

    Raises:
        DataVersionError: it never has, or is landed; or the upstream can't be asked.
    """
    staying = _staying(workspace, task)
    landed = {one.name for found in staying for one in found.stream}
    ever = {one.name for _, found in _history(workspace) for one in found.stream}
    if task not in ever:
        names = ", ".join(sorted(ever - landed)) or "none"
        raise DataVersionError(
            f"task {task!r} has never landed in {workspace.root}, by git's history. Withdrawn, and so to be forgotten, "
            f"are: {names}."
        )
    return staying


def _history(workspace: Workspace) -> Iterator[tuple[str, Pins]]:
    """Every commit that changed data.dvc, and what it pins."""
    for commit in git(workspace.root, "log", *_EVERYWHERE, "--format=%H", "--", pins.NAME).split():
        yield commit, pins.committed(workspace, commit)


def remove(workspace: Workspace, md5s: Collection[str]) -> None:
    """Remove images from the memory and DVC's cache, here and in DVC's default remote, and what they look like.

    Raises:
        DataVersionError: DVC's remote can't be reached; the same call goes on.
    """
    prints.prune(workspace, pins.committed(workspace).stream)
    with versions.opened(workspace, "what is to be removed") as repo, repo.lock:
        for md5 in md5s:
            memory.path_of(workspace, md5).unlink(missing_ok=True)
            for path in _cached(repo, md5):
                path.unlink(missing_ok=True)
        if repo.config["core"].get("remote"):
            _remove_remote(repo, md5s)


def forget_states(workspace: Workspace, kept_states: Collection[str]) -> None:
    """Remove the lists of images of learner states that are no more."""
    for path in workspace.memory_dir.glob("*.csv"):
        if path.stem not in kept_states:
            path.unlink(missing_ok=True)


def look_for(workspace: Workspace, md5s: Collection[str]) -> list[Place]:
    """Where images still are; a place with nothing found is named, too.

    In data/ what is pinned is known by its digest, and every other file's is computed; below work/ every list that is
    text is read, such as those of exemplars.
    """
    wanted = frozenset(md5s)
    places = [
        Place("data/", _in_data(workspace, wanted)),
        Place("work/memory/", tuple(sorted(m for m in wanted if memory.path_of(workspace, m).exists()))),
        Place("work/prints/", tuple(sorted(wanted & prints.kept(workspace)))),
        Place("lists below work/", _listed(workspace.work_dir, wanted)),
    ]
    with versions.opened(workspace, "what is looked for") as repo:
        cached = {md5 for md5 in wanted if any(path.exists() for path in _cached(repo, md5))}
        places.append(Place("DVC's cache", tuple(sorted(cached))))
        if repo.config["core"].get("remote"):
            there = {*repo.cloud.get_remote_odb().oids_exist(list(wanted))}
            there |= memory.are_remote(repo.cloud.get_remote(), wanted)
            places.append(Place("DVC's remote", tuple(sorted(there & wanted))))
    return places


def _staying(workspace: Workspace, task: str) -> list[Pins]:
    """What is landed here, and what others have landed meanwhile, whose images lie in the same DVC remote."""
    found = [pins.committed(workspace)]
    if upstream.find(workspace.root) is not None:
        try:
            upstream.fetch(workspace)
        except DataVersionError as error:
            raise DataVersionError(
                f"what others have landed can't be asked for, and may need the same images: {error} Nothing was "
                "removed; mend that, and run the same command again."
            ) from error
        found.append(pins.committed(workspace, "@{upstream}"))
    for one in found:
        if task in {landed.name for landed in one.stream}:
            where = "" if one is found[0] else " in the upstream"
            raise DataVersionError(
                f"task {task!r} is landed{where}. Withdraw it first: 'lorax withdraw {task} --reason TEXT'."
            )
    return found


def _remembered(workspace: Workspace, states: Collection[str]) -> set[str]:
    found: set[str] = set()
    for state in states:
        path = workspace.memory_dir / f"{state}.csv"
        if path.exists():
            with path.open(newline="") as file:
                found |= {row["md5"] for row in csv.DictReader(file)}
    return found


def _cached(repo: Any, md5: str) -> list[Path]:
    """Where DVC's cache keeps a file, and where it did before DVC 3."""
    return [Path(cache.oid_to_path(md5)) for cache in (repo.cache.local, repo.cache.legacy)]


def _remove_remote(repo: Any, md5s: Collection[str]) -> None:
    from dvc_data.hashfile.db import get_index

    odb, remote = repo.cloud.get_remote_odb(), repo.cloud.get_remote()
    there = list(odb.oids_exist(list(md5s)))
    for path in [odb.oid_to_path(md5) for md5 in there] + memory.remote_paths(remote, md5s):
        if remote.fs.exists(path):
            remote.fs.remove(path)
    get_index(odb).clear()  # else DVC takes for granted that they are there, and would not push them again


def _in_data(workspace: Workspace, wanted: frozenset[str]) -> tuple[str, ...]:
    pinned = versions.manifest(workspace)
    found = {md5 for md5 in pinned.values() if md5 in wanted}
    files: Iterable[str] = layout.list_files(workspace.data_dir) if workspace.data_dir.exists() else ()
    found |= {versions.md5_of(workspace.data_dir / path) for path in files if path not in pinned} & wanted
    return tuple(sorted(found))


def _listed(folder: Path, wanted: frozenset[str]) -> tuple[str, ...]:
    found: set[str] = set()
    for path in (*folder.rglob("*.csv"), *folder.rglob("*.json")):
        if path.is_file():
            found |= {match.decode() for match in _MD5.findall(path.read_bytes())} & wanted
    return tuple(sorted(found))
