"""How the last run ended, what is in the way of the next, and what will start it: a part of `lorax status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows import deployment, runs, worker
from flows.client import PrefectApi, Row
from lorax.errors import ServiceError
from lorax.params import Params
from lorax.services.embedded import Services
from lorax.workspace import Workspace

_QUEUE = "default"


def record(workspace: Workspace, params: Params, found: Services, *, is_waiting: bool) -> dict[str, Any] | None:
    """What Prefect's server knows of the runs of `learn`; None where it does not answer.

    Args:
        workspace, params: whose server.
        found: the servers and helpers as they are.
        is_waiting: whether there is something to learn.

    Returns:
        `last`: the run that ended last, and how; `now`: the one under way; `paused`: what a person has stopped, and how
        it goes on; `next`: what starts the next run.
    """
    if not found.prefect.is_ready:
        return None
    try:
        api = PrefectApi.of(workspace, params)
        last, alive, paused = runs.last_ended(api), runs.under_way(api), _paused(api)
        return {
            "last": _ended(last) if last else None,
            "now": _under_way(alive[0]) if alive else None,
            "paused": paused,
            "next": _next(api, last, alive, found.helpers, is_waiting=is_waiting),
        }
    except ServiceError:
        return None


def rows(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The same for people: a title and a text each."""
    if found is None:
        return []
    told = []
    if last := found["last"]:
        why = "" if last["state"] == "completed" or not last["message"] else f": {last['message']}"
        told.append(("last run", f"{last['state']} {_minute(last['at'])} ({last['name']}){why}"))
    if now := found["now"]:
        told.append(("this run", f"{now['state']} since {_minute(now['since'])} ({now['name']})"))
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
    known, pool = deployment.find(api), api.get(f"work_pools/{worker.POOL}")
    queue = api.get(f"work_pools/{worker.POOL}/queues/{_QUEUE}")
    told = []
    if pool and pool["is_paused"]:
        told.append(f"the work pool {worker.POOL!r}: no run begins until 'prefect work-pool resume {worker.POOL}'")
    if queue and queue["is_paused"] and not (pool and pool["is_paused"]):
        resume = f"prefect work-queue resume {_QUEUE} --pool {worker.POOL}"
        told.append(f"the work queue {_QUEUE!r}: no run begins until '{resume}'")
    if known and known["paused"]:
        told.append(
            f"the deployment {deployment.NAME!r}: its schedule makes no runs until it is resumed on Prefect's page"
        )
    return told


def _next(api: PrefectApi, last: Row | None, alive: list[Row], helpers: Mapping[str, int], *, is_waiting: bool) -> str:
    """What starts the next run, in a sentence."""
    pool = api.get(f"work_pools/{worker.POOL}")
    if pool is None or pool["status"] == "NOT_READY":
        return "none before a worker runs: 'lorax up' starts one"
    if alive:
        return "after this one, where there is more to learn"
    scheduled = runs.next_scheduled(api)
    schedule = f"the schedule, {_minute(scheduled['expected_start_time'])}" if scheduled else "no schedule"
    if not is_waiting:
        return f"the next landing; {schedule}"
    if not helpers.get("announcer"):
        return f"{schedule}; or 'lorax up'" if scheduled else "'lorax up'"
    if last and last["state_type"] == "CANCELLED":
        return f"{schedule}; the announcer makes none for what a cancelled run left, until there is more to learn"
    if last and last["state_type"] == "FAILED":
        return f"the announcer, after one to fifteen minutes, the longer the more have failed; {schedule}"
    return f"the announcer, within two minutes; {schedule}"


def _minute(text: str) -> str:
    return text[:16].replace("T", " ")
