"""Two clones of one upstream, which land without asking each other."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from lorax.commands import status
from lorax.data import checkout, pins, repository, upstream, versions
from lorax.data.admission import LandingOptions
from lorax.data.landing import land
from lorax.errors import ContractError, DataVersionError
from lorax.params import Params
from lorax.workspace import Workspace
from tests.conftest import SMALL_CONTRACT, WriteTask, write_task_files

pytestmark = pytest.mark.slow


def git(root: Path, *arguments: str) -> str:
    named = ("-c", "user.name=x", "-c", "user.email=x@y")
    done = subprocess.run(["git", *named, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def names(workspace: Workspace) -> list[str]:
    return [task.name for task in versions.landed(workspace)]


@pytest.fixture(scope="module")
def _template(_empty_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a hub, a DVC remote and a clone in which 'first' has landed."""
    home = tmp_path_factory.mktemp("clones")
    git(home, "init", "--quiet", "--bare", "--initial-branch=main", "hub")
    shutil.copytree(_empty_template, home / "here")
    here = Workspace(home / "here")
    repository.set_remote(here.root, "../../store")
    repository.commit(here.root, [".dvc/config"], "Name the remote")
    git(here.root, "remote", "add", "origin", "../hub")
    git(here.root, "push", "--quiet", "--set-upstream", "origin", "main")
    land(here, write_task_files(home / "raw", seed=1), "first")
    return home


@pytest.fixture
def clones(_template: Path, tmp_path: Path) -> tuple[Workspace, Workspace]:
    """Two clones beside their hub and DVC's remote, both with what 'first' brought."""
    home = tmp_path / "home"
    shutil.copytree(_template, home)
    shutil.copytree(home / "here", home / "there")
    return Workspace(home / "here"), Workspace(home / "there")


def overtaken(monkeypatch: pytest.MonkeyPatch, first: Callable[[], object]) -> None:
    """Have something done just before the next push of commits."""
    push = upstream.push

    def after_that(root: Path, to: upstream.Upstream) -> str:
        monkeypatch.setattr(upstream, "push", push)
        first()
        return push(root, to)

    monkeypatch.setattr(upstream, "push", after_that)


def test_who_is_overtaken_joins_the_others_landing_and_a_person_sees_one_stream(
    clones: tuple[Workspace, Workspace], tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = clones
    (there.root / "params.yaml").write_text(SMALL_CONTRACT + "run: {}\n")  # a change of one's own stays
    overtaken(monkeypatch, lambda: land(here, write_task(tmp_path / "a", seed=2), "a"))
    land(there, write_task(tmp_path / "b", seed=3), "b")
    assert names(there) == ["first", "a", "b"]
    assert git(there.root, "status", "--short") == "M params.yaml"
    assert git(there.root, "rev-parse", "HEAD") == git(here.root.parent / "hub", "rev-parse", "main")
    files = versions.manifest(there)
    assert {path.partition("/")[0] for path in files} == {"first", "a", "b"}
    folders = (here.data_dir / "first", here.data_dir / "a", there.data_dir / "b")
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*.*")]
    output = pins.committed(there).content["outs"][0]
    assert (output["size"], output["nfiles"]) == (sum(sizes), len(files))
    assert len(versions.fetch(there, versions.read_task(there, "a").test)) == 4
    assert checkout.bring_up_to_date(here)
    assert here.data_dvc_path.read_bytes() == there.data_dvc_path.read_bytes()
    assert len(versions.fetch(here, versions.read_task(here, "b").train)) == 4


def test_what_does_not_fit_beside_what_another_landed_meanwhile_does_not_land_after_all(
    clones: tuple[Workspace, Workspace], tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = clones
    overtaken(monkeypatch, lambda: land(here, write_task(tmp_path / "a", seed=2), "same"))
    before = git(there.root, "rev-parse", "HEAD")
    with pytest.raises(ContractError, match="has landed already, with other files"):
        land(there, write_task(tmp_path / "b", seed=3), "same")
    assert (names(there), git(there.root, "status", "--short")) == (["first"], "")
    assert git(there.root, "rev-parse", "HEAD") == before
    assert not (there.data_dir / "same").exists()
    land(there, tmp_path / "b", "other")
    assert names(there) == ["first", "same", "other"]


def test_what_landed_while_the_hub_was_away_is_shown_and_joined_once_it_is_back(
    clones: tuple[Workspace, Workspace], tmp_path: Path, write_task: WriteTask
) -> None:
    here, there = clones
    hub = here.root.parent / "hub"
    hub.rename(hub.with_name("away"))
    with pytest.raises(DataVersionError, match="committed, but was not pushed; mend that, then land the same again"):
        land(there, write_task(tmp_path / "b", seed=3), "b")
    shown = status.record(there, Params())["unpushed"]
    assert shown["tasks"] == ["b"]
    assert "does not appear to be a git repository" in shown["why"]
    hub.with_name("away").rename(hub)
    land(here, write_task(tmp_path / "a", seed=2), "a")
    land(there, tmp_path / "b", "b")
    assert names(there) == ["first", "a", "b"]
    assert status.record(there, Params())["unpushed"] == {"tasks": [], "why": ""}


def test_data_that_was_not_pushed_is_shown_where_git_has_no_upstream_too(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    (tmp_path / "store").write_text("no folder")
    repository.set_remote(workspace.root, str(tmp_path / "store"))
    with pytest.raises(DataVersionError, match="committed, but was not pushed"):
        land(workspace, write_task(tmp_path / "a"), "a")
    out = io.StringIO()
    status.print_status(status.record(workspace, Params()), Console(file=out, width=500))
    [row] = [line for line in out.getvalue().splitlines() if "unpushed" in line]
    assert "the last push failed; landing the same folder again pushes it. 'dvc push data.dvc'" in row
    (tmp_path / "store").unlink()
    land(workspace, tmp_path / "a", "a")
    assert not any(status.record(workspace, Params())["unpushed"].values())


def test_a_protected_branch_is_told_with_what_works_and_what_was_merged_there_is_gone_on_from(
    clones: tuple[Workspace, Workspace], tmp_path: Path, write_task: WriteTask
) -> None:
    here, there = clones
    hub = here.root.parent / "hub"
    hook = hub / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nwhile read old new ref; do [ $ref != refs/heads/main ] || exit 1; done\n")
    hook.chmod(0o755)
    with pytest.raises(DataVersionError, match=r"pre-receive hook declined.*git push origin HEAD:refs/heads/landed"):
        land(there, write_task(tmp_path / "b", seed=3), "b")
    assert "HEAD:refs/heads/landed" in status.record(there, Params())["unpushed"]["why"]
    git(there.root, "push", "--quiet", "origin", "HEAD:refs/heads/landed")  # as the message says
    tree = git(hub, "rev-parse", "landed^{tree}")
    git(
        hub, "update-ref", "refs/heads/main", git(hub, "commit-tree", tree, "-p", "main", "-m", "Reviewed and squashed")
    )
    assert checkout.bring_up_to_date(there)
    assert git(there.root, "log", "-1", "--format=%s") == "Reviewed and squashed"
    assert (names(there), git(there.root, "status", "--short")) == (["first", "b"], "")
    assert status.record(there, Params())["unpushed"]["tasks"] == []


def test_the_cure_for_one_name_landed_twice_works_as_it_is_printed(
    clones: tuple[Workspace, Workspace], tmp_path: Path, write_task: WriteTask
) -> None:
    here, there = clones
    land(there, write_task(tmp_path / "b", seed=3), "same", commit=False)
    git(there.root, "commit", "--quiet", "-am", "Land by hand")
    land(here, write_task(tmp_path / "a", seed=2), "same")
    with pytest.raises(DataVersionError, match=r"same: landed in the upstream, too, .*git reset --keep @\{upstream\}"):
        land(there, write_task(tmp_path / "c", seed=4), "c")
    git(there.root, "reset", "--quiet", "--keep", "@{upstream}")
    (there.data_dir / "same").rename(tmp_path / "mine")
    land(there, tmp_path / "mine", "mine")
    assert names(there) == ["first", "same", "mine"]


def test_a_file_changed_on_both_sides_is_named_with_what_works(
    clones: tuple[Workspace, Workspace], tmp_path: Path, write_task: WriteTask
) -> None:
    here, there = clones
    for workspace, text in ((here, "run: {}\n"), (there, "gate: {}\n")):
        workspace.params_path.write_text(SMALL_CONTRACT + text)
        git(workspace.root, "commit", "--quiet", "-am", "Tune")
    git(here.root, "push", "--quiet")
    with pytest.raises(DataVersionError, match=r"params\.yaml: changed both here and in the upstream"):
        land(there, write_task(tmp_path / "b", seed=3), "b")
    git(there.root, "checkout", "--quiet", "@{upstream}", "--", "params.yaml")
    git(there.root, "commit", "--quiet", "-m", "As the upstream has it")
    land(there, tmp_path / "b", "b")
    assert names(there) == ["first", "b"]


def test_replacing_and_landing_apart_are_joined_and_the_same_landing_twice_is_one(
    clones: tuple[Workspace, Workspace], tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = clones
    twice = write_task(tmp_path / "twice", seed=5)

    def others() -> None:
        land(here, write_task(tmp_path / "new", seed=4), "first", options=LandingOptions(replace=True))
        land(here, twice, "twice")

    overtaken(monkeypatch, others)
    land(there, twice, "twice")
    assert names(there) == ["first", "twice"]
    assert pins.committed(there).digest == pins.committed(here).digest
    assert versions.landed(there) == versions.landed(here)
    assert pins.committed(there).content == pins.committed(here).content
