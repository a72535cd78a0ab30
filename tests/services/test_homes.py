"""Checkouts of one workspace on one machine: real repositories, and processes that carry the marks of `up`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lorax.params import Params, load_params
from lorax.services import embedded, homes, orphans, servers
from lorax.workspace import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_addresses_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*homes.VARIABLES.values(), homes.EMBEDDED_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[[Workspace], psutil.Process]]:
    """A process that carries the marks of a workspace's servers; all are ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start(workspace: Workspace) -> psutil.Process:
        marks = {
            orphans.FOLDER_VARIABLE: str(workspace.services_dir),
            orphans.WORKSPACE_VARIABLE: homes.mark(workspace),
        }
        started.append(subprocess.Popen(["sleep", "600"], env={**os.environ, **marks}))
        return psutil.Process(started[-1].pid)

    yield start
    for process in started:
        process.kill()
        process.wait()


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True)


def clone_of(workspace: Workspace) -> Workspace:
    root = workspace.root.parent / "clone"
    git(workspace.root, "clone", "--quiet", str(workspace.root), str(root))
    return Workspace(root)


def test_a_worktree_uses_the_servers_of_the_checkout_it_was_made_from_at_their_ports(workspace: Workspace) -> None:
    git(workspace.root, "worktree", "add", "--quiet", "../tree")
    tree = Workspace(workspace.root.parent / "tree")
    assert homes.home(tree) == workspace
    (workspace.root / "params.yaml").write_text("services: {prefect_port: 4801, mlflow_port: 4802}\n")
    variables = servers.environment(tree, load_params(tree.params_path))
    assert variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:4802"
    assert variables["PREFECT_HOME"] == str(workspace.services_dir / "prefect")


def test_dvcs_temporary_copy_of_an_experiment_uses_the_workspaces_servers(landed_workspace: Workspace) -> None:
    """DVC really makes the copy; the stage says which services folder it would use."""
    root = landed_workspace.root
    ask = "from lorax.services import homes; from lorax.workspace import Workspace; here = Workspace.find()"
    (root / "stage.py").write_text(f"{ask}\nopen('told', 'w').write(f'{{here.root}} {{homes.home(here).root}}')\n")
    (root / "dvc.yaml").write_text(f"stages: {{s: {{cmd: {sys.executable} stage.py, outs: [told]}}}}\n")
    git(root, "add", "stage.py", "dvc.yaml")
    git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "Add a stage")
    subprocess.run([sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", "tried"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "exp", "apply", "tried"], cwd=root, check=True)
    copy, home = (root / "told").read_text().split()
    assert (copy != str(root), home) == (True, str(root))


def test_a_clone_without_servers_of_its_own_uses_those_that_run_and_only_then(
    workspace: Workspace, serve: Callable[[Workspace], psutil.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = clone_of(workspace)
    assert homes.home(clone) == clone
    serve(workspace)
    assert homes.home(clone) == workspace
    monkeypatch.setenv("PREFECT_API_URL", "http://gpu-box:4200/api")
    assert homes.home(clone) == clone, "the user said which server"
    monkeypatch.delenv("PREFECT_API_URL")
    clone.services_dir.mkdir(parents=True)
    (clone.services_dir / "databases.json").write_text("{}")
    assert homes.home(clone) == clone, "what its own servers know is not forgotten"


def test_another_workspace_s_servers_are_never_used(
    workspace: Workspace, serve: Callable[[Workspace], psutil.Process], tmp_path: Path
) -> None:
    other = Workspace(tmp_path / "other")
    shutil.copytree(workspace.root, other.root, ignore=shutil.ignore_patterns(".git"))
    git(other.root, "init", "--quiet")
    serve(workspace)
    assert homes.home(other) == other


def test_down_ends_what_was_started_in_a_checkout_that_was_deleted(
    workspace: Workspace, serve: Callable[[Workspace], psutil.Process]
) -> None:
    clone = clone_of(workspace)
    left = serve(clone)
    shutil.rmtree(clone.root)
    embedded.down(workspace)
    assert not left.is_running()


def test_a_workspace_of_its_own_is_its_own_home(workspace: Workspace) -> None:
    assert homes.at_home(workspace, Params()) == (workspace, Params())
