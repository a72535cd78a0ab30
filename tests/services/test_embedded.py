"""The embedded servers are real here: one pair is started for the whole file, in a folder with a difficult name."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lorax.errors import ServiceError, StorageError
from lorax.params import Params, ServicesParams
from lorax.services import embedded, orphans, servers, supervision
from lorax.services.prefect_api import PrefectApi
from lorax.workspace import Workspace
from tests.browser import STRANGER, Browser, browsing, page_of_a_stranger

pytestmark = pytest.mark.slow


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _params() -> Params:
    return Params(services=ServicesParams(prefect_port=_free_port(), mlflow_port=_free_port()))


def _eventually(condition: Callable[[], bool], patience_s: float = 90.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True


@pytest.fixture(autouse=True)
def no_addresses_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, Params]]:
    """Two `up` at once, as two impatient users would do it."""
    workspace = Workspace(tmp_path_factory.mktemp("a 41%41 # name"))
    params = _params()
    patch = pytest.MonkeyPatch()
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"):
        patch.delenv(name, raising=False)
    other = threading.Thread(target=embedded.up, args=(workspace, params))
    other.start()
    try:
        embedded.up(workspace, params)
        other.join()
        yield workspace, params
    finally:
        embedded.down(workspace)
        patch.undo()


def test_both_servers_answer_and_keep_everything_in_the_services_folder(running: tuple[Workspace, Params]) -> None:
    workspace, params = running
    found = embedded.status(workspace, params)
    assert found.is_ready
    assert (workspace.services_dir / "mlflow" / "mlflow.db").is_file()
    assert (workspace.services_dir / "prefect" / "prefect.db").is_file()
    assert found.mlflow.log_path is not None
    assert found.mlflow.log_path.is_file()
    assert urllib.request.urlopen(found.prefect.address, timeout=30).status == 200
    with urllib.request.urlopen(f"{found.prefect.address}/ui-settings", timeout=30) as answer:
        assert json.load(answer)["api_url"] == f"{found.prefect.address}/api"  # or the page is empty


def test_up_again_changes_nothing(running: tuple[Workspace, Params]) -> None:
    workspace, params = running
    before = embedded.status(workspace, params)
    assert embedded.up(workspace, params) == before


def test_another_workspace_is_told_which_port_is_taken_and_what_to_change(
    running: tuple[Workspace, Params], tmp_path: Path
) -> None:
    _, params = running
    with pytest.raises(ServiceError, match=rf"{params.services.prefect_port}.*services\.prefect_port") as error:
        embedded.up(Workspace(tmp_path), params)
    assert "\n" not in str(error.value)
    assert not embedded.status(Workspace(tmp_path), params).is_ready


def test_the_registry_can_be_read_from_its_database_alone(running: tuple[Workspace, Params]) -> None:
    workspace, params = running
    uri = embedded.registry_uri_at_rest(workspace, params)
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        assert database.execute("select count(*) from registered_models").fetchone() == (0,)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


def test_a_browser_that_was_never_there_finds_trainings_and_nothing_in_front_of_them(
    running: tuple[Workspace, Params], browser: Browser
) -> None:
    _, mlflow = servers.known(running[1])
    for page, shown in (("experiments/0", "New run"), ("models", "Registered Models"), ("", "Recent Experiments")):
        browser.open("about:blank")
        browser.open(f"{mlflow.api}/#/{page}")
        browser.until(lambda shown=shown: shown in browser.text())
        assert "Ask questions" not in browser.text() and "telemetry" not in browser.text()


def _requests_that_change_something(params: Params) -> dict[str, tuple[str, dict[str, Any]]]:
    """Address and body of a request to each server; what it makes is called 'left-by-a-stranger'."""
    prefect, mlflow = servers.known(params)
    return {
        "prefect": (f"{prefect.api}/variables/", {"name": "left_by_a_stranger", "value": "x"}),
        "mlflow": (f"{mlflow.api}/api/2.0/mlflow/experiments/create", {"name": "left_by_a_stranger"}),
    }


def _made(workspace: Workspace, params: Params) -> list[str]:
    """Names of variables in Prefect and of experiments in MLflow, asked by one who may."""
    _, mlflow = servers.known(params)
    variables = PrefectApi.of(workspace, params).rows("variables/filter", {})
    query = json.dumps({"max_results": 100}).encode()
    url, headers = f"{mlflow.api}/api/2.0/mlflow/experiments/search", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, query, headers), timeout=30) as answer:
        return [row["name"] for row in (*variables, *json.load(answer)["experiments"])]


_TRY_TO_MAKE = """
const [url, body, done] = arguments;
const json = fetch(url, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)})
  .then(answer => answer.status);
const plain = () => fetch(url, {method: "POST", mode: "no-cors", body: JSON.stringify(body)}).then(() => "sent");
json.catch(() => plain()).then(done, error => done(String(error)));
"""
"""As a page may try: with leave to read the answer, else without."""

_TRY_TO_READ = """
const [url, done] = arguments;
fetch(url).then(answer => answer.text()).then(text => done("read " + text), error => done("refused"));
"""


@pytest.mark.parametrize("host", [STRANGER, servers.HOST])  # the second: another program's page on this machine
def test_a_page_of_another_origin_can_neither_change_nor_read_anything(
    running: tuple[Workspace, Params], browser: Browser, host: str
) -> None:
    workspace, params = running
    tried = _requests_that_change_something(params)
    with page_of_a_stranger() as port:
        browser.open(f"http://{host}:{port}/")
        for url, body in tried.values():
            browser.run(_TRY_TO_MAKE, url, body)
            assert browser.run(_TRY_TO_READ, url) == "refused"
        assert browser.run(_TRY_TO_READ, f"{servers.known(params)[0].api}/admin/version") == "refused"
    assert "left_by_a_stranger" not in _made(workspace, params)


def test_a_foreign_name_that_was_made_to_lead_here_is_answered_by_no_server(
    running: tuple[Workspace, Params], browser: Browser
) -> None:
    _, params = running
    for server in servers.known(params):
        for path in ("/", "/api/admin/version", "/api/2.0/mlflow/experiments/search"):
            browser.open(f"http://{STRANGER}:{server.port}{path}")
            assert "its own pages only" in browser.text()


def test_prefects_page_lets_its_user_in_by_the_auth_string_under_either_name(
    running: tuple[Workspace, Params], browser: Browser
) -> None:
    workspace, params = running
    path = embedded.status(workspace, params).prefect.auth_path
    assert path is not None
    assert path.stat().st_mode & 0o077 == 0
    secret = path.read_bytes().strip()
    assert [p for p in workspace.services_dir.rglob("*") if p.is_file() and secret in p.read_bytes()] == [path]
    assert secret.decode() not in str([p.cmdline() for p in orphans.find(str(workspace.services_dir))])
    PrefectApi.of(workspace, params).post("variables/", {"name": "for_its_user", "value": "x"})
    for host in (servers.HOST, "localhost"):
        browser.open(f"http://{host}:{params.services.prefect_port}/v2/variables")
        browser.type("input", path.read_text())  # which ends with Enter
        browser.until(lambda: "for_its_user" in browser.text())


def test_prefect_answers_nobody_who_does_not_know_the_auth_string(running: tuple[Workspace, Params]) -> None:
    workspace, params = running
    known = PrefectApi.of(workspace, params)
    known.rows("variables/filter", {})
    for authorization in ("", "Basic YWRtaW46cGFzcw=="):
        with pytest.raises(ServiceError, match="401"):
            PrefectApi(known.url, authorization).rows("variables/filter", {})


def test_a_killed_server_comes_back_and_what_it_had_started_ends(running: tuple[Workspace, Params]) -> None:
    workspace, params = running
    before = embedded.status(workspace, params).mlflow.pid
    assert before is not None
    left = subprocess.Popen(["sleep", "600"], env=psutil.Process(before).environ())  # as a web worker of several
    os.kill(before, 9)

    def is_back() -> bool:
        now = embedded.status(workspace, params).mlflow
        return now.is_ready and now.pid != before

    assert _eventually(is_back)
    assert left.wait(10) != 0


def test_down_after_the_supervisor_was_killed_leaves_no_process(running: tuple[Workspace, Params]) -> None:
    workspace, params = running
    marked = orphans.find(str(workspace.services_dir))
    assert len(marked) >= 3  # supervisord, Prefect, MLflow
    pid = int((workspace.services_dir / "supervisord.pid").read_text())
    os.kill(pid, 9)
    assert _eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert not embedded.status(workspace, params).is_ready
    embedded.down(workspace)
    assert orphans.find(str(workspace.services_dir)) == []
    supervision.check_port(servers.HOST, params.services.prefect_port, "", "")
    supervision.check_port(servers.HOST, params.services.mlflow_port, "", "")
    embedded.down(workspace)


def test_down_where_nothing_ever_ran_does_nothing(tmp_path: Path) -> None:
    embedded.down(Workspace(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_dies_at_once_is_an_error_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    (tmp_path / "work" / "services" / "prefect" / "prefect.db").mkdir(parents=True)  # no database can be made there
    with pytest.raises(ServiceError, match=r"Prefect's server stopped while starting.*prefect\.log ends with:\n"):
        embedded.up(Workspace(tmp_path), _params())
    assert orphans.find(str(tmp_path / "work" / "services")) == []


def test_down_where_the_folder_cant_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    (workspace.services_dir / "lock").mkdir(parents=True)  # root may write everywhere else
    for stop in (embedded.down, embedded.stop_flows):
        with pytest.raises(StorageError, match=f"could not write {workspace.services_dir / 'lock'}.*name another"):
            stop(workspace)


def test_servers_given_by_the_environment_are_used_and_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{_free_port()}/api")
    workspace, params = Workspace(tmp_path), _params()
    variables = servers.environment(workspace, params)
    assert variables["PREFECT_API_URL"] == os.environ["PREFECT_API_URL"]
    assert variables["MLFLOW_TRACKING_URI"] == "sqlite:///elsewhere.db"
    assert "PREFECT_HOME" not in variables
    monkeypatch.setattr(embedded, "EXTERNAL_PATIENCE_S", 0.5)
    with pytest.raises(ServiceError, match=r"does not answer.*PREFECT_API_URL"):
        embedded.up(workspace, params)
    assert not workspace.services_dir.exists()


_TELL = "import os, pathlib, time; pathlib.Path('told').write_text(os.environ['MLFLOW_TRACKING_URI']); time.sleep(600)"


def test_a_password_in_an_address_reaches_the_helpers_and_no_file_or_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, params = Workspace(tmp_path), _params()
    address = f"http://me:S3%25cret@127.0.0.1:{_free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    workspace.services_dir.mkdir(parents=True)
    try:
        embedded.keep(workspace, params, {"teller": ("-c", _TELL)})
        told = workspace.services_dir / "teller" / "told"
        assert _eventually(lambda: told.is_file() and told.read_text() == address)
        kept = [path for path in workspace.services_dir.rglob("*") if path.is_file() and path != told]
        assert [path for path in kept if b"cret" in path.read_bytes()] == []
        lines = [process.cmdline() for process in orphans.find(str(workspace.services_dir))]
        assert len(lines) == 2  # supervisord and the helper
        assert "cret" not in str(lines)
        assert "cret" not in str(embedded.status(workspace, params))
        embedded.keep(workspace, params, {"teller": ("-c", _TELL)})
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("cret", "crets"))
        with pytest.raises(ServiceError, match=r"others than when they were started\. Run 'lorax down'"):
            embedded.keep(workspace, params, {"teller": ("-c", _TELL)})
    finally:
        embedded.down(workspace)


def test_the_variables_of_a_flow_name_the_embedded_servers_and_keep_loopback_off_proxies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    workspace, params = Workspace(tmp_path), _params()
    variables = servers.environment(workspace, params)
    assert variables["PREFECT_API_URL"] == f"http://127.0.0.1:{params.services.prefect_port}/api"
    assert variables["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:{params.services.mlflow_port}"
    assert variables["PREFECT_HOME"] == str(tmp_path / "work" / "services" / "prefect")
    assert variables["NO_PROXY"] == "example.org,127.0.0.1,localhost"


def test_importing_services_is_cheap() -> None:
    script = "import sys, lorax.services; print([m for m in ('prefect', 'mlflow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
