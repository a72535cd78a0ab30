"""Landing: a new data set is checked, copied to data/, pinned by DVC and committed; all of it, or nothing.

Two landings run one after the other. See transaction.py for how a landing that fails leaves no trace.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from lorax.data import keeping, memory, pins, prints, repository, upstream, versions
from lorax.data.admission import DEFAULTS, LandingOptions, images_apart, landing_errors, named, reports_on
from lorax.data.contract import OnReport
from lorax.data.extending import check_relation
from lorax.data.images import Progress
from lorax.data.incoming import Incoming, checked_source, read_incoming, size
from lorax.data.layouts.arrangement import Plan
from lorax.data.pins import Pins, TaskNotes
from lorax.data.transaction import is_noted, roll_back, transaction
from lorax.errors import ContractError, DataVersionError, StorageError
from lorax.storage import copy_bytes, locked
from lorax.stream import PinnedTask, check_new_name
from lorax.workspace import Workspace

OnPlan = Callable[[Plan], None]


def land(
    workspace: Workspace,
    source: Path,
    task: str = "",
    *,
    options: LandingOptions = DEFAULTS,
    commit: bool = True,
    on_plan: OnPlan = lambda plan: None,
    on_report: OnReport = lambda report: None,
    progress: Progress | None = None,
) -> tuple[PinnedTask, ...]:
    """Land the tasks of a data set, all or none; what has landed already is only restored where it is missing.

    Args:
        workspace: where to land.
        source: a folder or a file in one of the known layouts; it is only read.
        task: the name of its only task, and of its folder below data/; '' takes the generators' names.
        options: how it is to land.
        commit: commit data.dvc, and push data and commit where a DVC remote and a git upstream are set.
        on_plan: given what the source was taken for and its tasks, before anything changes.
        on_report: given the contract's report on each task, before anything changes; not of what has landed already.
        progress: told what is being done.

    Returns:
        The tasks in the order of landing.

    Raises:
        LayoutError: unsafe name, nothing that can be landed, or it can't be told what is what.
        ContractError: the data set does not fulfil the landing contract; names every finding.
        DataVersionError: DVC or git refused, or what is to be extended has not landed. After a failed push the tasks
            have landed nevertheless.
        StorageError: the disk is full or refuses to be written.
    """
    if task:
        check_new_name(task)
    path = checked_source(workspace, source)
    with (
        _uncollected(),
        landing_errors(workspace),
        one_at_a_time(workspace, progress),
        images_apart(workspace) as apart,
    ):
        roll_back(workspace)  # what a killed landing left
        if commit:
            _check_committed(workspace)
        plan, incoming = read_incoming(path, task, options.reading, apart, progress)
        on_plan(plan)
        if commit:
            _catch_up(workspace)
        before = pins.on_disk(workspace)
        asked = [options.notes(before, one.task) for one in incoming]
        incoming = named(incoming, before, options)
        stream = {entry.name: entry for entry in before.stream}
        landed = {one.task: PinnedTask(one.task, one.digest) for one in incoming}
        notes = {landed[one.task]: kept for one, kept in zip(incoming, asked, strict=True)}
        known = [one for one in incoming if not one.complaints and stream.get(one.task) == landed[one.task]]
        for one in known:
            kept = notes[landed[one.task]]
            check_relation(before, landed[one.task], options.new_version_of and kept.new_version_of)
            _restore(workspace, one, commit, apart)
        if new := [one for one in incoming if one not in known]:
            _accept(workspace, new, options, on_report, progress=progress)
            for one in new:
                if one.task in stream:
                    keeping.keep_old_bytes(workspace, one.task)
            stream |= {one.task: landed[one.task] for one in new}  # a task that lands again keeps its place
            share = partial(_share, workspace, partial(_accept_again, workspace, new, options, on_report))
            _bring(workspace, new, tuple(stream.values()), notes, share if commit else None, apart, progress)
            with suppress(StorageError):  # it has landed; a later landing makes the tables anew
                for one in new:
                    prints.keep(workspace, landed[one.task], prints.prints_of(one.files.values()))
                prints.prune(workspace, stream.values())
        elif commit:
            _share(workspace)
    return tuple(landed.values())


@contextmanager
def _uncollected() -> Iterator[None]:
    """Have Python not look for cycles: it goes through a landing's million records again and again, and finds none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def undo_killed(workspace: Workspace) -> None:
    """Undo what a killed landing left, which else would stay until the next one; not while a landing is at work.

    Raises:
        StorageError: the disk refuses to be written.
    """
    if not is_noted(workspace):
        return
    path = workspace.work_dir / "landing.lock"
    with landing_errors(workspace), suppress(BlockingIOError), locked(path, _leave_it):
        roll_back(workspace)


def _leave_it() -> None:
    raise BlockingIOError


def _accept(
    workspace: Workspace,
    incoming: Sequence[Incoming],
    options: LandingOptions,
    on_report: OnReport,
    beside: Pins | None = None,
    progress: Progress | None = None,
) -> None:
    """Hold tasks against the contract."""
    reports = reports_on(workspace, incoming, options, beside, progress)
    refused = [report for report in reports if report.refused]
    for report in reports if beside is None else refused:
        on_report(report)
    if refused:
        raise ContractError("\n".join(report.text for report in refused))


def _accept_again(
    workspace: Workspace, incoming: Sequence[Incoming], options: LandingOptions, on_report: OnReport
) -> None:
    """Others have landed meanwhile: what does not fit beside that does not land after all."""
    _accept(workspace, incoming, options, on_report, pins.committed(workspace, "@{upstream}"))


def _bring(
    workspace: Workspace,
    incoming: Sequence[Incoming],
    stream: Sequence[PinnedTask],
    notes: Mapping[PinnedTask, TaskNotes],
    share: Callable[[], None] | None,
    apart: Path,
    progress: Progress | None,
) -> None:
    """Copy and pin tasks that fulfil the contract, so that data.dvc's stream becomes `stream`; commit and share.

    `share` is called after the commit; without it, nothing is committed. Files below `apart` are moved, not copied.
    """
    names, before = [one.task for one in incoming], pins.on_disk(workspace)
    others = {p: md5 for p, md5 in versions.manifest(workspace, before).items() if p.partition("/")[0] not in names}
    md5s = {f"{one.task}/{path}": md5 for one in incoming for path, md5 in one.md5s.items()}
    lists = keeping.list_paths(workspace, [others | md5s, *(one.md5s for one in incoming)])  # DVC's, of all and of each
    cached = (*versions.cache_paths(workspace, md5s.values()).values(), *lists)
    new = [path for path in cached if not path.exists()]
    ignore_path = workspace.root / ".gitignore"
    ignored = _bytes_of(ignore_path)
    with _draft(workspace) as draft:
        _copy({f"{one.task}/{p}": file for one in incoming for p, file in one.sources.items()}, draft, apart, progress)
        for one in incoming:
            _check_unchanged(one.sources, one, apart)
        with transaction(workspace, [entry for entry in stream if entry.name in names], new):
            workspace.data_dir.mkdir(exist_ok=True)
            for name in names:
                shutil.move(draft / name, workspace.data_dir / name)
            if progress is not None:
                progress(0, len(md5s), "adding to DVC")
            keeping.store(workspace, md5s)
            keeping.add_to_dvc(workspace, *([f"data/{name}" for name in names] if before.stream else ["data"]))
            _check_pins(workspace, others | md5s)
            pins.write_stream(workspace, stream, notes)
            if share is not None:
                by_dvc = [".gitignore"] if _bytes_of(ignore_path) != ignored else []
                again = " again" if len(stream) == len(before.stream) else ""
                head = repository.head(workspace.root)
                _commit(workspace, ["data.dvc", *by_dvc], f"Land {_listed(names)}{again}: {size(incoming)}")
                with upstream.taken_back(workspace.root, head, ContractError):
                    share()


def _listed(names: Sequence[str]) -> str:
    """Tasks' names, for people."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _restore(workspace: Workspace, incoming: Incoming, commit: bool, apart: Path) -> None:
    """The same bytes under the same name: restore what data/, DVC's cache and its remote lack or hold damaged."""
    target, md5s = workspace.data_dir / incoming.task, incoming.md5s
    missing = {
        path: source for path, source in incoming.sources.items() if not memory.is_whole(target / path, md5s[path])
    }
    with _draft(workspace) as draft:
        _copy(missing, draft, apart, None)
        _check_unchanged(missing, incoming, apart)
        for path in missing:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(draft / path, target / path)
    keeping.mend_cache(workspace, {f"{incoming.task}/{path}": md5 for path, md5 in md5s.items()})
    if commit:
        _commit(workspace, ["data.dvc"], f"Land {incoming.task}: {size([incoming])}")
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


def _copy(sources: Mapping[str, Path], target: Path, apart: Path, progress: Progress | None) -> None:
    """Have the files in `target`; those that landing made itself, below `apart`, are not needed there any more."""
    for folder in {path.rpartition("/")[0] for path in sources}:
        (target / folder).mkdir(parents=True, exist_ok=True)
    for done, (path, source) in enumerate(sources.items(), 1):
        if _is_own(source, apart):
            source.rename(target / path)
        else:
            copy_bytes(source, f"{target}/{path}")  # a Path for each of 100,000 files takes as long as copying it
        if progress is not None:
            progress(done, len(sources), "copying")


def _is_own(source: Path, apart: Path) -> bool:
    """Whether landing made the file itself."""
    return str(source).startswith(f"{apart}/")


def _check_unchanged(sources: Mapping[str, Path], incoming: Incoming, apart: Path) -> None:
    """DVC is told what a file holds by what was seen of it, so nothing may have written to it until it was copied."""
    for path, source in sources.items():
        if not _is_own(source, apart) and source.stat().st_ctime_ns != incoming.files[path].ctime_ns:
            raise DataVersionError(f"{source} was changed while it landed. Everything was put back; land it again.")


def _check_pins(workspace: Workspace, expected: Mapping[str, str]) -> None:
    """DVC can replace a whole data set silently; and the source may have changed while it was read."""
    found = versions.manifest(workspace, pins.on_disk(workspace))
    differing = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    if differing:
        raise DataVersionError(
            f"after 'dvc add', data.dvc does not pin what it should: {len(differing)} files are missing, new or other "
            f"than expected, such as {differing[0]}. Everything was put back. Does .dvcignore hide images?"
        )


def _catch_up(workspace: Workspace) -> None:
    """Land on top of what the upstream has; where it can't be reached, on what is here."""
    if upstream.find(workspace.root) is None:
        return
    with suppress(DataVersionError):  # the push will tell
        upstream.fetch(workspace)
    upstream.join(workspace)


def _share(workspace: Workspace, on_moved: Callable[[], None] = lambda: None) -> None:
    try:
        upstream.publish(workspace, on_moved)
    except (DataVersionError, StorageError) as error:
        raise DataVersionError(
            f"what landed is committed, but was not pushed; mend that, then land the same again: {error}"
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
    """Hold the lock on data.dvc and its commits; the kernel lets it go when the process ends, however it ends."""
    shown = progress or (lambda *_: None)
    path = workspace.work_dir / "landing.lock"
    with locked(path, lambda: shown(0, 1, "waiting for another landing")):
        yield
