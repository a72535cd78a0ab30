"""`lorax status`: the champion, what is known, waiting, held, changed or broken, the runs, the data and the servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorax import reconcile
from lorax.commands import outlook
from lorax.commands.learn import approval
from lorax.commands.records import hold_line, hold_record, version_record
from lorax.commands.tables import HEADLINES, TRUST, print_table, way_in
from lorax.data import memory, upstream
from lorax.data import versions as data_versions
from lorax.data.versions import LandedTask
from lorax.errors import LoraxError
from lorax.params import Params
from lorax.registry import Look
from lorax.registry.trust import FALSE_POSITIVES
from lorax.services import embedded
from lorax.services.embedded import Service
from lorax.workspace import Workspace


def record(workspace: Workspace, params: Params) -> dict[str, Any]:
    """What `lorax status` says, for scripts.

    Where the registry can't tell, `error` says why, and all that only it knows is None or empty: `champion`, `known`,
    `waiting`, `approval`, `changed`, `held`. `broken` names what was deleted in MLflow itself, `unpushed` what has
    landed here and is in no upstream yet, and what the last push that failed said. `runs` is None while Prefect's
    server does not answer.
    """
    landed, revision = data_versions.landed(workspace), data_versions.revision(workspace)
    found = embedded.status(workspace, params)
    known = _registry_record(workspace, params, found.mlflow, landed)
    return {
        "workspace": str(workspace.root),
        "landed": [task.name for task in landed],
        **known,
        "runs": outlook.record(workspace, params, found, is_waiting=bool(known["waiting"])),
        "data": {"digest": revision.digest, "commit": revision.commit},
        "unpushed": {"tasks": upstream.unpushed(workspace), "why": upstream.why_unpushed(workspace)},
        "services": {s.name: _service(s) for s in (found.prefect, found.mlflow)},
        "helpers": dict(found.helpers),
    }


def print_status(found: Mapping[str, Any], out: Console) -> None:
    """The same for people."""
    champion = found["champion"]
    rows = [("workspace", found["workspace"])]
    rows += [("broken", sentence) for sentence in found["broken"]]
    if found["error"] and not found["broken"]:
        rows.append(("error", found["error"]))
    if found["error"]:
        rows.append(("landed", ", ".join(found["landed"]) or "nothing yet"))
    else:
        number = f"version {champion['version']} (state {champion['state_digest'][:12]})" if champion else "none yet"
        rows += [("champion", number), ("knows", ", ".join(found["known"]) or "nothing yet")]
        rows.append(("waiting", ", ".join(found["waiting"]) or "nothing to learn"))
    rows += outlook.rows(found["runs"])
    rows += [("approval", approval(number)) for number in (found["approval"],) if number is not None]
    rows += [("held", _held(hold)) for hold in found["held"]]
    rows += [("changed", _changed(task)) for task in found["changed"]]
    rows.append(("data", f"{found['data']['digest'] or 'nothing landed'} (commit {_short(found['data']['commit'])})"))
    if found["unpushed"]["tasks"]:
        rows.append(("unpushed", _unpushed(**found["unpushed"])))
    if champion:
        rows += [(title, f"{100 * champion['metrics'][key]:.1f} %") for key, title in HEADLINES.items()]
        rows.append(("verdicts", "calibrated" if champion["calibrated"] else "uncalibrated"))
        known = {key: value for key, value in champion["metrics"].items() if key in TRUST}
        rows += [(TRUST[key], f"{100 * value:.1f} %") for key, value in known.items()]
        rows += _worst_slice(champion["metrics"])
    for name, service in found["services"].items():
        state = f"up{way_in(service['auth_path'])}" if service["ready"] else "down"
        rows.append((name, f"{service['address']} ({state})"))
    for name, pid in {"worker": 0, **found["helpers"]}.items():
        rows.append((name, f"up (process {pid})" if pid else "none here: 'lorax up' starts it"))
    table = Table.grid(padding=(0, 3))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    print_table(table, out)


def _service(found: Service) -> dict[str, Any]:
    auth_path = str(found.auth_path) if found.auth_path else None
    return {"address": found.address, "ready": found.is_ready, "auth_path": auth_path}


def _registry_record(
    workspace: Workspace, params: Params, mlflow: Service, landed: tuple[LandedTask, ...]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "error": None, "broken": [], "champion": None, "known": [], "waiting": [], "approval": None,
        "changed": [], "held": [],
    }  # fmt: skip
    try:
        registry = reconcile.look(workspace, params, mlflow)
        told["held"] = [hold_record(hold) for hold in registry.all_holds()]
        told["broken"] = registry.breakage()
        told |= _champion_record(registry, landed)
        told["broken"] += _lost_images(workspace, told["champion"])
        return told
    except LoraxError as error:
        return told | {"error": str(error)}


def _lost_images(workspace: Workspace, champion: Mapping[str, Any] | None) -> list[str]:
    """A sentence, where images are gone that the next episode would show again."""
    lost = data_versions.lost(workspace, champion["state_digest"]) if champion else []
    if not lost:
        return []
    what = f"{len(lost)} exemplars or calibration images that version {champion['version'] if champion else ''} needs"
    cure = data_versions.cure(workspace, lost)
    return [f"{what} are nowhere to be had, so nothing can be learned on top of it: {memory.named(lost)}. {cure}"]


def _champion_record(registry: Look, landed: tuple[LandedTask, ...]) -> dict[str, Any]:
    champion, held, approval = registry.champion(), registry.held(), registry.waiting()
    digests = {task.name: task.digest for task in landed}
    return {
        "champion": version_record(champion) if champion else None,
        "known": [task.name for task in champion.tasks] if champion else [],
        "waiting": [task.name for task in reconcile.missing_tasks(landed, champion, held)],
        "approval": approval.version if approval else None,
        "changed": [task.name for task in reconcile.changed_tasks(landed, champion)],
        "held": [hold_record(hold) | {"is_landed": hold.digest == digests.get(hold.task)} for hold in held],
    }


def _held(hold: Mapping[str, Any]) -> str:
    return hold_line(hold) + ("" if hold.get("is_landed", True) else "; other bytes have landed since, or none")


def _changed(task: str) -> str:
    return f"{task} landed with other bytes than were learned; to learn these: 'lorax relearn {task}'"


def _unpushed(tasks: Sequence[str], why: str) -> str:
    names = ", ".join(tasks)
    return f"{names}: landed here, not in the upstream; landing the same folder again pushes it. {why}".strip()


def _worst_slice(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Under what most of the other real photographs are called synthetic; nothing where none were looked at."""
    slices = {name: value for name, value in metrics.items() if name.startswith(FALSE_POSITIVES)}
    if not slices:
        return []
    worst = max(slices, key=slices.__getitem__)
    return [("their worst slice", f"{worst.removeprefix(FALSE_POSITIVES)} {100 * slices[worst]:.1f} %")]


def _short(commit: str | None) -> str:
    return (commit or "none")[:12]
