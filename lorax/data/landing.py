"""Landing: a new data set is checked, copied to data/, pinned by DVC and committed; all of it, or nothing.

Two landings run one after the other. See transaction.py for how a landing that fails leaves no trace.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from lorax.data import keeping, memory, pins, prints, repository, upstream, versions
from lorax.data.admission import DEFAULTS, LandingOptions, named, report_on
from lorax.data.contract import Report
from lorax.data.extending import check_relation
from lorax.data.images import Progress
from lorax.data.incoming import Incoming, checked_source, read_incoming
from lorax.data.pins import TaskNotes
from lorax.data.transaction import is_noted, roll_back, transaction
from lorax.errors import ContractError, DataVersionError, StorageError
from lorax.storage import locked
from lorax.stream import PinnedTask, check_new_name
from lorax.workspace import Workspace

OnReport = Callable[[Report], None]


def land(
    workspace: Workspace,
    source: Path,
    task: str,
    *,
    options: LandingOptions = DEFAULTS,
    commit: bool = True,
    on_report: OnReport = lambda report: None,
    progress: Progress | None = None,
) -> PinnedTask:
    """Land the data set in folder `source` as `task`; a second time, only restore what is missing from data/.

    Args:
        workspace: where to land.
        source: one task's folder in CDDB's layout; it is only read.
        task: the task's name, and its folder's below data/.
        options: how it is to land.
        commit: commit data.dvc, and push data and commit where a DVC remote and a git upstream are set.
        on_report: given the contract's report before anything changes; not called for what has landed already.
        progress: told what is being done.

    Raises:
        LayoutError: unsafe name, no folder, or one that landing must not read.
        ContractError: the data set does not fulfil the landing contract; names every finding.
        DataVersionError: DVC or git refused, or what is to be extended has not landed. After a failed push the task
            has landed nevertheless.
        StorageError: the disk is full or refuses to be written.
    """
    check_new_name(task)
    folder = checked_source(workspace, source)
    with _storage_errors(workspace), one_at_a_time(workspace, progress):
        roll_back(workspace)  # what a killed landing left
        if commit:
            _check_committed(workspace)
        incoming = read_incoming(folder, task, options.split, progress)
        if commit:
            _catch_up(workspace)
        before = pins.on_disk(workspace)
        notes, incoming = options.notes(before, task), named(incoming, before, options)
        stream = {entry.name: entry for entry in before.stream}
        landed = PinnedTask(incoming.task, incoming.digest)
        if not incoming.complaints and stream.get(landed.name) == landed:
            check_relation(before, landed, options.new_version_of and notes.new_version_of)
            _restore(workspace, incoming, commit)
            if commit:
                _share(workspace)
        else:
            report = report_on(workspace, incoming, options, progress=progress)
            on_report(report)
            if report.refused:
                raise ContractError(report.text)
            if landed.name in stream:
                keeping.keep_old_bytes(workspace, landed.name)
            stream[landed.name] = landed  # a task that lands again keeps its place
            share = partial(_share, workspace, partial(_check_again, workspace, incoming, options, on_report))
            _bring(workspace, incoming, tuple(stream.values()), {landed: notes}, share if commit else None, progress)
            prints.keep(workspace, landed, prints.prints_of(incoming.files.values()))
            prints.prune(workspace, stream.values())
    return landed


def undo_killed(workspace: Workspace) -> None:
    """Undo what a killed landing left, which else would stay until the next one; not while a landing is at work.

    Raises:
        StorageError: the disk refuses to be written.
    """
    if not is_noted(workspace):
        return
    path = workspace.work_dir / "landing.lock"
    with _storage_errors(workspace), suppress(BlockingIOError), locked(path, _leave_it):
        roll_back(workspace)


def _leave_it() -> None:
    raise BlockingIOError


def _bring(
    workspace: Workspace,
    incoming: Incoming,
    stream: Sequence[PinnedTask],
    notes: Mapping[PinnedTask, TaskNotes],
    share: Callable[[], None] | None,
    progress: Progress | None,
) -> None:
    """Copy and pin a data set that fulfils the contract, so that data.dvc's stream becomes `stream`; commit and share.

    `share` is called after the commit; without it, nothing is committed.
    """
    name, before = incoming.task, pins.on_disk(workspace)
    others = {p: md5 for p, md5 in versions.manifest(workspace, before).items() if p.partition("/")[0] != name}
    cached = versions.cache_paths(workspace, incoming.md5s.values())
    new = [path for path in cached.values() if not path.exists()]
    landed = next(task for task in stream if task.name == name)
    ignore_path = workspace.root / ".gitignore"
    ignored = _bytes_of(ignore_path)
    with _draft(workspace) as draft:
        _copy(incoming.sources, draft, progress)
        with transaction(workspace, landed, new):
            workspace.data_dir.mkdir(exist_ok=True)
            shutil.move(draft, workspace.data_dir / name)
            if progress is not None:
                progress(0, len(incoming.files), "adding to DVC")
            repository.add_to_dvc(workspace.root, f"data/{name}" if before.stream else "data")
            _check_pins(workspace, others | {f"{name}/{path}": md5 for path, md5 in incoming.md5s.items()})
            _check_cache(cached.values())
            pins.write_stream(workspace, stream, notes)
            if share is not None:
                by_dvc = [".gitignore"] if _bytes_of(ignore_path) != ignored else []
                again = " again" if len(stream) == len(before.stream) else ""
                head = repository.head(workspace.root)
                _commit(workspace, ["data.dvc", *by_dvc], f"Land {name}{again}: {incoming.size}")
                with upstream.taken_back(workspace.root, head, ContractError):
                    share()


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _restore(workspace: Workspace, incoming: Incoming, commit: bool) -> None:
    """The same bytes under the same name: restore what data/, DVC's cache and its remote lack or hold damaged."""
    target, md5s = workspace.data_dir / incoming.task, incoming.md5s
    missing = {
        path: source for path, source in incoming.sources.items() if not memory.is_whole(target / path, md5s[path])
    }
    with _draft(workspace) as draft:
        _copy(missing, draft, None)
        for path in missing:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(draft / path, target / path)
    keeping.mend_cache(workspace, incoming.task, md5s.values())
    if commit:
        _commit(workspace, ["data.dvc"], f"Land {incoming.task}: {incoming.size}")
        keeping.complete_remote(workspace, md5s.values())


def _check_committed(workspace: Workspace) -> None:
    """A clone, and so a worker, has only what is committed; without params.yaml it is no workspace."""
    repository.check_git(workspace.root)
    name = workspace.params_path.name
    if not repository.is_tracked(workspace.root, name):
        raise DataVersionError(
            f"{workspace.params_path} is in no commit, so no clone could learn what lands here. "
            f"'lorax init {workspace.root}' commits it."
        )


def _commit(workspace: Workspace, paths: Sequence[str], message: str) -> None:
    changed = [path for path in paths if not repository.is_committed(workspace.root, path)]
    if changed:
        repository.commit(workspace.root, changed, message)


def _copy(sources: Mapping[str, Path], target: Path, progress: Progress | None) -> None:
    for folder in {(target / path).parent for path in sources}:
        folder.mkdir(parents=True, exist_ok=True)
    for done, (path, source) in enumerate(sources.items(), 1):
        shutil.copyfile(source, target / path)
        if progress is not None:
            progress(done, len(sources), "copying")


def _check_pins(workspace: Workspace, expected: Mapping[str, str]) -> None:
    """DVC can replace a whole data set silently; and the source may have changed while it was read."""
    found = versions.manifest(workspace, pins.on_disk(workspace))
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


def _catch_up(workspace: Workspace) -> None:
    """Land on top of what the upstream has; where it can't be reached, on what is here."""
    if upstream.find(workspace.root) is None:
        return
    with suppress(DataVersionError):  # the push will tell
        upstream.fetch(workspace)
    upstream.join(workspace)


def _check_again(workspace: Workspace, incoming: Incoming, options: LandingOptions, on_report: OnReport) -> None:
    """Others have landed meanwhile: what does not fit beside that does not land after all."""
    report = report_on(workspace, incoming, options, pins.committed(workspace, "@{upstream}"))
    if report.refused:
        on_report(report)
        raise ContractError(report.text)


def _share(workspace: Workspace, on_moved: Callable[[], None] = lambda: None) -> None:
    try:
        upstream.publish(workspace, on_moved)
    except (DataVersionError, StorageError) as error:
        raise DataVersionError(
            "the task has landed and is committed, but was not pushed; mend that, then land the same folder again: "
            f"{error}"
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
def one_at_a_time(workspace: Workspace, progress: Progress | None = None) -> Iterator[None]:
    """Hold the lock on data.dvc and its commits; the kernel lets it go when the process ends, however it ends.

    DVC inherits it: killed alone, a landing leaves a DVC at work, which would pin what is put back meanwhile.
    """
    shown = progress or (lambda *_: None)
    path = workspace.work_dir / "landing.lock"
    with locked(path, lambda: shown(0, 1, "waiting for another landing"), is_inherited=True):
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
