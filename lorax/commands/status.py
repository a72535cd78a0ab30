"""`lorax status`: the champion, what is known, waiting, held, changed or broken, the runs, the data and the servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lorax.commands.console import Json, opened, print_record
from lorax.commands.learn import approval
from lorax.commands.services import way_in
from lorax.commands.tables import HEADLINES, TRUST, print_pairs, quarantine_line, quarantine_record, version_record
from lorax.errors import LoraxError, ServiceError
from lorax.text import minute, percent, short, size

if TYPE_CHECKING:
    from lorax.params import Params
    from lorax.registry import Look
    from lorax.services.embedded import Service, Services
    from lorax.services.prefect_api import PrefectApi, Row
    from lorax.stream import PinnedTask
    from lorax.workspace import Workspace


_QUEUE = "default"


def status(as_json: Json = False) -> None:
    """Show the champion, what is known, waiting, held, changed or broken, the data revision, and the servers.

    It shows what it can, with exit code 0, where the registry does not answer. Example: `lorax status --json`
    """
    print_record(record(*opened()), print_status, as_json)


def record(workspace: Workspace, params: Params) -> dict[str, Any]:
    """What `lorax status` says, for scripts.

    Where the registry can't tell, `error` says why, and all that only it knows is None or empty: `champion`, `known`,
    `waiting`, `approval`, `changed`, `held`. `broken` names what was deleted in MLflow itself, `unpushed` what has
    landed here and is in no upstream yet, and what the last push that failed said; `withdrawing` the tasks whose
    withdrawal was begun here and is not over. `runs` is None while Prefect's server does not answer.
    """
    from lorax import tidying
    from lorax.data import upstream, withdrawal
    from lorax.data import versions as data_versions
    from lorax.services import embedded

    landed, revision = data_versions.landed(workspace), data_versions.revision(workspace)
    services = embedded.status(workspace, params)
    known = _registry_record(workspace, params, services.mlflow, landed)
    return {
        "workspace": str(workspace.root),
        "landed": [task.name for task in landed],
        **known,
        "runs": _outlook(workspace, params, services, known),
        "data": {"digest": revision.digest, "commit": revision.commit},
        "unpushed": {"tasks": upstream.unpushed(workspace), "why": upstream.why_unpushed(workspace)},
        "withdrawing": withdrawal.under_way(workspace),
        "work": {"bytes": tidying.size(workspace.work_dir)},
        "services": {s.name: _service(s) for s in (services.prefect, services.mlflow)},
        "helpers": dict(services.helpers),
    }


def print_status(record: Mapping[str, Any], out: Console) -> None:
    """The same for people."""
    champion = record["champion"]
    rows = [("workspace", record["workspace"])]
    rows += [("broken", sentence) for sentence in record["broken"]]
    if record["error"] and not record["broken"]:
        rows.append(("error", record["error"]))
    if record["error"]:
        rows.append(("landed", ", ".join(record["landed"]) or "nothing yet"))
    else:
        number = f"version {champion['version']} (state {short(champion['state_digest'])})" if champion else "none yet"
        rows += [("champion", number), ("knows", ", ".join(record["known"]) or "nothing yet")]
        rows.append(("waiting", ", ".join(record["waiting"]) or "nothing to learn"))
    rows += _outlook_rows(record["runs"])
    rows += [("approval", approval(number)) for number in (record["approval"],) if number is not None]
    rows += [("withdrawn" if hold["is_withdrawn"] else "held", _held(hold)) for hold in record["held"]]
    rows += [("withdrawing", _withdrawing(task)) for task in record["withdrawing"]]
    rows += [("behind", f"{task} brings more of {base}, which is held") for task, base in record["behind"].items()]
    rows += [("changed", _changed(task)) for task in record["changed"]]
    rows.append(("data", f"{record['data']['digest'] or 'nothing landed'} (commit {short(record['data']['commit'])})"))
    if any(record["unpushed"].values()):
        rows.append(("unpushed", _unpushed(**record["unpushed"])))
    if champion:
        rows += [(title, percent(champion["metrics"][key])) for key, title in HEADLINES.items()]
        rows.append(("verdicts", "calibrated" if champion["calibrated"] else "uncalibrated"))
        known = {key: value for key, value in champion["metrics"].items() if key in TRUST}
        rows += [(TRUST[key], percent(value)) for key, value in known.items()]
        rows += _worst_slice(champion["metrics"])
    rows.append(("work/", size(record["work"]["bytes"])))
    for name, service in record["services"].items():
        state = f"up{way_in(service['auth_path'])}" if service["ready"] else "down"
        rows.append((name, f"{service['address']} ({state})"))
    for name, pid in {"worker": 0, **record["helpers"]}.items():
        rows.append((name, f"up (process {pid})" if pid else "none here: 'lorax up' starts it"))
    print_pairs(rows, out)


def _service(service: Service) -> dict[str, Any]:
    auth_path = str(service.auth_path) if service.auth_path else None
    return {"address": service.address, "ready": service.is_ready, "auth_path": auth_path}


def _registry_record(
    workspace: Workspace, params: Params, mlflow: Service, landed: tuple[PinnedTask, ...]
) -> dict[str, Any]:
    from lorax import reconcile

    told: dict[str, Any] = {
        "error": None, "broken": [], "champion": None, "known": [], "waiting": [], "approval": None,
        "behind": {}, "changed": [], "held": [],
    }  # fmt: skip
    try:
        registry = reconcile.look(workspace, params, mlflow)
        told["held"] = [quarantine_record(hold) for hold in registry.all_quarantined()]
        told["broken"] = registry.breakage()
        told |= _champion_record(workspace, registry, landed)
        told["broken"] += _lost_images(workspace, told["champion"])
        return told
    except LoraxError as error:
        return told | {"error": str(error)}


def _lost_images(workspace: Workspace, champion: Mapping[str, Any] | None) -> list[str]:
    """A sentence, where images are gone that the next episode would show again."""
    from lorax.data import memory
    from lorax.data import versions as data_versions

    lost = data_versions.lost(workspace, champion["state_digest"]) if champion else []
    if not lost:
        return []
    what = f"{len(lost)} exemplars or calibration images that version {champion['version'] if champion else ''} needs"
    cure = data_versions.cure(workspace, lost)
    return [f"{what} are nowhere to be had, so nothing can be learned on top of it: {memory.named(lost)}. {cure}"]


def _champion_record(workspace: Workspace, registry: Look, landed: tuple[PinnedTask, ...]) -> dict[str, Any]:
    from lorax import reconcile
    from lorax.data import versions as data_versions

    extensions = data_versions.extensions(workspace)
    champion, held, approval = registry.champion(), registry.quarantined(), registry.waiting()
    digests = {task.name: task.digest for task in landed}
    return {
        "champion": version_record(champion) if champion else None,
        "known": champion.names if champion else [],
        "waiting": [task.name for task in reconcile.missing_tasks(landed, champion, held, extensions)],
        "behind": reconcile.behind(landed, champion, held, extensions),
        "approval": approval.version if approval else None,
        "changed": [task.name for task in reconcile.changed_tasks(landed, champion)],
        "held": [quarantine_record(hold) | {"is_landed": hold.digest == digests.get(hold.task)} for hold in held],
    }


def _held(hold: Mapping[str, Any]) -> str:
    is_usual = hold["is_withdrawn"] or hold.get("is_landed", True)
    return quarantine_line(hold) + ("" if is_usual else "; other bytes have landed since, or none")


def _withdrawing(task: str) -> str:
    return f"{task}: begun, not over; the same command goes on with it: 'lorax withdraw {task} --reason TEXT'"


def _changed(task: str) -> str:
    return f"{task} landed with other bytes than were learned; to learn these: 'lorax relearn {task}'"


def _unpushed(tasks: Sequence[str], why: str) -> str:
    what = f"{', '.join(tasks)}: landed here, not in the upstream" if tasks else "the last push failed"
    return f"{what}; landing the same folder again pushes it. {why}".strip()


def _worst_slice(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Under what most of the other real photographs are called synthetic; nothing where none were looked at."""
    from lorax.registry.assessment_log import FALSE_POSITIVES

    slices = {name: value for name, value in metrics.items() if name.startswith(FALSE_POSITIVES)}
    if not slices:
        return []
    worst = max(slices, key=slices.__getitem__)
    return [("false positives, worst slice", f"{worst.removeprefix(FALSE_POSITIVES)} {percent(slices[worst])}")]


def _outlook(
    workspace: Workspace, params: Params, services: Services, known: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What Prefect's server knows of the runs of `learn`; None where it does not answer.

    Args:
        workspace, params: whose server.
        services: the servers and helpers as they are.
        known: what the registry says: the tasks that are `waiting`, the version that waits for `approval`.

    Returns:
        `last`: the run that ended last, and how; `now`: the one under way; `paused`: what a person has stopped, and how
        it goes on; `next`: what starts the next run.
    """
    from flows import deployment
    from lorax.services.prefect_api import PrefectApi

    if not services.prefect.is_ready:
        return None
    try:
        api = PrefectApi.of(workspace, params)
        last, alive, paused = deployment.last_ended(api), deployment.under_way(api), _paused(api)
        return {
            "last": _ended(last) if last else None,
            "now": _under_way(alive[0]) if alive else None,
            "paused": paused,
            "next": _next(api, last, alive, services.helpers, known),
        }
    except ServiceError:
        return None


def _outlook_rows(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The same for people: a title and a text each."""
    if found is None:
        return []
    told = []
    if last := found["last"]:
        why = "" if last["state"] == "completed" or not last["message"] else f": {last['message']}"
        told.append(("last run", f"{last['state']} {minute(last['at'])} ({last['name']}){why}"))
    if now := found["now"]:
        told.append(("this run", f"{now['state']} since {minute(now['since'])} ({now['name']})"))
    told += [("paused", sentence) for sentence in found["paused"]]
    return [*told, ("next run", found["next"])]


def _ended(run: Row) -> dict[str, Any]:
    message = (run["state"] or {}).get("message") or ""
    return {"name": run["name"], "state": run["state_name"].lower(), "at": run["end_time"], "message": message}


def _under_way(run: Row) -> dict[str, Any]:
    since = (run["state"] or {}).get("timestamp") or run["created"]
    return {"name": run["name"], "state": run["state_name"].lower(), "since": since}


def _paused(api: PrefectApi) -> list[str]:
    """What was paused on Prefect's page or by its commands."""
    from flows import deployment

    known, pool = deployment.find(api), api.get(f"work_pools/{deployment.POOL}")
    queue = api.get(f"work_pools/{deployment.POOL}/queues/{_QUEUE}")
    told = []
    if pool and pool["is_paused"]:
        told.append(
            f"the work pool {deployment.POOL!r}: no run begins until 'prefect work-pool resume {deployment.POOL}'"
        )
    if queue and queue["is_paused"] and not (pool and pool["is_paused"]):
        resume = f"prefect work-queue resume {_QUEUE} --pool {deployment.POOL}"
        told.append(f"the work queue {_QUEUE!r}: no run begins until '{resume}'")
    if known and known["paused"]:
        told.append(
            f"the deployment {deployment.NAME!r}: its schedule makes no runs until it is resumed on Prefect's page"
        )
    return told


def _next(
    api: PrefectApi, last: Row | None, alive: list[Row], helpers: Mapping[str, int], known: Mapping[str, Any]
) -> str:
    """What starts the next run, in a sentence."""
    from flows import deployment

    pool = api.get(f"work_pools/{deployment.POOL}")
    if pool is None or pool["status"] == "NOT_READY":
        return "none before a worker runs: 'lorax up' starts one"
    if alive:
        return "after this one, where there is more to learn"
    if known["approval"]:
        return f"after version {known['approval']} is promoted or refused"
    scheduled = deployment.next_scheduled(api)
    schedule = f"the schedule, {minute(scheduled['expected_start_time'])}" if scheduled else "no schedule"
    if not known["waiting"]:
        return f"the next landing; {schedule}"
    if not helpers.get("announcer"):
        return f"{schedule}; or 'lorax up'" if scheduled else "'lorax up'"
    if last and last["state_type"] == "CANCELLED":
        return f"{schedule}; the announcer makes none for what a cancelled run left, until there is more to learn"
    if last and last["state_type"] == "FAILED":
        return f"the announcer, after one to fifteen minutes, the longer the more have failed; {schedule}"
    return f"the announcer, within two minutes; {schedule}"
