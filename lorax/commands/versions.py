"""The commands about model versions: what there is, which of them is champion, and what is held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from lorax.commands.console import Json, Preset, err, opened, out, print_json, who

version_commands = typer.Typer()

Version = Annotated[int, typer.Argument(help="A model version's number; see `lorax history`.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the registry's journal with who and when.", show_default=False)]
Why = Annotated[str, typer.Option(help="Why; kept in the registry's journal with who and when.")]


@version_commands.command()
def history(
    gate: Annotated[bool, typer.Option("--gate", help="Show what the gate said of every task.")] = False,
    as_json: Json = False,
) -> None:
    """Draw the tree of model versions, and list what happened to the champion and the tasks.

    A version hangs below the one that it grew from. Example: `lorax history --gate`
    """
    from lorax import reconcile
    from lorax.commands import history as told

    record = told.record(reconcile.look(*opened()))
    if as_json:
        print_json(record)
    else:
        told.print_history(record, out, gate=gate)


@version_commands.command()
def diff(first: Version, second: Version, as_json: Json = False) -> None:
    """Compare two model versions: accuracy on each task, classes, data, parameters.

    Example: `lorax diff 2 3`
    """
    from lorax.commands import diff as told

    record = told.record(*opened(), (first, second), err)
    if as_json:
        print_json(record)
    else:
        told.print_differences(record, out)


@version_commands.command()
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
    from lorax.commands import promotion

    if (to is None) != previous:
        raise typer.BadParameter("expected one of --to VERSION and --previous")
    _print(promotion.rollback(*opened(), to, who(), _given(reason), err), promotion.print_moved, as_json)


@version_commands.command()
def promote(version: Version, reason: Reason, as_json: Json = False) -> None:
    """Make a version champion by hand, whatever the gate said, once it has been seen to load and predict.

    Approves one that waits, overrules a refusal, and mends a champion's alias that was lost. What the champion of now
    knows beyond it is held. Example: `lorax promote 4 --reason "the old task is retired"`
    """
    from lorax.commands import promotion

    _print(promotion.promote(*opened(), version, who(), _given(reason), err), promotion.print_moved, as_json)


@version_commands.command()
def refuse(version: Version, reason: Reason, as_json: Json = False) -> None:
    """Refuse a version that waits for approval; its task is held.

    Example: `lorax refuse 4 --reason "too many false alarms on our photos"`
    """
    from lorax.commands import promotion

    _print(promotion.refuse(*opened(), version, who(), _given(reason), err), promotion.print_refused, as_json)


@version_commands.command()
def hold(
    task: Annotated[str, typer.Argument(help="A landed task that the champion does not know.")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Set a task aside: with the bytes that it has it is not learned until it is released, and the next one is.

    Example: `lorax hold gaugan --reason "its license is being asked for"`
    """
    from lorax.commands import promotion

    _print(promotion.hold(*opened(), task, who(), _given(reason), err), promotion.print_held, as_json)


@version_commands.command()
def release(
    task: Annotated[str, typer.Argument(help="A held task; see `lorax status`.")],
    reason: Why = "released by hand",
    as_json: Json = False,
) -> None:
    """Let a held task be learned again, with the bytes that it has.

    Example: `lorax release gaugan --reason "the data is right after all"`
    """
    from lorax.commands import promotion

    _print(promotion.release(*opened(), task, who(), reason, err), promotion.print_released, as_json)


@version_commands.command()
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
    from lorax.commands import learn as learning
    from lorax.commands import promotion

    workspace, params = opened(preset)
    moved = promotion.relearn(workspace, params, task, who(), reason, err)
    if not as_json:
        promotion.print_moved(moved, out)
    learned = learning.learn(workspace, params, preset, err) if learn else None
    if as_json:
        print_json(moved | {"learning": learned})
    elif learned is None:
        out.print("A worker learns it within two minutes, 'lorax learn' at once.")
    else:
        learning.print_outcomes(learned, out)


@version_commands.command()
def delete(
    version: Version,
    reason: Why = "deleted by hand",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a version that neither champion nor challenger grew from; its run with all figures stays.

    Example: `lorax delete 4 --yes`
    """
    from lorax.commands import promotion, running

    workspace, params = opened()
    registry = running.served_registry(workspace, params, err)
    if not yes:
        err.print(promotion.at_stake(promotion.deletion_at_stake(registry, version)), markup=False)
        typer.confirm(f"Delete version {version} for good?", abort=True, err=True)
    record = promotion.delete(workspace, params, registry, version, who(), reason)
    _print(record, promotion.print_deleted, as_json)


def _given(reason: str) -> str:
    if not reason.strip():
        raise typer.BadParameter("expected a text: it is all that will tell others why", param_hint="--reason")
    return reason.strip()


def _print(record: Mapping[str, Any], show: Callable[..., None], as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        show(record, out)
