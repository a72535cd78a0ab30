"""A task is withdrawn and forgotten, on real servers, by the commands that a person types; the tests run in order."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lorax import reconcile
from lorax.atlas.index import Atlas
from lorax.commands.init import initialize, with_values
from lorax.data import pins, repository, versions
from lorax.data.admission import LandingOptions
from lorax.data.commands import git
from lorax.data.landing import land
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.state_files import state_digest
from lorax.params import load_params
from lorax.services import embedded
from lorax.stream import DataRevision
from lorax.workspace import Workspace
from tests.conftest import NewWorkspace, write_task_files
from tests.flows.commands import champion, lorax, start, told
from tests.mlflow_server import free_port
from tests.registry.conftest import OPEN
from tests.tiny_learner import tiny_params

TASKS = ("alpha", "beta", "gamma", "delta", "epsilon")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # servers take minutes to come up on a busy machine


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace where all tasks were learned, alpha before the others landed; its servers are stopped."""
    folder = tmp_path_factory.mktemp("withdraw")
    ports = {"prefect_port": free_port(), "mlflow_port": free_port()}
    made = initialize(folder / "workspace", remote=str(folder / "store"), values={"services": ports})
    values = {
        **tiny_params(folder).learning(),
        "landing": {"min_train": 1, "min_val": 1},
        "gate": OPEN.model_dump(),
        "robustness": {"per_class": 0},  # half of such an episode's seconds otherwise
    }
    made.params_path.write_text(with_values(made.params_path.read_text(), values))
    for seed, name in enumerate(TASKS):
        write_task_files(folder / "raw" / name, {"0_real": 3, "1_fake": 3}, seed=seed, side=20)
    for name in TASKS:
        land(made, folder / "raw" / name, name)
        if name in (TASKS[0], TASKS[-1]):
            lorax(made, "learn")
    yield made
    embedded.down(made)


def never_had_it(never: Workspace, workspace: Workspace, *stages: tuple[str, str]) -> str:
    """The digest of what plain functions learn where only some tasks landed.

    Args:
        never: a workspace where nothing has landed.
        workspace: whose images and parameters.
        stages: tasks that land before they are learned, and what their states are to name as the commit, which differs
            wherever one is made.
    """
    params, read_task = load_params(workspace.params_path), partial(versions.read_task, never)
    base = None
    for names, commit in stages:
        for name in names.split():
            land(never, workspace.root.parent / "raw" / name, name)
        revision = DataRevision(versions.revision(never).digest, commit)
        for name in names.split():
            home = EpisodeFolder.open(never.episodes_dir, Plan.of(base, read_task(name), params, revision))
            learn_episode(Episode.open(home, read_task, partial(versions.fetch, never)))
            base = home.state_dir
    assert base is not None
    return state_digest(base)


def killed_when(workspace: Workspace, is_time: Callable[[], bool], *arguments: str) -> None:
    """Run a command, and kill it at some moment if it is not over by then."""
    process = start(workspace, *arguments)
    while process.poll() is None and not is_time():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def registered(workspace: Workspace) -> int:
    return len(reconcile.look(workspace, load_params(workspace.params_path)).versions())


def episodes(workspace: Workspace) -> set[Path]:
    return set(workspace.episodes_dir.glob("*/trained"))


def commit_of(workspace: Workspace, version: int) -> str:
    """The commit that a version's state names."""
    history = json.loads(told(workspace, "history", "--json"))["versions"]
    return next(str(row["data_commit"]) for row in history if row["version"] == version)


def test_of_the_task_learned_last_the_champion_is_the_version_before_it(workspace: Workspace) -> None:
    said = lorax(workspace, "withdraw", "epsilon", "--reason", "only tried")
    assert "champion: version 5 (alpha, beta, gamma, delta, epsilon) -> version 4 (alpha, beta, gamma, delta)" in said


def test_a_withdrawal_killed_twice_ends_as_if_the_task_had_never_landed_and_the_champion_serves_meanwhile(
    workspace: Workspace, new_workspace: NewWorkspace
) -> None:
    before, trained = champion(workspace), episodes(workspace)
    command_line = ("withdraw", "beta", "--reason", "its licence has ended")
    killed_when(workspace, lambda: episodes(workspace) != trained, *command_line)
    assert champion(workspace) == before
    assert json.loads(told(workspace, "status", "--json"))["withdrawing"] == ["beta"]
    killed_when(workspace, lambda: registered(workspace) > 5, *command_line)
    record = json.loads(lorax(workspace, *command_line, "--json"))
    now = record["champion"]
    assert (now["version"], now["tasks"]) == (7, ["alpha", "gamma", "delta"])
    assert [(hold["task"], hold["is_withdrawn"]) for hold in record["held"]] == [("epsilon", True), ("beta", True)]
    assert [task.name for task in versions.landed(workspace)] == ["alpha", "gamma", "delta"]
    assert not (workspace.data_dir / "beta").exists()
    assert now["data_digest"] == pins.committed(workspace).digest
    stages = (("alpha", commit_of(workspace, 1)), ("gamma delta", now["data_commit"]))
    assert now["state_digest"] == never_had_it(new_workspace(), workspace, *stages)
    assert "nothing to learn" in told(workspace, "learn")
    assert "withdrawn" in told(workspace, "history")


def test_a_task_is_cut_out_without_learning_anything_and_the_card_says_so(workspace: Workspace) -> None:
    before = episodes(workspace)
    record = json.loads(lorax(workspace, "withdraw", "alpha", "--reason", "at once", "--fast", "--json"))
    now = record["champion"]
    assert (record["learned"], now["tasks"], now["parent_digest"]) == ([8], ["gamma", "delta"], None)
    assert [path.parent.name.partition("-")[0] for path in episodes(workspace) - before] == ["cut"]
    cards = [path.read_text() for path in workspace.services_dir.rglob("model_card.md")]
    assert any("alpha was withdrawn the fast way" in card for card in cards)


def test_what_cannot_be_cut_out_is_refused_before_anything_is_told_of_others(
    workspace: Workspace, tmp_path: Path
) -> None:
    before = repository.head(workspace.root)
    write_task_files(tmp_path / "zeta", {"0_real": 3, "1_fake": 3}, seed=9, side=20)
    land(workspace, tmp_path / "zeta", "zeta", options=LandingOptions(new_version_of="gamma"))
    said = lorax(workspace, "withdraw", "gamma", "--reason", "at once", "--fast", code=1)
    assert "at least two others must be left" in said
    assert "next version" not in said
    git(workspace.root, "reset", "--quiet", "--keep", before)
    shutil.rmtree(workspace.data_dir / "zeta")


def test_without_the_task_learned_first_the_line_begins_anew_but_the_only_one_stays(
    workspace: Workspace, new_workspace: NewWorkspace
) -> None:
    record = json.loads(lorax(workspace, "withdraw", "gamma", "--reason", "a person asked for it", "--json"))
    now = record["champion"]
    assert (record["learned"], now["tasks"], now["parent_digest"]) == ([9], ["delta"], None)
    assert now["state_digest"] == never_had_it(new_workspace(), workspace, ("delta", now["data_commit"]))
    assert "is all that version 9 knows" in lorax(workspace, "withdraw", "delta", "--reason", "too", code=1)


def images_in(folder: Path) -> set[str]:
    return {versions.md5_of(path) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def test_what_is_forgotten_is_in_no_file_of_the_workspace_or_its_remote_and_may_land_again(
    workspace: Workspace,
) -> None:
    home = workspace.root.parent
    theirs = images_in(home / "raw" / "beta")
    store = home / "store"
    assert theirs <= images_in(workspace.root) & images_in(store)
    killed_when(workspace, lambda: registered(workspace) < 9, "forget", "beta", "--yes")
    record = json.loads(lorax(workspace, "forget", "beta", "--yes", "--json"))
    assert set(record["digests"]) == theirs
    assert {place["name"]: place["found"] for place in record["places"]} == {
        "data/": [],
        "work/memory/": [],
        "work/prints/": [],
        "lists below work/": [],
        "DVC's cache": [],
        "DVC's remote": [],
        "MLflow's registry and its store": [],
    }
    assert not theirs & (images_in(workspace.root) | images_in(store))
    history = json.loads(told(workspace, "history", "--json"))
    assert [row["version"] for row in history["versions"] if "beta" in row["tasks"]] == []
    assert (history["broken"], champion(workspace)["version"]) == ([], 9)
    kept = {path.parent.name for path in workspace.services_dir.rglob("exemplars.csv")}
    assert kept, "the others' states are in MLflow's store as before"
    assert [entry.name for entry in Atlas.open(workspace.atlas_dir).entries if entry.name.startswith("beta")] == []
    lorax(workspace, "land", str(home / "raw" / "beta"), "--task", "beta")
    assert theirs <= images_in(store), "DVC takes nothing for pushed that is gone"
    assert "nothing to learn" in told(workspace, "learn"), "until 'lorax release beta'"
