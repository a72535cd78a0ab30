"""A task leaves data.dvc, whatever else lands meanwhile and wherever it is cut off."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from lorax.data import pins, repository, upstream, versions, withdrawal
from lorax.data.admission import LandingOptions
from lorax.data.landing import land
from lorax.errors import DataVersionError
from lorax.workspace import Workspace
from tests.conftest import NewWorkspace, WriteTask, write_task_files
from tests.data.test_upstream import _template, clones, git, names

__all__ = ["_template", "clones"]

pytestmark = pytest.mark.slow


def test_a_task_is_gone_as_if_it_had_never_landed_and_what_others_landed_meanwhile_stays(
    clones: tuple[Workspace, Workspace], tmp_path: Path, new_workspace: NewWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = clones
    raw = {name: write_task_files(tmp_path / name, seed=seed) for seed, name in enumerate(("first", "bad", "third"), 1)}
    for name in ("bad", "third"):
        land(here, raw[name], name)
    before = git(here.root, "rev-parse", "HEAD")
    revision = withdrawal.prepared(here, "bad", "its licence\nended")
    assert (names(here), git(here.root, "rev-parse", "HEAD")) == (["first", "bad", "third"], before), "only prepared"
    assert withdrawal.under_way(here) == ["bad"]
    assert versions.read_task(here, "third", revision.commit or "") == versions.read_task(here, "third")
    raw["fourth"] = write_task_files(tmp_path / "fourth", seed=4)
    land(there, raw["fourth"], "fourth")
    assert withdrawal.prepared(here, "bad", "another word") == revision, "a second call goes on with the first"

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(upstream, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        withdrawal.carry_out(here, "bad")
    assert withdrawal.prepared(here, "bad", "and again") == revision
    withdrawal.carry_out(here, "bad")
    assert (withdrawal.under_way(here), (here.data_dir / "bad").exists()) == ([], False)
    assert "Withdraw bad: its licence ended" in git(here.root, "log", "--format=%s").splitlines()
    assert pins.committed(here).digest == pins.on_disk(here).digest

    never = new_workspace("never")
    for name in ("first", "third", "fourth"):
        land(never, raw[name], name)
    assert pins.committed(here).stream == pins.committed(never).stream or set(names(here)) == set(names(never))
    assert pins.committed(here).digest == pins.committed(never).digest
    assert pins.committed(here).content["outs"] == pins.committed(never).content["outs"]
    land(there, raw["fourth"], "fourth")  # fetches
    assert names(there) == names(here)


def test_what_is_learned_meanwhile_is_in_a_commit_that_follows_the_first(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace = landed_workspace
    first = withdrawal.prepared(workspace, "alpha", "why", {"beta"})
    land(workspace, write_task(tmp_path / "gamma", seed=3), "gamma")
    assert withdrawal.prepared(workspace, "alpha", "why", {"beta"}) == first
    second = withdrawal.prepared(workspace, "alpha", "why", {"beta", "gamma"})
    assert [one.name for one in pins.committed(workspace, second.commit or "").stream] == ["beta", "gamma"]
    withdrawal.carry_out(workspace, "alpha")
    assert (versions.revision(workspace), names(workspace)) == (second, ["beta", "gamma"])
    assert repository.holds(workspace.root, first.commit or ""), "states may name it"


def test_what_can_t_be_withdrawn_says_why_and_changes_nothing(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace = landed_workspace
    with pytest.raises(DataVersionError, match=r"task 'gamma' has not landed in .*; landed are: alpha, beta\."):
        withdrawal.prepared(workspace, "gamma", "why")
    land(workspace, write_task(tmp_path / "more", seed=5), "alpha", options=LandingOptions(extend=True))
    with pytest.raises(DataVersionError, match=r"'alpha' is extended by alpha-2.*'lorax withdraw alpha-2 --reason"):
        withdrawal.prepared(workspace, "alpha", "why")
    workspace.data_dvc_path.write_text(workspace.data_dvc_path.read_text() + "\n")
    with pytest.raises(DataVersionError, match="is not as committed"):
        withdrawal.prepared(workspace, "beta", "why")
    assert withdrawal.under_way(workspace) == []
    subprocess.run(["git", "checkout", "-q", "data.dvc"], cwd=workspace.root, check=True)


def test_a_task_that_is_extended_while_it_is_withdrawn_stays_until_the_extension_went(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace = landed_workspace
    withdrawal.prepared(workspace, "alpha", "why")
    land(workspace, write_task(tmp_path / "more", seed=5), "alpha", options=LandingOptions(extend=True))
    for step in (partial(withdrawal.prepared, reason="why"), withdrawal.carry_out):
        with pytest.raises(DataVersionError, match=r"'alpha' is extended by alpha-2.*then run the same command again"):
            step(workspace, "alpha")
    assert names(workspace) == ["alpha", "beta", "alpha-2"]
    withdrawal.prepared(workspace, "alpha-2", "why")
    for name in ("alpha-2", "alpha"):
        withdrawal.carry_out(workspace, name)
    assert (names(workspace), withdrawal.under_way(workspace)) == (["beta"], [])


def test_the_last_task_leaves_no_data_behind(landed_workspace: Workspace) -> None:
    for name in ("beta", "alpha"):
        withdrawal.prepared(landed_workspace, name, "why")
        withdrawal.carry_out(landed_workspace, name)
    assert (names(landed_workspace), landed_workspace.data_dvc_path.exists()) == ([], False)
    assert repository.committed_text(landed_workspace.root, pins.NAME) is None
    land(landed_workspace, write_task_files(landed_workspace.work_dir / "raw", seed=7), "gamma")
    assert names(landed_workspace) == ["gamma"]


def test_a_task_that_is_not_landed_any_more_is_not_cut_out_of_a_version_that_knows_it(
    landed_workspace: Workspace,
) -> None:
    withdrawal.check_is_read(landed_workspace, "alpha")
    withdrawal.prepared(landed_workspace, "alpha", "why")
    withdrawal.carry_out(landed_workspace, "alpha")
    with pytest.raises(DataVersionError, match=r"'alpha' is not landed any more.*Leave --fast out"):
        withdrawal.check_is_read(landed_workspace, "alpha")
