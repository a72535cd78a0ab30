"""Moving the champion by hand from the command line: seen to work first, then moved, then told what follows.

Each function returns a record for scripts; the `print_` functions tell it to people.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from lorax.addresses import without_password
from lorax.commands import running
from lorax.commands.records import hold_line, hold_record, version_record
from lorax.data import versions as data_versions
from lorax.drafts import scratch
from lorax.errors import DataVersionError, RegistryError
from lorax.params import Params
from lorax.registry import CHAMPION, ModelVersion, Registry, journal
from lorax.registry.client import at_server
from lorax.services import embedded
from lorax.workspace import Workspace

_MEBIBYTE = 2**20


def rollback(
    workspace: Workspace, params: Params, number: int | None, by: str, reason: str, console: Console
) -> dict[str, Any]:
    """Roll back to a version, None being the one that the champion grew from.

    Raises:
        RegistryError: there is no such version, it never was champion, it is champion already, or another person has
            moved the champion meanwhile.
        StateError, BackboneError: it does not load, or does not predict.
    """
    registry = running.served_registry(workspace, params, console)
    seen, before = registry.finished_journal(), registry.champion()
    version = registry.version(number) if number is not None else _parent(before, registry)
    with _seen_to_work(registry, version, workspace, params, console):
        after = registry.rollback(version.version, by=by, reason=reason, seen=seen)
    return _moved(workspace, registry, before, after)


def promote(
    workspace: Workspace, params: Params, number: int, by: str, reason: str, console: Console
) -> dict[str, Any]:
    """Make a version champion by hand.

    Raises:
        RegistryError: there is no such version, it is champion already, or another person has moved the champion
            meanwhile.
        StateError, BackboneError: it does not load, or does not predict.
    """
    registry = running.served_registry(workspace, params, console)
    seen, before, version = registry.finished_journal(), _last_champion(registry), registry.version(number)
    if before and number == before.version and CHAMPION in before.aliases and before.outcome == "promoted":
        raise RegistryError(f"version {number} is the champion already; nothing was changed.")
    with _seen_to_work(registry, version, workspace, params, console) as state_dir:
        after = registry.promote(number, state_dir, by=by, reason=reason, seen=seen)
    return _moved(workspace, registry, before, after)


def relearn(workspace: Workspace, params: Params, task: str, by: str, reason: str, console: Console) -> dict[str, Any]:
    """Go back to before a task was learned, such that it and what came after it is to be learned.

    Raises:
        RegistryError: the champion does not know it, no version without it is left, or another person has moved the
            champion meanwhile.
        DataVersionError: it, or a task learned after it, has not landed in this workspace.
        StateError, BackboneError: the version to go back to does not load, or does not predict.
    """
    registry = running.served_registry(workspace, params, console)
    seen, before, version = registry.finished_journal(), registry.champion(), registry.version_before(task)
    kept = {known.name for known in version.tasks}
    for known in before.tasks if before else ():
        if known.name not in kept:
            data_versions.read_task(workspace, known.name)  # what could not be learned again would be lost
    with _seen_to_work(registry, version, workspace, params, console):
        after = registry.relearn(task, by=by, reason=f"to relearn {task}: {reason}", seen=seen)
    return _moved(workspace, registry, before, after) | {"checkout": None}  # what is landed now is wanted


def refuse(workspace: Workspace, params: Params, number: int, by: str, reason: str, console: Console) -> dict[str, Any]:
    """Refuse a version that waits for approval.

    Raises:
        RegistryError: it does not wait.
    """
    registry = running.served_registry(workspace, params, console)
    version = registry.refuse(number, by=by, reason=reason)
    return {"refused": version_record(version), "held": [hold_record(hold) for hold in registry.held()]}


def hold(workspace: Workspace, params: Params, task: str, by: str, reason: str, console: Console) -> dict[str, Any]:
    """Set a landed task aside, so that what landed behind it is learned.

    Raises:
        DataVersionError: it has not landed.
        RegistryError: the champion knows it, or it is held already.
    """
    registry = running.served_registry(workspace, params, console)
    champion, landed = registry.champion(), {known.name: known.digest for known in data_versions.landed(workspace)}
    if task not in landed:
        raise DataVersionError(
            f"task {task!r} has not landed in {workspace.root}; landed are: {', '.join(landed) or 'none'}."
        )
    digest = landed[task]
    if champion and task in {known.name for known in champion.tasks}:
        raise RegistryError(
            f"the champion knows task {task!r}, so there is nothing to set aside. To go back to before it: "
            "'lorax rollback --to VERSION --reason TEXT'."
        )
    if any((held.task, held.digest) == (task, digest) for held in registry.held()):
        raise RegistryError(f"task {task!r} is held already; see 'lorax status'. Nothing was changed.")
    registry.hold(task, digest, by=by, reason=reason)
    return {"held": [hold_record(held) for held in registry.held()]}


def release(workspace: Workspace, params: Params, task: str, by: str, reason: str, console: Console) -> dict[str, Any]:
    """Let a held task be learned again.

    Raises:
        RegistryError: it is not held, or its version waits for approval.
    """
    registry = running.served_registry(workspace, params, console)
    waiting, held = registry.waiting(), registry.held()
    if waiting and waiting.task == task:
        number = waiting.version
        raise RegistryError(
            f"task {task!r} is held while version {number} waits for approval: 'lorax promote {number} --reason TEXT' "
            f"or 'lorax refuse {number} --reason TEXT'."
        )
    lifted = registry.release(task, by=by, reason=reason)
    if not lifted:
        names = ", ".join(sorted({hold.task for hold in held})) or "none"
        raise RegistryError(f"task {task!r} is not held; held are: {names}. Nothing was changed.")
    landed = {known.name: known.digest for known in data_versions.landed(workspace)}
    return {
        "released": [hold_record(hold) for hold in lifted],
        "is_landed": landed.get(task) in {hold.digest for hold in lifted},
    }


def deletion_at_stake(registry: Registry, number: int) -> dict[str, Any]:
    """What deleting a version would take, for the question before it.

    Raises:
        RegistryError: it can't be deleted.
    """
    version = registry.check_deletable(number)
    return {
        "deleted": version_record(version),
        "bytes": registry.stored_bytes(number),
        "copies": registry.copies(number),
    }


def delete(
    workspace: Workspace, params: Params, registry: Registry, number: int, by: str, reason: str
) -> dict[str, Any]:
    """Delete a version; of the record, `emptying` is the command that frees its room.

    Raises:
        RegistryError: it can't be deleted.
    """
    record = deletion_at_stake(registry, number)
    registry.delete(number, by=by, reason=reason)
    return record | {"emptying": _emptying(workspace, params, registry)}


def print_moved(record: Mapping[str, Any], out: Console) -> None:
    """Which version is champion now, what is held, and which data belongs to it."""
    before, now = record["before"], record["champion"]
    out.print(f"champion: {_named(before)} -> {_named(now)}", markup=False)
    for hold in record["held"]:
        out.print(f"held: {hold_line(hold)}", markup=False)
    if record["held"]:
        out.print(
            "A held task is learned again after 'lorax release TASK', or once it lands with other bytes; or make a "
            "version that knows it champion: 'lorax promote VERSION --reason TEXT'."
        )
    checkout = f" The data that version {now['version']} was learned from: {record['checkout']}"
    out.print(f"data.dvc was not rewritten.{checkout if record['checkout'] else ''}", markup=False)


def print_refused(record: Mapping[str, Any], out: Console) -> None:
    """What became of a version that waited."""
    version = record["refused"]
    out.print(
        f"version {version['version']} is refused; its task {version['task']} is held, and the next one grows from the "
        "champion.",
        markup=False,
    )


def print_held(record: Mapping[str, Any], out: Console) -> None:
    """What is held now."""
    for held in record["held"]:
        out.print(f"held: {hold_line(held)}", markup=False)
    out.print("What landed behind is learned without it. 'lorax release TASK' lets it be learned again.")


def print_released(record: Mapping[str, Any], out: Console) -> None:
    """What may be learned now."""
    for hold in record["released"]:
        out.print(f"released: {hold_line(hold)}", markup=False)
    if record["is_landed"]:
        out.print(
            "A worker learns it within two minutes, 'lorax learn' at once. With the same parameters on the same "
            "champion it comes out the same."
        )
    else:
        out.print("Other bytes have landed under this name, or none: nothing is learned until these land.")


def print_deleted(record: Mapping[str, Any], out: Console) -> None:
    """What is gone, and how the room is freed."""
    how = record["emptying"] or "'mlflow gc', where MLflow's server runs (docs/operations.md, \"Rolling back\")"
    room = f"lie in MLflow's trash. To empty it: {how}"
    if record["copies"]:
        room = f"stay, since they are those of {' and '.join(record['copies'])} too."
    text = f"version {record['deleted']['version']} is deleted. Its {_size(record['bytes'])} {room}"
    out.print(text, markup=False)


def at_stake(record: Mapping[str, Any]) -> str:
    """What deleting a version would take, in words."""
    version = record["deleted"]
    return (
        f"version {version['version']} ({', '.join(version['tasks'])}; {version['outcome'] or 'unfinished'}), "
        f"{_size(record['bytes'])}: it can't be promoted or rolled back to any more; its run with all figures stays."
    )


@contextmanager
def _seen_to_work(
    registry: Registry, version: ModelVersion, workspace: Workspace, params: Params, console: Console
) -> Iterator[Path]:
    """A version's learner state as the server has it now, whatever lies in the cache, once it has judged an image."""
    from lorax.verdicts.predictor import Predictor, check_predicts

    workspace.work_dir.mkdir(exist_ok=True)
    with scratch(workspace.work_dir) as folder:
        with console.status(f"looking whether version {version.version} predicts"):
            state_dir = registry.download_state(version.version, folder)
            check_predicts(Predictor.open(state_dir, params.run.device))
        yield state_dir


def _moved(
    workspace: Workspace, registry: Registry, before: ModelVersion | None, after: ModelVersion
) -> dict[str, Any]:
    is_here = data_versions.revision(workspace).digest == after.data_digest
    return {
        "before": version_record(before) if before else None,
        "champion": version_record(after),
        "held": [hold_record(hold) for hold in registry.held()],
        "checkout": _checkout(workspace, after.data_commit) if after.data_commit and not is_here else None,
    }


def _emptying(workspace: Workspace, params: Params, registry: Registry) -> str | None:
    """The command that empties MLflow's trash; None where others run its server."""
    if not embedded.status(workspace, params).mlflow.is_embedded:
        return None
    database = embedded.registry_uri_at_rest(workspace, params)
    is_secret = without_password(database) != database
    return None if is_secret else at_server(registry.uri, f"mlflow gc --backend-store-uri {shlex.quote(database)}")


def _checkout(workspace: Workspace, commit: str) -> str:
    """The command that brings back the data of a commit, from wherever it is typed."""
    here = "" if Path.cwd() == workspace.root else f"cd {shlex.quote(str(workspace.root))} && "
    bring = "checkout" if data_versions.default_remote(workspace) is None else "pull"  # what the cache lacks, too
    return f"{here}git checkout {commit} -- data.dvc && dvc {bring} data.dvc"


def _parent(champion: ModelVersion | None, registry: Registry) -> ModelVersion:
    """The version that the champion grew from."""
    if champion is None:
        raise RegistryError("there is no champion yet, so there is nothing to roll back: see 'lorax history'.")
    if champion.parent_digest is None:
        raise RegistryError(f"version {champion.version} is the first of its line: there is no version before it.")
    found = registry.find(champion.parent_digest)
    if found is None:
        raise RegistryError(
            f"the version that version {champion.version} grew from was deleted. Choose another from 'lorax history': "
            "'lorax rollback --to VERSION --reason TEXT'."
        )
    return found


def _last_champion(registry: Registry) -> ModelVersion | None:
    """The champion; where its alias was lost, the version that the journal names, if that is still there."""
    move = journal.last_move(registry.journal())
    try:
        return registry.champion()
    except RegistryError:
        return next((v for v in registry.versions() if move and v.version == move.version), None)


def _named(version: Mapping[str, Any] | None) -> str:
    return f"version {version['version']} ({', '.join(version['tasks'])})" if version else "none"


def _size(count: int) -> str:
    return f"{count / _MEBIBYTE:.1f} MiB"
