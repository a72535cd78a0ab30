"""A task set aside (`lorax hold`, `release`), and one that must go, with its images (`lorax withdraw`, `forget`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lorax.commands import access
from lorax.commands.console import Json, Preset, err, opened, print_record, who
from lorax.commands.promotion import Reason, Why, named
from lorax.commands.tables import print_quarantined, quarantine_line, quarantine_record, version_record
from lorax.errors import DataVersionError, LoraxError, RegistryError
from lorax.text import short

if TYPE_CHECKING:
    from lorax.forgetting import Traces
    from lorax.params import Params
    from lorax.registry import Look, ModelVersion
    from lorax.workspace import Workspace


def hold(
    task: Annotated[str, typer.Argument(help="A landed task that the champion does not know.")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Set a task aside: with the bytes that it has it is not learned until it is released, and the next one is.

    Example: `lorax hold gaugan --reason "its license is being asked for"`
    """
    from lorax.data import versions

    workspace, params = opened()
    registry = access.served_registry(workspace, params)
    champion, landed = registry.champion(), {known.name: known.digest for known in versions.landed(workspace)}
    if task not in landed:
        raise DataVersionError(
            f"task {task!r} has not landed in {workspace.root}; landed are: {', '.join(landed) or 'none'}."
        )
    if champion and task in champion.names:
        raise RegistryError(
            f"the champion knows task {task!r}, so there is nothing to set aside. To go back to before it: "
            "'lorax rollback --to VERSION --reason TEXT'."
        )
    if any((held.task, held.digest) == (task, landed[task]) for held in registry.quarantined()):
        raise RegistryError(f"task {task!r} is held already; see 'lorax status'. Nothing was changed.")
    registry.hold(task, landed[task], by=who(), reason=reason)
    print_record({"held": [quarantine_record(held) for held in registry.quarantined()]}, _print_held, as_json)


def release(
    task: Annotated[str, typer.Argument(help="A held task; see `lorax status`.")],
    reason: Why = "released by hand",
    as_json: Json = False,
) -> None:
    """Let a held task be learned again, with the bytes that it has.

    Example: `lorax release gaugan --reason "the data is right after all"`
    """
    from lorax.data import versions

    workspace, params = opened()
    registry = access.served_registry(workspace, params)
    waiting, held = registry.waiting(), registry.quarantined()
    if waiting and waiting.task == task:
        number = waiting.version
        raise RegistryError(
            f"task {task!r} is held while version {number} waits for approval: 'lorax promote {number} --reason TEXT' "
            f"or 'lorax refuse {number} --reason TEXT'."
        )
    lifted = registry.release(task, by=who(), reason=reason)
    if not lifted:
        names = ", ".join(sorted({hold.task for hold in held})) or "none"
        raise RegistryError(f"task {task!r} is not held; held are: {names}. Nothing was changed.")
    landed = {known.name: known.digest for known in versions.landed(workspace)}
    record = {
        "released": [quarantine_record(hold) for hold in lifted],
        "is_landed": landed.get(task) in {hold.digest for hold in lifted},
    }
    print_record(record, _print_released, as_json)


def held_again(workspace: Workspace, tasks: Sequence[str]) -> Iterator[str]:
    """What is not learned although it has landed, since it is held with these bytes from when it landed before."""
    from lorax import reconcile
    from lorax.data import pins, repository, versions
    from lorax.params import load_params

    landed = {task.name: task.digest for task in versions.landed(workspace)}
    before = [name for name in tasks if len(repository.commits_about(workspace.root, pins.NAME, landed[name])) > 1]
    if before:  # else the registry need not be asked
        with suppress(LoraxError):
            held = reconcile.look(workspace, load_params(workspace.params_path)).quarantined()
            for hold in held:
                if hold.task in before and hold.digest == landed[hold.task]:
                    yield f"not learned until 'lorax release {hold.task}': {quarantine_line(quarantine_record(hold))}"


def _print_held(record: Mapping[str, Any], out: Console) -> None:
    print_quarantined(record["held"], out)
    out.print("What landed behind is learned without it. 'lorax release TASK' lets it be learned again.")


def _print_released(record: Mapping[str, Any], out: Console) -> None:
    print_quarantined(record["released"], out, "released")
    if record["is_landed"]:
        out.print(
            "A worker learns it within two minutes, 'lorax learn' at once. With the same parameters on the same "
            "champion it comes out the same."
        )
    else:
        out.print("Other bytes have landed under this name, or none: nothing is learned until these land.")


_BEYOND_REACH = (
    "git's history: it holds digests and names of files, no image",
    "other clones of this repository, their DVC caches and their work/; who serves a version that is deleted now",
    "versions that 'lorax delete' removed earlier: they lie in MLflow's trash until 'mlflow gc' empties it",
    "backups, and older versions of objects where the DVC remote or MLflow's store keeps such",
)


def withdraw(
    task: Annotated[str, typer.Argument(help="A landed task.")],
    reason: Reason,
    fast: Annotated[bool, typer.Option("--fast", help="Cut it out of the champion: nothing is learned again.")] = False,
    preset: Preset = None,
    as_json: Json = False,
) -> None:
    """Take a task out of champion and data.dvc, as if it had never landed: what came after it is learned anew first.

    The champion of now serves meanwhile. Interrupted at any point, the same command goes on there. Example: `lorax
    withdraw gaugan --reason "its licence has ended"`
    """
    from lorax import progress, reconcile

    workspace, params = opened(preset)
    registry = reconcile.look(workspace, params)
    before = registry.champion()
    _check_known(workspace, registry, before, task)
    access.serve(workspace, params)
    from flows.withdraw import withdraw as flow  # not before: Prefect reads the environment

    with progress.showing(err):
        numbers = flow(str(workspace.root), task, reason, who(), preset, fast)
    record = _withdrawn(workspace, params, task) | {"learned": numbers}
    print_record(record | {"before": version_record(before) if before else None}, print_withdrawn, as_json)


def forget(
    task: Annotated[str, typer.Argument(help="A withdrawn task.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove every trace of a withdrawn task's images: from DVC's cache and remote, work/ and MLflow; then look for it.

    Versions that know it are deleted with their artifacts. Example: `lorax forget gaugan --yes`
    """
    from lorax import forgetting, reconcile
    from lorax.data import withdrawal
    from lorax.data.forgetting import check_withdrawn

    workspace, params = opened()
    if task not in withdrawal.under_way(workspace):  # which is told below
        check_withdrawn(workspace, task)  # before servers are started for it
    registry = access.served_registry(workspace, params)
    with reconcile.one_at_a_time(workspace, lambda: err.print("waiting for who learns in this workspace")):
        if under_way := withdrawal.under_way(workspace):
            raise DataVersionError(
                f"the withdrawal of {', '.join(under_way)} is not over: 'lorax withdraw {under_way[0]} --reason TEXT' "
                "goes on with it. Then run the same command again."
            )
        found = forgetting.traces(workspace, registry, params, task)
        if not yes:
            err.print(_at_stake(found), markup=False)
            typer.confirm(f"Forget {task} for good?", abort=True, err=True)
        with err.status(f"forgetting {task}") as shown:
            places = forgetting.forget(workspace, registry, found, by=who(), told=shown.update)
    record = {
        "task": task,
        "digests": sorted(found.images.gone),
        "places": [{"name": place.name, "found": list(place.found)} for place in places],
        "shared": sorted(found.images.shared),
        "unknown": list(found.images.unknown),
        "versions": [version.version for version in found.versions],
        "beyond_reach": list(_BEYOND_REACH),
    }
    print_record(record, _print_forgotten, as_json)
    if any(place.found for place in places):
        raise DataVersionError(f"traces of {task!r} are left, as told above. Run the same command again.")


def _check_known(workspace: Workspace, registry: Look, champion: ModelVersion | None, task: str) -> None:
    """Refuse a name that nothing here bears, before servers are started for it."""
    from lorax.data import versions, withdrawal
    from lorax.registry.withdrawal import is_withdrawn

    landed = [known.name for known in versions.landed(workspace)]
    known = {*landed, *withdrawal.under_way(workspace), *(one.name for one in (champion.tasks if champion else ()))}
    if task not in known and not is_withdrawn(registry, task):
        raise DataVersionError(
            f"task {task!r} has not landed in {workspace.root}, and the champion does not know it, so it can't be "
            f"withdrawn; landed are: {', '.join(landed) or 'none'}."
        )


def _withdrawn(workspace: Workspace, params: Params, task: str) -> dict[str, Any]:
    """What became of a task, from registry and git."""
    from lorax import reconcile
    from lorax.data import versions

    registry, revision = reconcile.look(workspace, params), versions.revision(workspace)
    champion = registry.champion()
    return {
        "task": task,
        "champion": version_record(champion) if champion else None,
        "known_by": [v.version for v in registry.versions() if task in {known.name for known in v.tasks}],
        "held": [quarantine_record(hold) for hold in registry.quarantined()],
        "data": {"digest": revision.digest, "commit": revision.commit},
    }


def print_withdrawn(record: Mapping[str, Any], out: Console) -> None:
    """Print what became of a withdrawn task: the record of `lorax withdraw`."""
    task, before, after = record["task"], named(record["before"]), named(record["champion"])
    out.print(f"champion: {before}{'' if before == after else f' -> {after}'}", markup=False)
    print_quarantined(record["held"], out)
    gone = f"data.dvc has {task} no more (commit {short(record['data']['commit'])})"
    if record["known_by"]:
        numbers = ", ".join(map(str, record["known_by"]))
        what = f"'lorax forget {task}' removes them, and its images from DVC's cache."
        out.print(f"{gone}. Versions that know it still: {numbers}. {what}", markup=False)
    else:
        out.print(f"{gone}, and no version knows it. Images may be left: 'lorax forget {task}' looks.", markup=False)


def _at_stake(found: Traces) -> str:
    """What forgetting would take, in words."""
    numbers = ", ".join(str(version.version) for version in found.versions) or "none"
    return (
        f"{len(found.images.gone)} images that only {found.task} has had will be removed from DVC's cache, remote and "
        f"work/, and versions that know {found.task} with their artifacts: {numbers}. Nothing brings any of it back."
    )


def _print_forgotten(record: Mapping[str, Any], out: Console) -> None:
    count = len(record["digests"])
    numbers = ", ".join(map(str, record["versions"])) or "none"
    out.print(f"versions deleted: {numbers}; {count} images looked for by their digests:", markup=False)
    for place in record["places"]:
        out.print(f"  {place['name']}: {len(place['found'])} found", markup=False)
        for name in place["found"]:
            out.print(f"    {name}", style="red", markup=False)
    if record["shared"]:
        what = f"{len(record['shared'])} images stay, since what is landed or known now has them, too."
        out.print(what, style="yellow", markup=False)
    if record["unknown"]:
        commits = ", ".join(map(short, record["unknown"]))
        what = (
            f"What landed in {commits} is not known here: its list of files is neither in DVC's cache nor its remote."
        )
        out.print(what, style="yellow", markup=False)
    out.print("Not reached from here:")
    for sentence in record["beyond_reach"]:
        out.print(f"  {sentence}", markup=False)
