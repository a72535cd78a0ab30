"""Landings on a real Prefect server with a real worker, as `lorax up` starts them: what begins, what kills do.

One workspace is used from top to bottom: the tests of this file run in order, each finding what the last one left.
"""

from __future__ import annotations

import io
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from flows import announcer, deployment
from flows.announcer import Announcer
from flows.deployment import under_way
from lorax import reconcile
from lorax.commands import land as landing
from lorax.commands import services, status
from lorax.commands.init import initialize, with_values
from lorax.data.admission import DEFAULTS
from lorax.data.landing import land as land_silently
from lorax.errors import ServiceError
from lorax.params import Params, load_params
from lorax.services import embedded, orphans, prefect_api, supervision
from lorax.services.prefect_api import PrefectApi, Row
from lorax.workspace import Workspace
from tests.conftest import write_task_files
from tests.mlflow_server import free_port
from tests.registry.conftest import OPEN
from tests.tiny_learner import tiny_params

# the servers alone take minutes to come up on a machine that is busy
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_S = 600.0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """An empty workspace with a tiny backbone, its servers and its worker; all is stopped in the end."""
    folder = tmp_path_factory.mktemp("worker")
    workspace = initialize(
        folder / "a 41%41 # workspace", values={"services": {"prefect_port": free_port(), "mlflow_port": free_port()}}
    )
    path = workspace.params_path
    changes = {
        **tiny_params(folder).learning(),
        "landing": {"min_train": 1, "min_val": 1, "drop_dir": "../drop"},
        "gate": OPEN.model_dump(),
        "robustness": {"per_class": 0},  # half of such an episode's seconds otherwise
    }
    path.write_text(with_values(path.read_text(), changes))
    before = dict(os.environ)
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "LORAX_EMBEDDED"):
        os.environ.pop(name, None)
    try:
        services.start(workspace, params_of(workspace))
        yield workspace
    finally:
        embedded.down(workspace)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def api(workspace: Workspace) -> PrefectApi:
    return PrefectApi.of(workspace, params_of(workspace))


@pytest.fixture(scope="module")
def dead_run(api: PrefectApi) -> Row:
    return pretend_to_be(api, "RUNNING")


@pytest.fixture(scope="module")
def run_half_cancelled(api: PrefectApi) -> Row:
    return pretend_to_be(api, "CANCELLING")


def params_of(workspace: Workspace) -> Params:
    return load_params(workspace.params_path)


def land(workspace: Workspace, name: str, seed: int) -> None:
    source = write_task_files(workspace.root.parent / "raw" / name, {"0_real": 3, "1_fake": 3}, seed=seed, side=20)
    assert landing.land_one(workspace, source, name, DEFAULTS, None, commit=True)["landed"]


def known(workspace: Workspace) -> list[str]:
    champion = reconcile.open_registry(workspace, params_of(workspace)).champion()
    return [task.name for task in champion.tasks] if champion else []


def runs(api: PrefectApi) -> list[Row]:
    """Runs of `learn` that were begun, the oldest first."""
    found = api.rows("flow_runs/filter", {"flows": {"name": {"any_": ["learn"]}}, "sort": "EXPECTED_START_TIME_ASC"})
    return [run for run in found if run["state_type"] != "SCHEDULED" and run["deployment_id"]]


def until(condition: Callable[[], Any]) -> Any:
    """Wait until `condition` holds; returns what it said."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)
    return found


def is_idle(api: PrefectApi) -> bool:
    waiting = [
        r for r in api.rows("flow_runs/filter", {}) if r["state_type"] == "SCHEDULED" and not r["auto_scheduled"]
    ]
    return not waiting and all(run["end_time"] for run in runs(api))


def processes(workspace: Workspace, service: str) -> list[psutil.Process]:
    """A service's processes, without what they run for a moment, such as git."""
    found = orphans.find(str(workspace.services_dir), service)
    pids, first = {process.pid for process in found}, []
    for process in found:
        with suppress(psutil.NoSuchProcess):
            first += [process] if process.ppid() not in pids else []
    return first


def test_landings_the_last_by_the_drop_folder_start_runs_by_themselves_which_learn_each_task_once_and_in_order(
    workspace: Workspace, api: PrefectApi, dead_run: Row, run_half_cancelled: Row
) -> None:
    land(workspace, "alpha", seed=1)
    announcer.emit(workspace, ["alpha"])
    folder = write_task_files(workspace.root.parent / "drop" / "beta", {"0_real": 3, "1_fake": 3}, seed=2, side=20)
    (folder / "_READY").touch()
    until(lambda: known(workspace) == ["alpha", "beta"])
    until(lambda: is_idle(api))
    versions = reconcile.open_registry(workspace, params_of(workspace)).versions()
    assert [version.task for version in versions] == ["alpha", "beta"]
    assert {run["state_type"] for run in runs(api)} == {"COMPLETED"}
    assert {run["parameters"]["task"] for run in runs(api)} == {"alpha", "beta"}
    assert "/" not in str([run["job_variables"] for run in runs(api)])
    told = {row["key"]: row["data"] for row in api.rows("artifacts/filter", {})}
    assert told["landing-alpha"].startswith("# alpha: accepted")


def test_no_path_of_the_workspace_is_kept_on_the_server(workspace: Workspace, api: PrefectApi) -> None:
    found = deployment.find(api)
    assert found is not None
    assert workspace.root.name not in str(found)
    assert found["global_concurrency_limit"]["limit"] == 1


@pytest.mark.parametrize("variables", [{"command": "true"}, {"env": {"PYTHONPATH": "."}}, {"working_dir": "."}])
def test_a_request_for_a_run_can_set_nothing_of_its_process(api: PrefectApi, variables: dict[str, Any]) -> None:
    found = deployment.find(api)
    assert found is not None
    wanted = {"state": {"type": "SCHEDULED"}, "job_variables": variables}
    with pytest.raises(ServiceError, match=r"refused .*create_flow_run: 4"):
        api.post(f"deployments/{found['id']}/create_flow_run", wanted)


def test_up_again_deploys_nothing_and_starts_nothing(workspace: Workspace, api: PrefectApi) -> None:
    before = deployment.find(api), len(runs(api)), embedded.status(workspace, params_of(workspace)).helpers
    found = services.start(workspace, params_of(workspace))
    after = deployment.find(api)
    assert after is not None
    assert (after["updated"], len(runs(api)), found.helpers) == (before[0]["updated"], *before[1:])
    assert set(found.helpers) == {"worker", "announcer", "watcher"}


def test_a_killed_flow_is_marked_crashed_at_once_and_another_run_goes_on_where_it_was(
    workspace: Workspace, api: PrefectApi
) -> None:
    path = workspace.params_path
    path.write_text(with_values(path.read_text(), {"training": {"epochs": 150}}))  # long enough to be killed in
    land(workspace, "epsilon", seed=5)
    until(lambda: checkpoints(workspace))
    [flow] = processes(workspace, "flow")
    [run] = [run for run in runs(api) if run["state_type"] == "RUNNING"]
    flow.kill()
    assert until(lambda: state_of(api, run)["type"] == "CRASHED")
    assert until(lambda: [p for p in processes(workspace, "flow") if p.pid != flow.pid])


def test_a_killed_worker_is_restarted_and_leaves_the_running_flow_alone(workspace: Workspace, api: PrefectApi) -> None:
    until(lambda: [run for run in runs(api) if run["state_type"] == "RUNNING"])
    [run] = [run for run in runs(api) if run["state_type"] == "RUNNING"]
    [flow], [worker] = processes(workspace, "flow"), processes(workspace, "worker")
    worker.kill()
    until(lambda: [p for p in processes(workspace, "worker") if p.pid != worker.pid])
    assert flow.is_running()
    path = workspace.params_path
    path.write_text(with_values(path.read_text(), {"training": {"epochs": 2}}))  # of what is learned after it
    until(lambda: "epsilon" in known(workspace))
    until(lambda: is_idle(api))
    assert state_of(api, run)["type"] == "COMPLETED"
    versions = reconcile.open_registry(workspace, params_of(workspace)).versions()
    assert [version.task for version in versions].count("epsilon") == 1


def test_a_checkout_that_lacks_the_landing_is_an_error_that_is_tried_again(
    workspace: Workspace, api: PrefectApi
) -> None:
    found = deployment.find(api)
    assert found is not None
    body = {"parameters": {"task": "omega", "digest": "0" * 32, "commit": "c" * 40}, "state": {"type": "SCHEDULED"}}
    run = api.post(f"deployments/{found['id']}/create_flow_run", body)
    assert run is not None
    query = {"logs": {"flow_run_id": {"any_": [run["id"]]}}}
    said = until(lambda: [log["message"] for log in api.rows("logs/filter", query) if "Retry 1/5" in log["message"]])[0]
    assert f"lacks the landing that it is to learn: expected commit {'c' * 40}" in said
    api.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: state_of(api, run)["type"] == "CANCELLED")  # else its slot would be held on


def test_a_run_whose_heartbeat_stopped_is_marked_crashed_within_two_minutes(api: PrefectApi, dead_run: Row) -> None:
    until(lambda: state_of(api, dead_run)["type"] == "CRASHED")
    state = state_of(api, dead_run)
    assert "no heartbeat for 90 s" in state["message"]
    assert ended_after(api, dead_run, "heartbeat") < timedelta(seconds=120)


def test_a_cancelled_run_whose_worker_is_gone_is_cancelled_within_two_minutes(
    api: PrefectApi, run_half_cancelled: Row
) -> None:
    until(lambda: state_of(api, run_half_cancelled)["type"] == "CANCELLED")
    assert ended_after(api, run_half_cancelled, "Cancelling") < timedelta(seconds=120)


def test_runs_are_made_where_one_is_needed_and_no_more_than_that(workspace: Workspace, api: PrefectApi) -> None:
    """Nothing is told of the landing; the worker and the workspace's own announcer do not run meanwhile."""
    supervision.stop_programs(workspace.services_dir, {"worker", "announcer"})
    source = write_task_files(workspace.root.parent / "raw" / "eta", {"0_real": 3, "1_fake": 3}, seed=7, side=20)
    land_silently(workspace, source, "eta")
    announcer, other = Announcer(workspace), Announcer(workspace)
    assert announcer.look().startswith("eta waits: made the run")
    assert [look.look().endswith("is under way") for look in (announcer, other)] == [True, True]
    [run] = under_way(api)
    end(api, run, "FAILED")
    assert announcer.look() == "eta waits; another run is made later", "a minute after that one's beginning"
    announcer._since -= timedelta(seconds=61)
    assert announcer.look().startswith("eta waits: made the run")
    end(api, under_way(api)[0], "COMPLETED")
    announcer._since -= timedelta(seconds=61)
    assert announcer.look() == "eta waits; another run is made later", "the longer, the more runs were in vain"
    announcer._since -= timedelta(seconds=61)
    assert announcer.look().startswith("eta waits: made the run")
    end(api, under_way(api)[0], "CANCELLED")
    announcer._since -= timedelta(minutes=16)
    assert "was cancelled" in announcer.look()
    assert under_way(api) == []


def test_a_run_that_is_slow_to_begin_is_vouched_for_while_its_process_lives(
    workspace: Workspace, api: PrefectApi
) -> None:
    """Its imports alone may take minutes on a machine that is busy with other work."""
    run = deployment.start_run(api, key="slow to begin")
    marks = {orphans.FOLDER_VARIABLE: str(workspace.services_dir), orphans.SERVICE_VARIABLE: embedded.FLOW}
    announcer = Announcer(workspace)
    announcer.look()  # the first sends one for each run that is then pending
    end(api, run, "PENDING")
    announcer.look()
    assert heartbeats(api, run) == []
    slow = subprocess.Popen(["sleep", "60"], env={**os.environ, **marks, "PREFECT__FLOW_RUN_ID": run["id"]})
    try:
        announcer.look()
        assert until(lambda: heartbeats(api, run))
    finally:
        slow.kill()
        slow.wait()
        end(api, run, "CANCELLED")


def test_status_tells_how_the_last_run_ended_what_is_paused_and_what_starts_the_next(
    workspace: Workspace, api: PrefectApi
) -> None:
    told = status.record(workspace, params_of(workspace))["runs"]
    assert (told["last"]["state"], told["now"], told["paused"]) == ("cancelled", None, [])
    assert told["next"].startswith("the schedule, 20"), "neither announcer nor event will"
    api.change("PATCH", "work_pools/gpu", {"is_paused": True})
    deployment.start_run(api, key="paused")
    said = Console(record=True, width=200, file=io.StringIO())
    status.print_status(status.record(workspace, params_of(workspace)), said)
    text = said.export_text()
    assert "no run begins until 'prefect work-pool resume gpu'" in text
    assert "this run" in text
    api.change("PATCH", "work_pools/gpu", {"is_paused": False})
    end(api, under_way(api)[0], "CANCELLED")


def test_two_announcers_at_one_server_make_one_run(workspace: Workspace, api: PrefectApi) -> None:
    first, second = (deployment.start_run(api, key="the last run, what is needed") for _ in range(2))
    assert first["id"] == second["id"]
    end(api, first, "CANCELLED")


def test_up_waits_for_a_server_that_leaves_questions_unanswered_for_a_while(
    workspace: Workspace, api: PrefectApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = psutil.Process(embedded.status(workspace, params_of(workspace)).prefect.pid)
    monkeypatch.setattr(prefect_api, "PATIENCE_S", 0.5)
    server.suspend()  # as a machine does that is busy with other work
    later = threading.Timer(2.0, server.resume)
    later.start()
    try:
        services.have_work_done(workspace, params_of(workspace), api)
        assert not later.is_alive()
    finally:
        later.cancel()
        server.resume()


def test_down_ends_worker_and_flow_and_what_was_landed_meanwhile_is_learned_at_the_next_up(
    workspace: Workspace, api: PrefectApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    down_in_the_middle_of_up(workspace, monkeypatch)
    assert orphans.find(str(workspace.services_dir)) == []
    source = write_task_files(workspace.root.parent / "raw" / "zeta", {"0_real": 3, "1_fake": 3}, seed=6, side=20)
    landing.land_one(workspace, source, "zeta", DEFAULTS, None, commit=True)
    assert "not announced: Prefect's server at" in capsys.readouterr().err
    services.start(workspace, params_of(workspace))
    until(lambda: known(workspace)[-2:] == ["eta", "zeta"])
    until(lambda: is_idle(api))  # a flow that is ended in its middle takes longer than its end


def end(api: PrefectApi, run: Row, state: str) -> None:
    api.post(f"flow_runs/{run['id']}/set_state", {"state": {"type": state}, "force": True})


def test_the_schedule_starts_a_run_with_no_event(workspace: Workspace, api: PrefectApi) -> None:
    path = workspace.root / "prefect.yaml"
    path.write_text(path.read_text().replace("interval: 900", "interval: 5"))
    services.start(workspace, params_of(workspace))
    until(lambda: [run for run in runs(api) if run["auto_scheduled"] and run["state_type"] == "COMPLETED"])


def down_in_the_middle_of_up(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lorax down` as `lorax up` is between the servers and the worker, which it would leave without them."""
    down, keep = threading.Thread(target=services.stop, args=(workspace,)), embedded.keep

    def keep_late(*arguments: Any) -> None:
        down.start()
        down.join(3.0)
        keep(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "keep", keep_late)
        services.start(workspace, params_of(workspace))
    down.join()


def checkpoints(workspace: Workspace) -> list[Path]:
    return list(workspace.episodes_dir.glob("*/training.safetensors"))


def state_of(api: PrefectApi, run: Row) -> Row:
    found = api.get(f"flow_runs/{run['id']}")
    assert found is not None
    state: Row = found["state"]
    return state


def ended_after(api: PrefectApi, run: Row, event: str) -> timedelta:
    """How long after the last such event of a run it ended; each `lorax up` sends one, and so begins the watch anew."""
    last = events_of(api, run, event)[0]
    return datetime.fromisoformat(state_of(api, run)["timestamp"]) - datetime.fromisoformat(last["occurred"])


def heartbeats(api: PrefectApi, run: Row) -> list[Row]:
    return events_of(api, run, "heartbeat")


def events_of(api: PrefectApi, run: Row, event: str) -> list[Row]:
    """The last such event of a run, if there is one."""
    query = {
        "filter": {
            "event": {"name": [f"prefect.flow-run.{event}"]},
            "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
            "order": "DESC",
        },
        "limit": 1,
    }
    found = api.post("events/filter", query)
    assert found is not None
    return list(found["events"])


def pretend_to_be(api: PrefectApi, state: str) -> Row:
    """A run of `learn` in a state on the server that has no process, as after a loss of power; then `lorax up`."""
    found = deployment.find(api)
    assert found is not None
    run = api.post("flow_runs/", {"name": "dead", "flow_id": found["flow_id"], "state": {"type": state}})
    assert run is not None
    announcer.expect_heartbeats(api)
    return run
