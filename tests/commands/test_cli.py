"""The command line without servers; what needs them is in tests/flows/test_learn.py."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lorax.cli import app
from lorax.commands.init import initialize, with_values
from lorax.data import versions
from lorax.data.landing import land
from lorax.params import Params, load_params
from lorax.workspace import Workspace
from tests.conftest import SMALL_CONTRACT, WriteTask, write_task_files

pytestmark = pytest.mark.slow

COMMANDS = (
    *(
        "init",
        "simulate",
        "land",
        "learn",
        "scenario",
        "sweep",
        "status",
        "predict",
        "score",
        "watch-verdicts",
        "up",
        "down",
        "demo",
    ),
    *("history", "diff", "rollback", "promote", "refuse", "hold", "release", "relearn", "delete", "atlas"),
    *("withdraw", "forget"),
)
HEAVY = {"torch", "timm", "peft", "prefect", "dvc", "matplotlib", "sklearn", "skimage"}
"""What takes a second or more to import, and neither help nor a look-up has a use for."""

TEMPLATE = Path(__file__).parents[2] / "lorax" / "templates" / "params.yaml"

runner = CliRunner()


def said_and_imported(*arguments: str, cwd: Path | None = None) -> tuple[str, set[str]]:
    """What a command prints in a Python of its own, and the top-level modules that it imports."""
    return ran("from lorax.cli import app; app()", *arguments, cwd=cwd)


def ran(code: str, *arguments: str, cwd: Path | None = None) -> tuple[str, set[str]]:
    """What Python code prints, and the top-level modules that it imports."""
    told = f"import sys\ntry: {code}\nfinally: print(*sys.modules, file=sys.stderr)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", told, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd, env=environment)
    return done.stdout, {name.partition(".")[0] for name in done.stderr.split()}


def test_help_names_every_command_and_imports_no_library_that_takes_long() -> None:
    said, imported = said_and_imported("--help")
    assert all(command in said for command in COMMANDS)
    assert "typer" in imported
    assert not imported & {*HEAVY, "mlflow", "pydantic", "yaml"}


def test_status_without_a_registry_imports_no_library_that_takes_long(shared_landed_workspace: Workspace) -> None:
    said, imported = said_and_imported("status", cwd=shared_landed_workspace.root)
    assert "alpha, beta" in said
    assert not imported & {*HEAVY, "mlflow"}


def test_a_run_that_finds_nothing_to_learn_imports_no_library_that_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    _, imported = ran("import flows.learn")
    assert "prefect" in imported
    assert not imported & {"torch", "timm", "peft", "matplotlib", "sklearn", "skimage"}


@pytest.mark.parametrize("variable", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI"])
@pytest.mark.parametrize("command", ["status", "up", "history", "learn"])
def test_a_mistyped_address_is_one_line_of_any_command(
    command: str, variable: str, shared_landed_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared_landed_workspace.root)
    monkeypatch.setenv(variable, "127.0.0.1:4200")
    done = runner.invoke(app, [command])
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert done.stderr.startswith(f"lorax: error: {variable} is no address of a server")
    assert done.stderr.count("\n") == 1


@contextmanager
def speaking(nonsense: bytes) -> Iterator[int]:
    """Something listens that is no server of ours, as behind a mistyped port; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):  # the listener's end
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(1 << 16)
                        connection.sendall(nonsense)

        threading.Thread(target=answer, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("nonsense", [b"SSH-2.0-nonsense\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"])
def test_a_landing_that_no_server_understands_has_landed_and_status_ends_in_lines(
    nonsense: bytes, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)
    with speaking(nonsense) as port:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
        done = runner.invoke(app, ["land", str(write_task_files(tmp_path / "raw")), "--task", "alpha"])
        assert done.exit_code == 0, done.output
        assert "not announced: " in done.stderr
        assert runner.invoke(app, ["status"]).exit_code == 0
    assert [task.name for task in versions.landed(workspace)] == ["alpha"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = runner.invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert "Usage" in shown.output


def test_init_makes_a_clean_workspace_and_again_changes_nothing(tmp_path: Path) -> None:
    arguments = ["init", str(tmp_path / "ws"), "--prefect-port", "4301", "--remote", str(tmp_path / "store")]
    for _ in range(2):
        done = runner.invoke(app, arguments)
        assert done.exit_code == 0, done.output
    workspace = Workspace.find(tmp_path / "ws")
    assert load_params(workspace.params_path).services.prefect_port == 4301
    assert str(tmp_path / "store") in (workspace.root / ".dvc" / "config").read_text()
    git = ["git", "-C", str(workspace.root)]
    assert subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout == ""
    commits = subprocess.run([*git, "rev-list", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert len(commits.split()) == 1


def test_a_plain_dvc_pull_in_a_fresh_clone_ends_well_though_no_stage_ever_ran(tmp_path: Path) -> None:
    workspace = initialize(tmp_path / "ws", remote=str(tmp_path / "store"))
    path = workspace.params_path
    path.write_text(with_values(path.read_text(), {"landing": {"min_train": 1, "min_val": 1}}))
    land(workspace, write_task_files(tmp_path / "raw"), "alpha")
    subprocess.run(["git", "clone", "--quiet", str(workspace.root), str(tmp_path / "clone")], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "pull"], cwd=tmp_path / "clone", check=True)
    assert (tmp_path / "clone" / "data" / "alpha").is_dir()


def test_init_makes_a_whole_workspace_whatever_the_users_own_ignore_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ignore").write_text("*.yaml\n*.dvc\n.dvc*\n.gitignore\n")
    (tmp_path / "gitconfig").write_text(f"[core]\n    excludesFile = {tmp_path / 'ignore'}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    assert runner.invoke(app, ["init", str(tmp_path / "ws")]).exit_code == 0
    write_task_files(tmp_path / "raw")
    root = tmp_path / "ws"
    (root / "params.yaml").write_text(SMALL_CONTRACT)
    land(Workspace(root), tmp_path / "raw", "alpha")
    command = ["git", "ls-tree", "-r", "--name-only", "HEAD"]
    held = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    expected = {".dvc/.gitignore", ".dvc/config", ".dvcignore", ".gitignore", "data.dvc", "dvc.yaml", "params.yaml"}
    assert set(held) == expected | {"prefect.yaml"}


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("setpriv") is None, reason="takes root, to become a nameless user")
def test_a_user_without_a_name_and_a_home_makes_a_workspace_and_lands(public_dir: Path, write_task: WriteTask) -> None:
    rights = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")  # this Python may be root's own
    nameless = ("setpriv", "--reuid", "34567", "--clear-groups", *rights, "env", "-i", f"PATH={os.environ['PATH']}")
    kept = [f"PYTHONPATH={Path(__file__).parents[2]}", f"TMPDIR={public_dir}"]
    root, command = public_dir / "ws", [*nameless, *kept, sys.executable, "-m", "lorax"]
    os.chown(public_dir, 34567, -1)
    said = subprocess.run([*command, "init", root], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    (root / "params.yaml").write_text(SMALL_CONTRACT)
    source = write_task(public_dir / "raw")
    said = subprocess.run([*command, "land", source, "--task", "alpha"], cwd=root, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "landed alpha" in said.stdout


def test_a_preset_becomes_the_values_of_a_new_workspace(tmp_path: Path) -> None:
    assert runner.invoke(app, ["init", str(tmp_path), "--preset", "paper"]).exit_code == 0
    params = load_params(tmp_path / "params.yaml")
    assert (params.lora.rank, params.training.epochs, params.exemplars.budget) == (64, 50, 500)
    assert params == load_params(TEMPLATE, preset="paper")
    unknown = runner.invoke(app, ["init", str(tmp_path / "other"), "--preset", "recipe"])
    assert unknown.exit_code == 1 and "no preset 'recipe'; expected paper" in unknown.stderr


def test_the_template_names_every_parameter() -> None:
    load_params(TEMPLATE)
    raw = yaml.safe_load(TEMPLATE.read_text())
    raw["backbone"]["arguments"] = {}  # there are none for the shipped backbone
    assert {name: set(raw[name]) for name in Params.model_fields} == {
        name: set(section) for name, section in Params().model_dump().items()
    }


def test_values_are_changed_in_place_and_comments_stay() -> None:
    text = "a:\n  x: 1   # why\n  y: [1, 2]\n\nb:\n  x: 2\n"
    assert with_values(text, {"b": {"x": "no"}, "a": {"x": 3.5, "z": {"q": 1}}}) == (
        "a:\n  z: {q: 1}\n  x: 3.5 # why\n  y: [1, 2]\n\nb:\n  x: 'no'\n"
    )
    new = {"d": 1, "e": 1e-5, "f": "yes", "g": None, "h": "a 'b' # c"}
    assert yaml.safe_load(with_values(text, {"c": new}))["c"] == new
    assert with_values(TEMPLATE.read_text(), {"gate": {"false_positives": None}}) == TEMPLATE.read_text()


def test_outside_a_workspace_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["status"])
    assert done.exit_code == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("lorax: error: ")
    assert "lorax init DIR" in line


def test_in_a_folder_that_was_deleted_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for command in (["status"], ["init", "."], ["down"]):
        done = runner.invoke(app, command)
        assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
        assert "the current folder was deleted" in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = runner.invoke(app, ["--debug", "status"])
    assert type(done.exception).__name__ == "WorkspaceError"


def test_a_fresh_workspace_has_nothing_to_show(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root)
    record = json.loads(runner.invoke(app, ["status", "--json"]).stdout)
    assert (record["champion"], record["known"], record["waiting"]) == (None, [], [])
    assert json.loads(runner.invoke(app, ["history", "--json"]).stdout)["versions"] == []
    assert "nothing to learn" in runner.invoke(app, ["learn"]).stdout
    learned = json.loads(runner.invoke(app, ["learn", "--json"]).stdout)
    assert (learned["learned"], learned["champion"]) == ([], None)
    assert "there is no champion yet" in runner.invoke(app, ["predict", "x.png"]).stderr
    assert "there is no challenger yet" in runner.invoke(app, ["predict", "x.png", "--version", "@challenger"]).stderr
    assert "no version 2" in runner.invoke(app, ["predict", "x.png", "--version", "2"]).stderr
    assert "'newest' is not understood" in runner.invoke(app, ["predict", "x.png", "--version", "newest"]).stderr


def test_forgetting_a_task_that_never_landed_is_refused_before_servers_are_started(
    shared_landed_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared_landed_workspace.root)
    done = CliRunner().invoke(app, ["forget", "alhpa", "--yes"])
    assert (done.exit_code, "'alhpa' has never landed in" in done.stderr) == (1, True)
    assert not (shared_landed_workspace.services_dir / "supervisord.pid").exists()


def test_landed_tasks_wait_until_they_are_learned(
    shared_landed_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared_landed_workspace.root)
    record = json.loads(runner.invoke(app, ["status", "--json"]).stdout)
    assert record["waiting"] == ["alpha", "beta"]
    assert "alpha, beta" in runner.invoke(app, ["status"]).stdout


def test_ctrl_c_is_heard_even_where_python_drops_it(tmp_path: Path) -> None:
    """A finaliser and an extension's callbacks can't raise: the exception is dropped, and the command would go on."""
    script = tmp_path / "command.py"
    script.write_text(
        """import signal, time, typer
from lorax.commands.console import Commands
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have what it starts ignore Ctrl-C
class Dropping:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
app = typer.Typer(cls=Commands)
@app.command()
def work():
    Dropping()
    print("dropped", flush=True)
    time.sleep(60)
@app.command()
def other(): ...
app()
"""
    )
    done = subprocess.run([sys.executable, script, "work"], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (130, "dropped\n")
    assert done.stderr.startswith("lorax: interrupted") and "Traceback" not in done.stderr


def test_ctrl_c_while_the_command_is_being_loaded_leaves_no_traceback() -> None:
    code = """import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupted:  # what is imported first
    def find_spec(self, *_): signal.raise_signal(signal.SIGINT)
from lorax.__main__ import main
sys.meta_path.insert(0, Interrupted())
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "lorax: interrupted.\n")
