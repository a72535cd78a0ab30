"""Landing: a new data set is checked, copied to data/, pinned by DVC and committed; all of it, or nothing.

Two landings run one after the other. See undo.py for how a landing that fails leaves no trace.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorax.data import repository, versions
from lorax.data.images import Progress, check_images, in_threads
from lorax.data.layout import list_files, parse_task, split_by_content
from lorax.data.undo import all_or_nothing, put_back
from lorax.data.versions import LandedTask
from lorax.errors import DataVersionError, LayoutError, StorageError
from lorax.storage import write_whole
from lorax.stream import Task, check_task_name
from lorax.workspace import Workspace


def land(
    workspace: Workspace,
    source: Path,
    task: str,
    *,
    split: float | None = None,
    commit: bool = True,
    progress: Progress | None = None,
) -> LandedTask:
    """Land the data set in folder `source` as `task`; a second time, only restore what is missing from data/.

    Args:
        workspace: where to land.
        source: one task's folder in CDDB's layout; it is only read.
        task: the task's name, and its folder's below data/.
        split: for data without val/: the share of images, by content, that goes to train/.
        commit: commit data.dvc, and push data and commit where a DVC remote and a git upstream are set.
        progress: told what is being done.

    Raises:
        LayoutError: unsafe name or link, not CDDB's layout, or the name is taken by other bytes.
        ImageError: names every image of the task that can't be decoded.
        DataVersionError: DVC or git refused. After a failed push the task has landed nevertheless.
        StorageError: the disk is full or refuses to be written.
    """
    check_task_name(task)
    folder = _checked_source(workspace, source)
    with _storage_errors(workspace), _one_at_a_time(workspace, progress):
        put_back(workspace)  # what a killed landing left
        incoming = _read_incoming(folder, task, split, progress)
        known = {entry.name: entry for entry in versions.landed(workspace)}
        if task in known:
            _land_again(workspace, incoming, known[task], commit)
        else:
            if commit:
                repository.check_git(workspace.root)
            _check_room(workspace, task)
            sources = sorted(path for path, _ in incoming.files.values())
            check_images({path.relative_to(folder).as_posix(): path for path in sources}, progress)
            _land_new(workspace, incoming, commit, progress)
        if commit:
            _push(workspace)
    return LandedTask(task, incoming.task.digest)


@dataclass(frozen=True)
class _Incoming:
    """A data set that wants to land: its samples, and for each path below data/<task> the source file and its md5."""

    task: Task
    files: Mapping[str, tuple[Path, str]]

    @property
    def md5s(self) -> dict[str, str]:
        return {path: md5 for path, (_, md5) in self.files.items()}

    @property
    def message(self) -> str:
        return f"Land {self.task.name}: {len(self.task.train)} train and {len(self.task.test)} val images"


def _checked_source(workspace: Workspace, source: Path) -> Path:
    if not source.is_dir():
        raise LayoutError(f"{source} is not a folder; expected one task's folder, holding train/ and val/.")
    folder, data = source.resolve(), workspace.data_dir.resolve()
    if folder.is_relative_to(data) or data.is_relative_to(folder):
        raise LayoutError(
            f"{source} overlaps with the workspace's own {data}; only landing writes there. "
            "Land from a folder outside the workspace's data/."
        )
    return folder


def _read_incoming(folder: Path, task: str, split: float | None, progress: Progress | None) -> _Incoming:
    """List and hash the data set; the layout is checked before the images are."""
    paths = list_files(folder)
    if split is None:
        parse_task(task, "", dict.fromkeys(paths, ""))  # before hashing, which takes a while
    digests = in_threads(lambda path: versions.md5_of(folder / path), paths, progress, "hashing")
    md5s = dict(zip(paths, digests, strict=True))
    places = split_by_content(md5s, split) if split is not None else {path: path for path in paths}
    files = {places[path]: (folder / path, md5s[path]) for path in paths}
    placed = {path: md5 for path, (_, md5) in files.items()}
    return _Incoming(parse_task(task, versions.task_digest(placed), placed), files)


def _check_room(workspace: Workspace, task: str) -> None:
    """Refuse to land over files that no landing brought."""
    if workspace.data_dvc_path.exists():
        strangers = [workspace.data_dir / task] if (workspace.data_dir / task).exists() else []
    else:  # the first landing pins all that lies below data/
        strangers = sorted(workspace.data_dir.iterdir()) if workspace.data_dir.exists() else []
    if strangers:
        names = ", ".join(path.name for path in strangers)
        raise LayoutError(
            f"{workspace.data_dir} holds {names}, which data.dvc does not know; only landing writes there. "
            "Move it away and land again."
        )


def _land_new(workspace: Workspace, incoming: _Incoming, commit: bool, progress: Progress | None) -> None:
    name = incoming.task.name
    before, stream = versions.manifest(workspace), versions.landed(workspace)
    cached = versions.cache_paths(workspace, incoming.md5s.values())
    new = [path for path in cached.values() if not path.exists()]
    ignore_path = workspace.root / ".gitignore"
    ignored = _bytes_of(ignore_path)
    with _draft(workspace) as draft, all_or_nothing(workspace, name, new):
        _copy(incoming.files, draft, progress)
        workspace.data_dir.mkdir(exist_ok=True)
        shutil.move(draft, workspace.data_dir / name)
        if progress is not None:
            progress(0, len(incoming.files), "adding to DVC")
        repository.add_to_dvc(workspace.root, f"data/{name}" if stream else "data")
        _check_pins(workspace, dict(before) | {f"{name}/{path}": md5 for path, md5 in incoming.md5s.items()})
        _check_cache(cached.values())
        versions.write_stream(workspace, [*stream, LandedTask(name, incoming.task.digest)])
        if commit:
            by_dvc = [".gitignore"] if _bytes_of(ignore_path) != ignored else []
            _commit(workspace, ["data.dvc", *by_dvc], incoming.message)


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _land_again(workspace: Workspace, incoming: _Incoming, known: LandedTask, commit: bool) -> None:
    """The same bytes under the same name: restore what is missing from data/, commit what a killed landing did not."""
    if incoming.task.digest != known.digest:
        raise LayoutError(
            f"task {known.name!r} has landed already, with other files (digest {known.digest[:12]}, these have "
            f"{incoming.task.digest[:12]}). Choose another --task name; a landed task can't be replaced yet."
        )
    target = workspace.data_dir / known.name
    missing = {path: entry for path, entry in incoming.files.items() if not (target / path).exists()}
    with _draft(workspace) as draft:
        _copy(missing, draft, None)
        for path in missing:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(draft / path, target / path)
    _refill_cache(workspace)
    if commit:
        _commit(workspace, ["data.dvc"], incoming.message)


def _commit(workspace: Workspace, paths: Sequence[str], message: str) -> None:
    changed = [path for path in paths if not repository.is_committed(workspace.root, path)]
    if changed:
        repository.commit(workspace.root, changed, message)


def _refill_cache(workspace: Workspace) -> None:
    """In a clone without DVC's cache and remote, make the cache anew once all that landed lies in data/ again."""
    if versions.has_manifest(workspace):
        return
    found = {path: versions.md5_of(workspace.data_dir / path) for path in list_files(workspace.data_dir)}
    if all(versions.task_digest(versions.below(found, t.name)) == t.digest for t in versions.landed(workspace)):
        before = workspace.data_dvc_path.read_text()
        try:
            repository.add_to_dvc(workspace.root, "data")
        finally:
            write_whole(workspace.data_dvc_path, before)


def _copy(files: Mapping[str, tuple[Path, str]], target: Path, progress: Progress | None) -> None:
    for done, (path, (source, _)) in enumerate(files.items(), 1):
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        if progress is not None:
            progress(done, len(files), "copying")


def _check_pins(workspace: Workspace, expected: Mapping[str, str]) -> None:
    """DVC can replace a whole data set silently; and the source may have changed while it was read."""
    found = versions.manifest(workspace)
    differing = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    if differing:
        raise DataVersionError(
            f"after 'dvc add', data.dvc does not pin what it should: {len(differing)} files are missing, new or other "
            f"than expected, such as {differing[0]}. Everything was put back. Does .dvcignore hide images, or did the "
            "source change meanwhile?"
        )


def _check_cache(cached: Iterable[Path]) -> None:
    """DVC can pin files that it could not store."""
    lost = [path for path in cached if not path.is_file()]
    if lost:
        raise DataVersionError(f"after 'dvc add', {len(lost)} files are not in DVC's cache, such as {lost[0]}.")


def _push(workspace: Workspace) -> None:
    """Data first: a commit that others can see must not name bytes that they can't have."""
    try:
        if versions.default_remote(workspace) is not None:
            repository.push_data(workspace.root)
        repository.push_commits(workspace.root)
    except (DataVersionError, StorageError) as error:
        raise DataVersionError(
            f"the task has landed and is committed, but was not pushed: {error} "
            "Mend that, then run 'dvc push' and 'git push', or land the same folder again."
        ) from error


@contextmanager
def _draft(workspace: Workspace) -> Iterator[Path]:
    draft = workspace.work_dir / "landing" / "draft"
    shutil.rmtree(draft, ignore_errors=True)  # a killed landing's
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _one_at_a_time(workspace: Workspace, progress: Progress | None) -> Iterator[None]:
    """Hold the workspace's landing lock; the kernel lets it go when the process ends, however it ends."""
    workspace.work_dir.mkdir(exist_ok=True)
    with (workspace.work_dir / "landing.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress is not None:
                progress(0, 1, "waiting for another landing")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _storage_errors(workspace: Workspace) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        what = "the disk is full" if full else f"{error.filename or workspace.root}: {error.strerror or error}"
        raise StorageError(
            f"landing into {workspace.root} failed and changed nothing: {what}. "
            f"{'Make room' if full else 'Mend that'} and land again."
        ) from error
