"""What Prefect's server must know before a landing can start a run, and what it knows of runs.

That is prefect.yaml's deployment, and when a run is dead. All of it may be told any number of times; what is there
already is left alone. Whatever asks the server raises ServiceError where it does not answer, or refuses.

prefect.yaml comes with a clone. Prefect would run its steps, flows and settings of processes as the user, so with the
workspace's own server it may only have run what comes with lorax; what goes beyond is for `prefect deploy` by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lorax import __version__
from lorax.errors import ServiceError, printable
from lorax.params import Params
from lorax.services import embedded, servers
from lorax.services.prefect_api import PrefectApi, Row
from lorax.storage import write_whole
from lorax.workspace import Workspace

NAME = "learn/learn"
"""Of the deployment: flow and deployment, as prefect.yaml has them."""

POOL = "gpu"
"""Of workers: where they look for runs."""

HEARTBEAT_LOST_S = 90
"""A run that has sent no heartbeat for so long (three of them) is dead."""

START_LOST_S = 110
"""A run that was given to a worker and did not begin in so long is dead."""

CANCEL_LOST_S = 60
"""A run that was cancelled is ended by its worker within seconds; after so long, the worker was stopped first."""

_ENDS = ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling", "Paused", "Suspended")
FLOWS = ["learn", "episode", "scenario", "scenario-episode", "sweep", "withdraw", "withdraw-episode"]
"""All that there are: runs of these are watched."""

_PULL = "prefect.deployments.steps.git_clone"
_OURS = "flows."
_ENVIRONMENT = (
    *("LORAX_SERVICE", "OMP_WAIT_POLICY", "DO_NOT_TRACK"),
    *("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_RESULTS_DEFAULT_SERIALIZER"),
)
_BY_HAND = (
    "Remove that; what you trust, deploy by hand from a file of its own: 'prefect deploy --all --prefect-file FILE'."
)

_POOL_TEMPLATE: Mapping[str, Any] = {
    "job_configuration": {"stream_output": "{{ stream_output }}", "env": "{{ env }}"},
    "variables": {
        "type": "object",
        "properties": {
            "stream_output": {"type": "boolean", "default": False},
            "env": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in _ENVIRONMENT},
                "additionalProperties": False,
                "default": {},
            },
        },
        "additionalProperties": False,
    },
}
"""What a run may set of its process. Prefect's own takes any command, folder and variable."""


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
        check(path)
        _close_pool(api)
    wanted = {"server": api.url, "content": _digest(path)}
    if find(api) and _noted(done) == wanted:
        return
    command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"]
    environment = {**os.environ, **servers.environment(workspace, params)}
    said = subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True)
    if find(api) is None or said.returncode != 0:  # the first says whether the server is there at all
        tail = "\n".join((said.stdout + said.stderr).strip().splitlines()[-6:])
        raise ServiceError(f"Prefect did not take {path} (expected a deployment {NAME!r}); it said:\n{tail}")
    write_whole(done, json.dumps(wanted))


def _close_pool(api: PrefectApi) -> None:
    """Have the pool refuse runs and deployments that set more of their processes than ours need."""
    path = f"work_pools/{POOL}"
    pool = api.get(path)
    if pool is not None and pool["base_job_template"] != _POOL_TEMPLATE:
        api.change("PATCH", path, {"base_job_template": _POOL_TEMPLATE})


def check(path: Path) -> None:
    """Make sure that nothing in prefect.yaml has other things run than what comes with lorax.

    Raises:
        ServiceError: something does, or the file can't be read.
    """
    for where, what in _unfit(_read(path)):
        raise ServiceError(f"{path} has {where} {printable(what)!r}, which could run anything here. {_BY_HAND}")


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("expected a mapping")
        parts = content.get("deployments") or []
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise ValueError("expected a list of mappings as 'deployments'")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ServiceError(
            f"{path} can't be read as Prefect's file ({printable(' '.join(str(error).split()))}). Restore it from git."
        ) from error
    return content


def _unfit(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is more than comes with lorax: where in the file, and what."""
    deployments = content.get("deployments") or []
    for part in (content, *deployments):
        for kind in ("build", "push", "pull"):
            yield from (
                (f"the {kind} step", step) for step in _steps(part.get(kind)) if (kind, step) != ("pull", _PULL)
            )
    for part in deployments:
        if not str(part.get("entrypoint", "")).startswith(_OURS):
            yield "the entrypoint", str(part.get("entrypoint", ""))
        pool = part.get("work_pool")
        variables = (pool.get("job_variables") if isinstance(pool, dict) else None) or {}
        yield from (("the job variable", str(name)) for name in variables if name not in ("env", "stream_output"))
        environment = variables.get("env") or {}
        yield from (("the variable", str(name)) for name in environment if name not in _ENVIRONMENT)


def _steps(listed: Any) -> list[str]:
    """The names of steps; of what is no list of them, its beginning."""
    if not listed:
        return []
    steps = listed if isinstance(listed, list) else [listed]
    return [str(name) for step in steps for name in (step if isinstance(step, dict) else [step])]


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


def _automation(
    name: str, *, after: list[str], expect: list[str], within_s: int, message: str, state: str = "CRASHED"
) -> dict[str, Any]:
    """End each of our flow runs that shows none of `expect` within so many seconds after one of `after`."""
    trigger = {
        "type": "event",
        "posture": "Proactive",
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {"prefect.resource.role": "flow", "prefect.resource.name": FLOWS},
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
