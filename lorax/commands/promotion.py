"""The champion moved by hand: `lorax rollback`, `promote`, `relearn`; and versions set aside: `refuse`, `delete`.

A version that becomes champion is seen to work first; what follows from the move is told.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lorax import lineage
from lorax.addresses import without_password
from lorax.commands import access
from lorax.commands import learn as learning
from lorax.commands.console import Json, Preset, VersionNumber, err, opened, out, print_json, print_record, who
from lorax.commands.tables import print_quarantined, quarantine_record, version_record
from lorax.errors import RegistryError
from lorax.text import size

if TYPE_CHECKING:
    from lorax.params import Params
    from lorax.registry import ModelVersion, Registry
    from lorax.workspace import Workspace


def _given(reason: str) -> str:
    if not reason.strip():
        raise typer.BadParameter("expected a text: it is all that will tell others why", param_hint="--reason")
    return reason.strip()


_WHY = "Why; kept in the registry's journal with who and when."
Reason = Annotated[str, typer.Option(help=_WHY, show_default=False, callback=_given)]
Why = Annotated[str, typer.Option(help=_WHY)]


def rollback(
    reason: Reason,
    to: Annotated[int | None, typer.Option(metavar="VERSION", help="The version to go back to.")] = None,
    previous: Annotated[bool, typer.Option("--previous", help="Go back to the one the champion grew from.")] = False,
    as_json: Json = False,
) -> None:
    """Make a version that was champion before champion again, once it has been seen to load and predict.

    What the champion of now knows beyond it is held: not learned again until it is released or lands with other bytes,
    or a version that knows it is promoted. data.dvc stays as it is.

    Example: `lorax rollback --previous --reason "bad data"`
    """
    if (to is None) != previous:
        raise typer.BadParameter("expected one of --to VERSION and --previous")
    workspace, params = opened()
    registry = access.served_registry(workspace, params)
    seen, before = registry.finished_journal(), registry.champion()
    version = registry.version(to) if to is not None else _parent(before, registry)
    with _told("rollback", registry, version.version), _seen_to_work(registry, version, workspace, params):
        after = registry.rollback(version.version, by=who(), reason=reason, seen=seen)
    print_record(_moved(workspace, registry, before, after), print_moved, as_json)


def promote(version: VersionNumber, reason: Reason, as_json: Json = False) -> None:
    """Make a version champion by hand, whatever the gate said, once it has been seen to load and predict.

    Approves one that waits, overrules a refusal, and mends a champion's alias that was lost. What the champion of now
    knows beyond it is held. Example: `lorax promote 4 --reason "the old task is retired"`
    """
    from lorax.registry import CHAMPION

    workspace, params = opened()
    registry = access.served_registry(workspace, params)
    seen, before, wanted = registry.finished_journal(), _last_champion(registry), registry.version(version)
    if before and version == before.version and CHAMPION in before.aliases and before.outcome == "promoted":
        raise RegistryError(f"version {version} is the champion already; nothing was changed.")
    with _told("promote", registry, version), _seen_to_work(registry, wanted, workspace, params) as state_dir:
        after = registry.promote(version, state_dir, by=who(), reason=reason, seen=seen)
    print_record(_moved(workspace, registry, before, after), print_moved, as_json)


def relearn(
    task: Annotated[str, typer.Argument(help="A task that the champion knows.")],
    reason: Why = "its data changed",
    learn: Annotated[bool, typer.Option(help="Learn at once, in this terminal.")] = True,
    preset: Preset = None,
    as_json: Json = False,
) -> None:
    """Go back to before a task was learned, then learn it and what came after it from the data that is landed now.

    Example: `lorax land ~/gaugan-mended --task gaugan --replace && lorax relearn gaugan`
    """
    workspace, params = opened(preset)
    registry = access.served_registry(workspace, params)
    seen, before, version = registry.finished_journal(), registry.champion(), registry.version_before(task)
    _check_landed(workspace, before, version)
    with _told("rollback", registry, version.version), _seen_to_work(registry, version, workspace, params):
        after = registry.relearn(task, by=who(), reason=f"to relearn {task}: {reason}", seen=seen)
    moved = _moved(workspace, registry, before, after) | {"checkout": None}  # what is landed now is wanted
    if not as_json:
        print_moved(moved, out)
    learned = learning.learn_waiting(workspace, params, preset) if learn else None
    if as_json:
        print_json(moved | {"learning": learned})
    elif learned is None:
        out.print("A worker learns it within two minutes, 'lorax learn' at once.")
    else:
        learning.print_outcomes(learned, out)


def refuse(version: VersionNumber, reason: Reason, as_json: Json = False) -> None:
    """Refuse a version that waits for approval; its task is held.

    Example: `lorax refuse 4 --reason "too many false alarms on our photos"`
    """
    registry = access.served_registry(*opened())
    refused = registry.refuse(version, by=who(), reason=reason)
    record = {"refused": version_record(refused), "held": [quarantine_record(hold) for hold in registry.quarantined()]}
    print_record(record, _print_refused, as_json)


def delete(
    version: VersionNumber,
    reason: Why = "deleted by hand",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a version that neither champion nor challenger grew from; its run with all figures stays.

    Example: `lorax delete 4 --yes`
    """
    workspace, params = opened()
    registry = access.served_registry(workspace, params)
    record = {
        "deleted": version_record(registry.check_deletable(version)),
        "bytes": registry.stored_bytes(version),
        "copies": registry.copies(version),
    }
    if not yes:
        err.print(_at_stake(record), markup=False)
        typer.confirm(f"Delete version {version} for good?", abort=True, err=True)
    registry.delete(version, by=who(), reason=reason)
    print_record(record | {"emptying": _emptying(workspace, params, registry)}, _print_deleted, as_json)


def print_moved(record: Mapping[str, Any], out: Console) -> None:
    """Which version is champion now, what is held, and which data belongs to it."""
    before, now = record["before"], record["champion"]
    out.print(f"champion: {named(before)} -> {named(now)}", markup=False)
    print_quarantined(record["held"], out)
    if record["held"]:
        out.print(
            "A held task is learned again after 'lorax release TASK', or once it lands with other bytes; or make a "
            "version that knows it champion: 'lorax promote VERSION --reason TEXT'."
        )
    checkout = f" The data that version {now['version']} was learned from: {record['checkout']}"
    out.print(f"data.dvc was not rewritten.{checkout if record['checkout'] else ''}", markup=False)


def _print_refused(record: Mapping[str, Any], out: Console) -> None:
    version = record["refused"]
    out.print(
        f"version {version['version']} is refused; its task {version['task']} is held, and the next one grows from the "
        "champion.",
        markup=False,
    )


def _print_deleted(record: Mapping[str, Any], out: Console) -> None:
    """What is gone, and how the room is freed."""
    how = record["emptying"] or "'mlflow gc', where MLflow's server runs (docs/how-to/roll-back.md)"
    room = f"lie in MLflow's trash. To empty it: {how}"
    if record["copies"]:
        room = f"stay, since they are those of {' and '.join(record['copies'])} too."
    text = f"version {record['deleted']['version']} is deleted. Its {size(record['bytes'])} {room}"
    out.print(text, markup=False)


def _at_stake(record: Mapping[str, Any]) -> str:
    """What deleting a version would take, in words."""
    version = record["deleted"]
    return (
        f"version {version['version']} ({', '.join(version['tasks'])}; {version['outcome'] or 'unfinished'}), "
        f"{size(record['bytes'])}: it can't be promoted or rolled back to any more; its run with all figures stays."
    )


@contextmanager
def _told(job: str, registry: Registry, number: int) -> Iterator[None]:
    """Tell who collects lineage that a version becomes champion."""
    with lineage.run(job, [lineage.version(registry.name, number)]) as told:
        yield
        told.outputs.append(lineage.champion(registry.name, number))


@contextmanager
def _seen_to_work(registry: Registry, version: ModelVersion, workspace: Workspace, params: Params) -> Iterator[Path]:
    """A version's learner state as the server has it now, whatever lies in the cache, once it has judged an image."""
    from lorax.drafts import scratch
    from lorax.verdicts.predictor import Predictor, check_predicts

    workspace.work_dir.mkdir(exist_ok=True)
    with scratch(workspace.work_dir) as folder:
        with err.status(f"looking whether version {version.version} predicts"):
            state_dir = registry.download_state(version.version, folder)
            check_predicts(Predictor.open(state_dir, params.run.device))
        yield state_dir


def _check_landed(workspace: Workspace, champion: ModelVersion | None, version: ModelVersion) -> None:
    """Make sure that what the champion knows beyond `version` has landed: what can't be learned again would be lost."""
    from lorax.data import versions

    kept = set(version.names)
    for known in champion.tasks if champion else ():
        if known.name not in kept:
            versions.read_task(workspace, known.name)


def _moved(
    workspace: Workspace, registry: Registry, before: ModelVersion | None, after: ModelVersion
) -> dict[str, Any]:
    from lorax.data import versions

    is_here = versions.revision(workspace).digest == after.data_digest
    return {
        "before": version_record(before) if before else None,
        "champion": version_record(after),
        "held": [quarantine_record(hold) for hold in registry.quarantined()],
        "checkout": _checkout(workspace, after.data_commit) if after.data_commit and not is_here else None,
    }


def _emptying(workspace: Workspace, params: Params, registry: Registry) -> str | None:
    """The command that empties MLflow's trash; None where others run its server."""
    from lorax.registry.client import at_server
    from lorax.services import embedded

    if not embedded.status(workspace, params).mlflow.is_embedded:
        return None
    database = embedded.registry_uri_at_rest(workspace, params)
    is_secret = without_password(database) != database
    return None if is_secret else at_server(registry.uri, f"mlflow gc --backend-store-uri {shlex.quote(database)}")


def _checkout(workspace: Workspace, commit: str) -> str:
    """The command that brings back the data of a commit, from wherever it is typed."""
    from lorax.data import versions

    here = "" if Path.cwd() == workspace.root else f"cd {shlex.quote(str(workspace.root))} && "
    bring = "checkout" if versions.default_remote(workspace) is None else "pull"  # what the cache lacks, too
    return f"{here}git checkout {commit} -- data.dvc && dvc {bring} data.dvc"


def _parent(champion: ModelVersion | None, registry: Registry) -> ModelVersion:
    """The version that the champion grew from, if it was champion, too."""
    if champion is None:
        raise RegistryError("there is no champion yet, so there is nothing to roll back: see 'lorax history'.")
    if champion.parent_digest is None:
        raise RegistryError(f"version {champion.version} is the first of its line: there is no version before it.")
    parent = registry.find(champion.parent_digest)
    if parent is None:
        raise RegistryError(
            f"the version that version {champion.version} grew from was deleted. Choose another from 'lorax history': "
            "'lorax rollback --to VERSION --reason TEXT'."
        )
    if parent.promoted_at is None:
        older = next((version for version in _ancestors(parent, registry) if version.promoted_at is not None), None)
        which = f"version {champion.version} grew from version {parent.version}, which never was champion"
        if older is None:
            raise RegistryError(f"{which} ({parent.reason}), nor was any before it.")
        raise RegistryError(
            f"{which} ({parent.reason}); the nearest before it that was is version {older.version} "
            f"({', '.join(older.names)}): 'lorax rollback --to {older.version} --reason TEXT'."
        )
    return parent


def _ancestors(version: ModelVersion, registry: Registry) -> Iterator[ModelVersion]:
    """The versions that one grew from, the nearest first, as far as they are there."""
    while version.parent_digest and (parent := registry.find(version.parent_digest)):
        yield parent
        version = parent


def _last_champion(registry: Registry) -> ModelVersion | None:
    """The champion; where its alias was lost, the version that the journal names, if that is still there."""
    from lorax.registry import journal

    move = journal.last_move(registry.journal())
    try:
        return registry.champion()
    except RegistryError:
        return next((v for v in registry.versions() if move and v.version == move.version), None)


def named(version: Mapping[str, Any] | None) -> str:
    """A version's record for people, with what it knows."""
    return f"version {version['version']} ({', '.join(version['tasks'])})" if version else "none"
