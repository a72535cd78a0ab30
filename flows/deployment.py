"""What Prefect's server must know before a landing can start a run, and what it knows of runs.

That is prefect.yaml's deployment, and when a run is dead. All of it may be told any number of times; what is there
already is left alone. Whatever asks the server raises ServiceError where it does not answer, or refuses.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import prefect_yaml
from flows.client import PrefectApi, Row
from flows.worker import POOL
from lorax import __version__
from lorax.errors import ServiceError
from lorax.params import Params
from lorax.services import embedded
from lorax.storage import write_whole
from lorax.workspace import Workspace

NAME = "learn/learn"
"""Of the deployment: flow and deployment, as prefect.yaml has them."""

HEARTBEAT_LOST_S = 90
"""A run that has sent no heartbeat for so long (three of them) is dead."""

START_LOST_S = 110
"""A run that was given to a worker and did not begin in so long is dead."""

CANCEL_LOST_S = 60
"""A run that was cancelled is ended by its worker within seconds; after so long, the worker was stopped first."""

_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused", "Suspended")
_FLOWS = ["learn", "episode", "scenario"]


def deploy(workspace: Workspace, params: Params, api: PrefectApi) -> None:
    """`prefect deploy --all`, if prefect.yaml has changed or the server does not know the deployment.

    The workspace's own server learns first what runs may set of their processes.

    Raises:
        ServiceError: prefect.yaml asks for more than comes with lorax, Prefect refused, or its server does not answer.
    """
    path, done = workspace.root / "prefect.yaml", workspace.services_dir / "deployed.json"
    if not path.is_file():
        raise ServiceError(f"{path} is missing, so no worker knows what to run. 'lorax init .' writes it.")
    if embedded.status(workspace, params).prefect.is_embedded:
        prefect_yaml.check(path)
        _close_pool(api)
    wanted = {"server": api.url, "content": _digest(path)}
    if find(api) and _noted(done) == wanted:
        return
    command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"]
    environment = {**os.environ, **embedded.environment(workspace, params)}
    said = subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True)
    if find(api) is None or said.returncode != 0:  # the first says whether the server is there at all
        tail = "\n".join((said.stdout + said.stderr).strip().splitlines()[-6:])
        raise ServiceError(f"Prefect did not take {path} (expected a deployment {NAME!r}); it said:\n{tail}")
    write_whole(done, json.dumps(wanted))


def _close_pool(api: PrefectApi) -> None:
    """Have the pool refuse runs and deployments that set more of their processes than ours need."""
    path = f"work_pools/{POOL}"
    pool = api.get(path)
    if pool is not None and pool["base_job_template"] != prefect_yaml.POOL_TEMPLATE:
        api.change("PATCH", path, {"base_job_template": prefect_yaml.POOL_TEMPLATE})


def find(api: PrefectApi) -> Row | None:
    """The deployment as the server knows it."""
    return api.get(f"deployments/name/{NAME}")


def start_run(api: PrefectApi, key: str) -> Row:
    """Have a worker run the deployment as soon as one is free; returns the flow run.

    Args:
        api: Prefect's server.
        key: why it is needed; a second call with the same finds the first one's run.

    Raises:
        ServiceError: the server does not answer, or does not know the deployment.
    """
    known, wanted = find(api), {"state": {"type": "SCHEDULED"}, "idempotency_key": key}
    made = api.post(f"deployments/{known['id']}/create_flow_run", wanted) if known else None
    if made is None:
        raise ServiceError(f"Prefect's server at {api.url} knows no deployment {NAME!r}: run 'lorax up'.")
    return made


def mark_crashed(api: PrefectApi, run_id: str, message: str) -> None:
    """Mark a run, and the episode that it was in, as crashed, which frees its slot."""
    inside = {"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}, "state": {"type": {"any_": ["RUNNING"]}}}}
    for each in (run_id, *(row["id"] for row in api.rows("flow_runs/filter", inside))):
        state = {"type": "CRASHED", "name": "Crashed", "message": message}
        api.post(f"flow_runs/{each}/set_state", {"state": state, "force": True})


def watch_over_runs(api: PrefectApi) -> None:
    """Have the server mark runs whose process is gone as crashed, which frees their slot.

    A worker sees a flow's process end. When both are killed, nobody does, and the run would be Running for ever.
    """
    lost = _automation(
        "lorax: heartbeat lost",
        after=["heartbeat"],
        expect=["heartbeat", *_ENDS],
        within_s=HEARTBEAT_LOST_S,
        message=f"no heartbeat for {HEARTBEAT_LOST_S} s: its process was killed, or its machine",
    )
    never = _automation(
        "lorax: never began",
        after=["Pending"],
        expect=["heartbeat", "Running", "Scheduled", "AwaitingConcurrencySlot", "AwaitingRetry", "Late", *_ENDS],
        within_s=START_LOST_S,
        message=f"it did not begin within {START_LOST_S} s: its worker was killed, or its machine",
    )
    cancelling = _automation(
        "lorax: cancelling for ever",
        after=["Cancelling"],
        expect=["Completed", "Failed", "Crashed", "Cancelled"],
        within_s=CANCEL_LOST_S,
        message=f"it did not end within {CANCEL_LOST_S} s of being cancelled: its worker was stopped",
        state="CANCELLED",  # the only state that Prefect lets follow
    )
    automations = (lost, never, cancelling)
    query = {"automations": {"name": {"any_": [wanted["name"] for wanted in automations]}}}
    known = {row["name"]: row for row in api.rows("automations/filter", query)}
    for wanted in automations:
        automation = known.get(wanted["name"])
        if automation is None:
            api.post("automations/", wanted)
        elif automation["description"] != wanted["description"]:  # an update forgets the runs that are being watched
            api.change("PUT", f"automations/{automation['id']}", wanted)


def expect_heartbeats(api: PrefectApi) -> None:
    """Have every run that is under way watched from now on, as if it had just sent a heartbeat, or been cancelled.

    A server that was down for minutes has forgotten whose heartbeat it was waiting for, and a run that was killed
    meanwhile would be Running for ever.
    """
    state = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
    for flow in api.rows("flows/filter", {"flows": {"name": {"any_": _FLOWS}}}):
        of_flow = {"flows": {"id": {"any_": [flow["id"]]}}, "flow_runs": {"state": state}}
        for run in api.rows("flow_runs/filter", of_flow):
            _tell_of(api, run, flow["name"], "Cancelling" if run["state_type"] == "CANCELLING" else "heartbeat")


def vouch_for(api: PrefectApi, run: Row) -> None:
    """Send a heartbeat for a run of the deployment, whose process is seen to live but may not send any yet."""
    _tell_of(api, run, NAME.split("/")[0], "heartbeat")


def _tell_of(api: PrefectApi, run: Row, flow: str, event: str) -> None:
    """Post one of the events that Prefect itself posts of flow runs."""
    related = {"prefect.resource.role": "flow", "prefect.resource.id": f"prefect.flow.{run['flow_id']}"}
    of = {"prefect.resource.id": f"prefect.flow-run.{run['id']}"}
    api.emit(f"prefect.flow-run.{event}", of, related=[{**related, "prefect.resource.name": flow}])


def _automation(
    name: str, *, after: list[str], expect: list[str], within_s: int, message: str, state: str = "CRASHED"
) -> dict[str, Any]:
    """End each of our flow runs that shows none of `expect` within so many seconds after one of `after`."""
    trigger = {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": _FLOWS},
        "for_each": ["prefect.resource.id"],
        "after": [f"prefect.flow-run.{event}" for event in after],
        "expect": [f"prefect.flow-run.{event}" for event in expect],
        "threshold": 1,
        "within": within_s,
    }
    action = {"type": "change-flow-run-state", "state": state, "message": message}
    edition = hashlib.sha256(json.dumps([trigger, action]).encode()).hexdigest()[:8]
    description = f"Marks a run as {state.lower()}: {message}. Kept by 'lorax up' ({edition})."
    return {"name": name, "description": description, "enabled": True, "trigger": trigger, "actions": [action]}


def _noted(done: Path) -> Any:
    """What was deployed last; None where that can't be told, and it is deployed again."""
    try:
        return json.loads(done.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _digest(path: Path) -> str:
    """Of all that a deployment is made of: the file, and the flow's parameters, which come with the package."""
    code = Path(__file__).with_name("learn.py").read_bytes()
    return hashlib.sha256(path.read_bytes() + code + __version__.encode()).hexdigest()


_BEGUN = ["PENDING", "RUNNING", "CANCELLING", "PAUSED"]
ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
_MANY = 200


def under_way(api: PrefectApi) -> list[Row]:
    """Those that run, or are to run as soon as a worker and the one slot are free; the oldest first."""
    return [run for run in _of(api, ["SCHEDULED", *_BEGUN], "EXPECTED_START_TIME_ASC") if not _is_for_later(run)]


def next_scheduled(api: PrefectApi) -> Row | None:
    """The one that the schedule has begin next."""
    return next((run for run in _of(api, ["SCHEDULED"], "NEXT_SCHEDULED_START_TIME_ASC") if _is_for_later(run)), None)


def last_ended(api: PrefectApi) -> Row | None:
    """The one that ended last, however it ended."""
    return next(iter(_of(api, ENDED, "END_TIME_DESC", limit=1)), None)


def last_begun(api: PrefectApi) -> list[Row]:
    """Those that were begun last, the newest first."""
    return _of(api, [*_BEGUN, *ENDED], "EXPECTED_START_TIME_DESC", limit=20)


def time_of(text: Any) -> datetime:
    """A time in a row of Prefect's."""
    return datetime.fromisoformat(str(text))


def _of(api: PrefectApi, states: list[str], sort: str, limit: int = _MANY) -> list[Row]:
    flow, name = NAME.split("/")
    query = {
        "flows": {"name": {"any_": [flow]}},
        "deployments": {"name": {"any_": [name]}},
        "flow_runs": {"state": {"type": {"any_": states}}},
        "sort": sort,
        "limit": limit,
    }
    return api.rows("flow_runs/filter", query)


def _is_for_later(run: Row) -> bool:
    """Whether it is the schedule's, made ahead; one that waits for its slot or is late has another name of state."""
    due = run["next_scheduled_start_time"] or run["expected_start_time"]
    return run["auto_scheduled"] and run["state_name"] == "Scheduled" and time_of(due) > datetime.now(UTC)
