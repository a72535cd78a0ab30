"""`lorax hold` and `lorax release`: a task set aside by hand, and learned again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from lorax.commands import access
from lorax.commands.console import Json, opened, print_record, who
from lorax.commands.promotion import Reason, Why
from lorax.commands.records import print_quarantined, quarantine_line, quarantine_record
from lorax.errors import DataVersionError, LoraxError, RegistryError

if TYPE_CHECKING:
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
    if champion and task in {known.name for known in champion.tasks}:
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
