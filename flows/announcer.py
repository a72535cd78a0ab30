"""What has runs made: a landing tells Prefect's server of itself, and an announcer looks for what nobody told of.

`lorax up` has supervisord run `python -m flows.announcer` beside the worker. A landing's event starts its run sooner;
but an event is lost while Prefect's server restarts, a run fails when MLflow's does, and nobody is told of a released
task or of a push that a person mended. So nothing depends on what was told: what there is to learn is looked at again
and again, by a process that has everything imported, and a run is made only where something waits and none is about to.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from flows import deployment
from lorax import reconcile
from lorax.data import repository, upstream, versions
from lorax.errors import DataVersionError, LoraxError, ServiceError
from lorax.params import load_params
from lorax.services import embedded
from lorax.services.prefect_api import PrefectApi, Row
from lorax.stream import PinnedTask
from lorax.workspace import Workspace

LOOK_S = 10.0
FETCH_S = 60.0
"""Between two looks at git's upstream, which may be far away."""

_SETTLED = timedelta(seconds=20)
"""So long something new is left to its event, which has a run made within seconds."""

_AGAIN = timedelta(seconds=60)
"""From a run's beginning to the next for the same need; the longer, the more runs have left it as it was."""

_LEAST_OFTEN = timedelta(minutes=15)

_NO_QUESTIONS = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10"}


_LATER = "a worker learns it within two minutes ('lorax up' runs one), 'lorax learn' at once"


def announce(workspace: Workspace, tasks: Sequence[str]) -> str:
    """Tell Prefect's server that a landing is committed; returns a line for people, whatever happens."""
    try:
        emit(workspace, tasks)
    except ServiceError as error:
        return f"not announced: {error} It has landed all the same: {_LATER}."
    return "announced: a worker learns what is new ('lorax up' runs one)."


def emit(workspace: Workspace, tasks: Sequence[str]) -> None:
    """Have Prefect's server take the event `lorax.dataset.landed`, one for all tasks that one landing brought.

    It is posted to the server's API, which says whether it took it (a ServiceError, if not); Prefect's own `emit_event`
    never says.
    """
    revision, first = versions.revision(workspace), tasks[0]
    payload = {"task": first, "tasks": [*tasks], "digest": revision.digest, "commit": revision.commit or ""}
    of = {"prefect.resource.id": f"lorax.dataset.{first}", "prefect.resource.name": first}
    PrefectApi.of(workspace).emit("lorax.dataset.landed", of, payload=payload)


@dataclass(frozen=True)
class Need:
    """Why a run is needed: tasks that wait here, and the upstream's newest landing that the checkout lacks."""

    tasks: tuple[PinnedTask, ...]
    upstream: str

    def __bool__(self) -> bool:
        return bool(self.tasks or self.upstream)

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@dataclass
class Announcer:
    """Looks at a workspace, and remembers since when it has needed a run and how many that has had."""

    workspace: Workspace
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _need: Need | None = None
    _since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _made: int = 0
    _cancelled: tuple[str, Need | None] = ("", None)
    _server: int | None = -1
    _fetched: float = -FETCH_S
    _upstream: str = ""

    def look(self) -> str:
        """Have a run made if one is needed now; returns a line of what was found.

        Raises:
            LoraxError: what there is to learn can't be told, or Prefect's server does not answer.
        """
        params = load_params(self.workspace.params_path)
        api, services = PrefectApi.of(self.workspace, params), embedded.status(self.workspace, params)
        if not services.is_ready:
            self._server = -1
            return "the servers do not answer"
        if self._server != (services.prefect.pid or 0):  # a restarted one has forgotten whose heartbeat it waits for
            expect_heartbeats(api)
            self._server = services.prefect.pid or 0
        if alive := deployment.under_way(api):
            self._vouch_for(api, alive)
            return f"the run {alive[0]['name']!r} is under way"
        need = Need(tuple(reconcile.waiting_tasks(self.workspace, params)), self._lacking())
        last = deployment.last_ended(api)
        if need != self._need:  # what was there before this process is left to no event
            self._since = datetime.now(UTC) - (_SETTLED if self._need is None else timedelta(0))
            self._need, self._made = need, 0
        if not need:
            return "nothing to learn"
        if self._is_cancelled(last):
            return "the last run was cancelled; another comes with the schedule, or when there is more to learn"
        if datetime.now(UTC) < self._due(last):
            return f"{_told(need)} waits; another run is made later"
        run = deployment.start_run(api, key=f"{last['id'] if last else ''} {need.digest}")
        self._made, self._since = self._made + 1, datetime.now(UTC)
        return f"{_told(need)} waits: made the run {run['name']!r}"

    def _vouch_for(self, api: PrefectApi, alive: Iterable[Row]) -> None:
        """Have the server wait for a run that is slow to begin: marked as crashed it would lose its slot, and be ended
        by Prefect as soon as it begins, and so would the next one on a machine that is as busy."""
        if pending := [run for run in alive if run["state_type"] == "PENDING"]:
            here = embedded.flow_runs(self.workspace)
            for run in pending:
                if run["id"] in here:
                    _tell_of(api, run, deployment.NAME.split("/")[0], "heartbeat")

    def _lacking(self) -> str:
        """The upstream's newest landing that is not in the checkout; as of the last look that the upstream answered."""
        if time.monotonic() >= self._fetched + FETCH_S and repository.has_upstream(self.workspace.root):
            self._fetched = time.monotonic()
            try:
                upstream.fetch(self.workspace)
            except DataVersionError as error:  # far away; what waits here is learned all the same
                print(f"the upstream can't be looked at: {error}", flush=True)
            self._upstream = upstream.newest_landing(self.workspace.root) or ""
        elif self._upstream and repository.holds(self.workspace.root, self._upstream):
            self._upstream = ""
        return self._upstream

    def _is_cancelled(self, last: Row | None) -> bool:
        """Whether a person cancelled the last run and there is no more to learn than then."""
        if last is None or last["state_type"] != "CANCELLED" or deployment.time_of(last["end_time"]) < self.began:
            return False
        if self._cancelled[0] != last["id"]:
            self._cancelled = (last["id"], self._need)
        return self._cancelled[1] == self._need

    def _due(self, last: Row | None) -> datetime:
        """When a run is to be made for what is needed now."""
        if last is not None and last["state_type"] == "CRASHED":
            return deployment.time_of(last["start_time"] or last["created"]) + _AGAIN
        if self._made == 0:
            return self._since + _SETTLED
        doubled = 2.0 ** min(self._made - 1, 10)
        return self._since + min(_AGAIN * doubled, _LEAST_OFTEN)


def expect_heartbeats(api: PrefectApi) -> None:
    """Have every run that is under way watched from now on, as if it had just sent a heartbeat, or been cancelled.

    A server that was down for minutes has forgotten whose heartbeat it was waiting for, and a run that was killed
    meanwhile would be Running for ever.
    """
    state = {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}
    for flow in api.rows("flows/filter", {"flows": {"name": {"any_": deployment.FLOWS}}}):
        of_flow = {"flows": {"id": {"any_": [flow["id"]]}}, "flow_runs": {"state": state}}
        for run in api.rows("flow_runs/filter", of_flow):
            _tell_of(api, run, flow["name"], "Cancelling" if run["state_type"] == "CANCELLING" else "heartbeat")


def _tell_of(api: PrefectApi, run: Row, flow: str, event: str) -> None:
    """Post one of the events that Prefect itself posts of flow runs."""
    related = {"prefect.resource.role": "flow", "prefect.resource.id": f"prefect.flow.{run['flow_id']}"}
    of = {"prefect.resource.id": f"prefect.flow-run.{run['id']}"}
    api.emit(f"prefect.flow-run.{event}", of, related=[{**related, "prefect.resource.name": flow}])


def watch(workspace: Workspace) -> None:
    """Look for ever; a line is printed when it differs from the last."""
    announcer, said = Announcer(workspace), ""
    while True:
        try:
            now = announcer.look()
        except LoraxError as error:
            now = str(error)
        if now != said:
            print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {now}", flush=True)
        said = now
        time.sleep(LOOK_S)


def _told(need: Need) -> str:
    names = [task.name for task in need.tasks]
    return ", ".join([*names, f"the upstream's {need.upstream[:12]}"] if need.upstream else names)


if __name__ == "__main__":
    for name, value in _NO_QUESTIONS.items():
        os.environ.setdefault(name, value)
    watch(Workspace.find())
