from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorax.data import git_locks, keeping, pins, repository, versions
from lorax.data.admission import LandingOptions, check_landing
from lorax.data.commands import dvc
from lorax.data.landing import land, one_at_a_time, undo_killed
from lorax.data.layouts.items import Reading
from lorax.errors import ContractError, DataVersionError, LayoutError, StorageError
from lorax.workspace import Workspace
from tests.conftest import SMALL_CONTRACT, NewWorkspace, WriteTask

pytestmark = pytest.mark.slow


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def contents(workspace: Workspace) -> dict[str, bytes | str]:
    """All that a landing may change, and that must be as before when it fails."""
    cache = (path for path in (workspace.root / ".dvc" / "cache").rglob("*") if path.is_file())
    files = [*workspace.data_dir.rglob("*"), *cache, workspace.data_dvc_path, workspace.root / ".gitignore"]
    found: dict[str, bytes | str] = {str(p): p.read_bytes() if p.is_file() else "" for p in files if p.exists()}
    git_says = git(workspace.root, "status", "--short"), git(workspace.root, "ls-files", "--stage")
    return found | {"status": git_says[0], "index": git_says[1], "refs": git(workspace.root, "for-each-ref")}


def set_hook(workspace: Workspace, line: str) -> None:
    hook = workspace.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{line}\n")
    hook.chmod(0o755)


def test_a_landing_copies_pins_and_commits(workspace: Workspace, tmp_path: Path, write_task: WriteTask) -> None:
    source = write_task(tmp_path / "in", {"horse/0_real": 2, "horse/1_fake": 1})
    (source / "train" / ".DS_Store").touch()
    told: list[str] = []
    [landed] = land(workspace, source, "gaugan", progress=lambda done, total, what: told.append(what))
    assert versions.landed(workspace) == (landed,)
    copied = {p.relative_to(workspace.data_dir / "gaugan") for p in workspace.data_dir.rglob("*.*")}
    assert copied == {p.relative_to(source) for p in source.rglob("*.*") if p.name != ".DS_Store"}
    assert git(workspace.root, "log", "-1", "--format=%s").strip() == "Land gaugan: 3 train and 3 val images"
    assert git(workspace.root, "show", "--name-only", "--format=").split() == ["data.dvc"]
    assert repository.is_committed(workspace.root, "data.dvc")
    assert list(dict.fromkeys(told)) == ["checking images", "copying", "adding to DVC"]
    assert not list(workspace.work_dir.glob("landing/*"))


def test_what_dvc_adds_to_gitignore_is_committed_and_what_the_user_staged_is_not(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    (workspace.root / ".gitignore").write_text("/work/\n")
    repository.commit(workspace.root, [".gitignore"], "Ignore less")
    (workspace.root / "params.yaml").write_text(SMALL_CONTRACT + "run: {}\n")
    git(workspace.root, "add", "params.yaml")
    land(workspace, write_task(tmp_path / "in"), "gaugan")
    assert git(workspace.root, "show", "--name-only", "--format=").split() == [".gitignore", "data.dvc"]
    assert "M  params.yaml" in git(workspace.root, "status", "--short")


def test_a_second_task_leaves_the_first_ones_files(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    before = dict(versions.manifest(landed_workspace))
    shutil.rmtree(landed_workspace.data_dir / "alpha")  # its files need not be there
    land(landed_workspace, write_task(tmp_path / "in", seed=3), "gamma")
    after = versions.manifest(landed_workspace)
    assert {path: md5 for path, md5 in after.items() if not path.startswith("gamma/")} == before
    assert [entry.name for entry in versions.landed(landed_workspace)] == ["alpha", "beta", "gamma"]
    assert len(versions.read_task(landed_workspace, "alpha").train) == 4


def test_the_same_landings_give_the_same_data_dvc_byte_for_byte(
    new_workspace: NewWorkspace, shared_landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    other = new_workspace("elsewhere")
    for seed, name in ((1, "alpha"), (2, "beta")):
        source = write_task(tmp_path / f"other-{name}", seed=seed)
        for path in source.rglob("*.*"):
            os.utime(path, (0, 0))
        land(other, source, name, commit=False)
    assert other.data_dvc_path.read_bytes() == shared_landed_workspace.data_dvc_path.read_bytes()
    assert git(other.root, "status", "--short") == "?? data.dvc\n"
    assert git(other.root, "log", "--format=%s") == "Begin\n"


def test_landing_again_changes_nothing_and_restores_missing_files(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    before = contents(landed_workspace)
    shutil.rmtree(landed_workspace.data_dir / "beta" / "val")
    [entry] = land(landed_workspace, write_task(tmp_path / "in", seed=2), "beta")
    assert entry == versions.landed(landed_workspace)[1]
    assert contents(landed_workspace) == before


def test_landing_again_mends_what_data_the_cache_and_the_remote_lost(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    repository.set_remote(landed_workspace.root, str(tmp_path / "store"))
    repository.push_data(landed_workspace.root)
    samples = versions.read_task(landed_workspace, "beta").train
    cached = versions.cache_paths(landed_workspace, [sample.md5 for sample in samples])
    stored = {md5: tmp_path / "store" / "files" / "md5" / md5[:2] / md5[2:] for md5 in cached}
    gone, damaged, replaced, kept = samples
    for path in (cached[gone.md5], stored[gone.md5], stored[damaged.md5], landed_workspace.data_dir / gone.path):
        path.unlink()
    cached[damaged.md5].chmod(0o644)
    cached[damaged.md5].write_bytes(b"bits")
    (landed_workspace.data_dir / replaced.path).write_bytes(b"other")
    land(landed_workspace, write_task(tmp_path / "in", seed=2), "beta")
    for sample in (gone, damaged, replaced, kept):
        for path in (cached[sample.md5], stored[sample.md5], landed_workspace.data_dir / sample.path):
            assert versions.md5_of(path) == sample.md5
    assert git(landed_workspace.root, "status", "--short") == " M .dvc/config\n"


def test_undoing_leaves_in_the_cache_what_a_commit_refers_to(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    shared = versions.read_task(landed_workspace, "alpha").train[0]
    [cached] = versions.cache_paths(landed_workspace, [shared.md5]).values()
    cached.unlink()
    source = write_task(tmp_path / "in", seed=3)
    shutil.copy(landed_workspace.data_dir / shared.path, source / "train/0_real/shared.png")
    set_hook(landed_workspace, "exit 1")
    with pytest.raises(DataVersionError, match="commit"):
        land(landed_workspace, source, "gamma")
    assert versions.md5_of(cached) == shared.md5
    [own] = versions.cache_paths(landed_workspace, [versions.md5_of(source / "train/1_fake/0.png")]).values()
    assert not own.exists()


def test_what_dvc_is_fetching_while_a_landing_is_undone_stays(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_task(tmp_path / "in", seed=3)
    draft: list[Path] = []

    def fetch_then_fail(*arguments: object) -> None:
        draft.append(Path(fetching.stdout.readline().strip()) if fetching.stdout else Path())
        raise DataVersionError("refused")

    new = versions.cache_paths(landed_workspace, [versions.md5_of(next(source.rglob("*.png")))])
    command = [sys.executable, "-c", FETCHING, landed_workspace.root, *new.values()]
    fetching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    monkeypatch.setattr(pins, "write_stream", fetch_then_fail)
    with pytest.raises(DataVersionError, match="refused"):
        land(landed_workspace, source, "gamma")
    fetching.communicate()
    assert fetching.returncode == 0  # its draft was there when it was done
    assert not draft[0].exists()


FETCHING = """
import sys, time
from pathlib import Path
from dvc.repo import Repo
draft = Path(sys.argv[2]).with_name(".fetched.tmp")
while not Path(sys.argv[1], "work/landing/undo/notes.json").exists() or not Path(sys.argv[2]).exists():
    time.sleep(0.02)
with Repo(sys.argv[1], _wait_for_lock=True) as repo, repo.lock:
    draft.write_text("half")
    print(draft, flush=True)
    time.sleep(1.5)
    draft.rename(draft.with_name("whole"))
"""


def test_a_lock_that_a_killed_git_left_is_taken_away_and_a_living_ones_is_not(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("index.lock", "HEAD.lock", "refs/heads/main.lock")
    locks = [landed_workspace.root / ".git" / name for name in names]
    for lock in locks:
        lock.touch()
        os.utime(lock, (0, 0))
    land(landed_workspace, write_task(tmp_path / "in", seed=3), "gamma")
    assert not any(lock.exists() for lock in locks)
    before = contents(landed_workspace)
    monkeypatch.setattr(git_locks, "_PATIENCE_S", 0.5)
    with locks[0].open("w"):
        os.utime(locks[0], (0, 0))
        with pytest.raises(DataVersionError, match=r"index\.lock': File exists"):
            land(landed_workspace, write_task(tmp_path / "in2", seed=4), "delta")
        assert locks[0].exists()
    locks[0].unlink()
    assert contents(landed_workspace) == before


def test_a_name_that_has_landed_with_other_bytes_is_refused(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    before = contents(landed_workspace)
    with pytest.raises(ContractError, match="Choose another --task name"):
        land(landed_workspace, write_task(tmp_path / "in", seed=9), "beta")
    assert contents(landed_workspace) == before


def test_a_split_makes_val_by_content(workspace: Workspace, tmp_path: Path, write_task: WriteTask) -> None:
    source = write_task(tmp_path / "in", {"0_real": 20, "1_fake": 20}, val=False)
    land(workspace, source, "whole", options=LandingOptions(Reading(split=0.5)))
    task = versions.read_task(workspace, "whole")
    assert len(task.train) + len(task.test) == 40
    assert all(int(s.md5, 16) < 2**127 for s in task.train)
    assert all(int(s.md5, 16) >= 2**127 for s in task.test)


def break_images(source: Path) -> None:
    for name in ("train/0_real/0.png", "val/1_fake/1.jpg"):
        (source / name).write_bytes((source / name).read_bytes()[:60])


def empty_it(source: Path) -> None:
    shutil.rmtree(source)
    source.mkdir()


def empty_class(source: Path) -> None:
    shutil.rmtree(source / "train" / "1_fake")
    (source / "train" / "1_fake").mkdir()


BAD_INPUT: dict[str, tuple[Callable[[Path], object], type[Exception], list[str]]] = {
    "corrupt images": (break_images, ContractError, ["2 of 8", "train/0_real/0.png", "val/1_fake/1.jpg"]),
    "an empty folder": (empty_it, ContractError, ["no synthetic class"]),
    "an empty class": (empty_class, ContractError, ["class 1_fake has no image in train/"]),
    "no val": (lambda s: shutil.rmtree(s / "val"), ContractError, ["class 0_real has no image in val/"]),
    "a renamed class": (
        lambda s: (s / "val/1_fake").rename(s / "val/1_fakes"),
        ContractError,
        ["several class folders"],
    ),
    "a link out": (lambda s: (s / "val/0_real/x.png").symlink_to("/etc/hosts"), ContractError, ["out of the folder"]),
    "no folder": (lambda s: shutil.rmtree(s), LayoutError, ["is not a folder"]),
}


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_gives_one_clear_error_and_changes_nothing(
    kind: str, landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    spoil, error, expected = BAD_INPUT[kind]
    source = write_task(tmp_path / "in", seed=3)
    spoil(source)
    before = contents(landed_workspace)
    with pytest.raises(error) as caught:
        land(landed_workspace, source, "gamma")
    assert [text for text in expected if text not in str(caught.value)] == []
    assert contents(landed_workspace) == before


def test_an_unsafe_name_is_refused_and_nothing_is_written(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    source = write_task(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    for name in ("..", "../../up", "a/b", "/up"):
        with pytest.raises(LayoutError, match="task name"):
            land(workspace, source, name)
    for word in ("unknown", "all", "real", "undecided", "synthetic"):  # words of verdicts and figures
        with pytest.raises(LayoutError, match=f"can't be called '{word}'"):
            land(workspace, source, word)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_workspaces_own_data_is_no_source(landed_workspace: Workspace) -> None:
    for source in (landed_workspace.data_dir / "alpha", landed_workspace.root):
        with pytest.raises(LayoutError, match="overlaps"):
            land(landed_workspace, source, "gamma")


def test_files_that_no_landing_brought_are_not_landed_over(
    landed_workspace: Workspace, new_workspace: NewWorkspace, tmp_path: Path, write_task: WriteTask
) -> None:
    source = write_task(tmp_path / "in")
    for workspace in (landed_workspace, new_workspace()):
        stranger = workspace.data_dir / "gamma" / "mine.txt"
        stranger.parent.mkdir(parents=True)
        stranger.write_text("mine")
        with pytest.raises(ContractError, match=r"holds gamma, which data\.dvc does not know"):
            land(workspace, source, "gamma")
        assert stranger.read_text() == "mine"


def interrupted(step: str, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the landing's `step` do its work and then raise."""
    module = {"write_stream": pins, "add_to_dvc": keeping, "commit": repository}[step]
    real = getattr(module, step)

    def work_then_raise(*arguments: object) -> None:
        real(*arguments)
        raise error

    monkeypatch.setattr(module, step, work_then_raise)


@pytest.mark.parametrize("step", ["add_to_dvc", "write_stream"])
def test_ctrl_c_before_the_commit_leaves_no_trace(
    step: str, landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    (landed_workspace.root / "mine.txt").write_text("staged")
    git(landed_workspace.root, "add", "mine.txt")
    before = contents(landed_workspace)
    interrupted(step, monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        land(landed_workspace, write_task(tmp_path / "in", seed=3), "gamma")
    assert contents(landed_workspace) == before


def test_a_first_landing_that_git_refuses_leaves_no_trace(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    set_hook(workspace, "echo no >&2; exit 1")
    before = contents(workspace)
    with pytest.raises(DataVersionError, match=r"'git .*commit .* no"):
        land(workspace, write_task(tmp_path / "in"), "gaugan")
    assert contents(workspace) == before
    assert not workspace.data_dir.exists()


def test_what_git_has_not_committed_yet_has_not_landed(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = versions.revision(landed_workspace)
    seen: list[object] = []

    def write_then_look(workspace: Workspace, *what: Any) -> None:
        written(workspace, *what)
        seen.append([task.name for task in versions.landed(workspace)])
        seen.append(versions.revision(workspace))
        seen.append({path.partition("/")[0] for path in versions.manifest(workspace)})
        with pytest.raises(DataVersionError, match="'gamma' has not landed"):
            versions.read_task(workspace, "gamma")

    written = pins.write_stream
    monkeypatch.setattr(pins, "write_stream", write_then_look)
    set_hook(landed_workspace, "echo no >&2; exit 1")
    with pytest.raises(DataVersionError, match="no"):
        land(landed_workspace, write_task(tmp_path / "in", seed=3), "gamma")
    assert seen == [["alpha", "beta"], before, {"alpha", "beta"}]


def test_what_lands_without_a_commit_has_landed_once_it_is_committed(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    before = versions.revision(landed_workspace)
    for seed, name in ((3, "gamma"), (4, "delta")):
        land(landed_workspace, write_task(tmp_path / name, seed=seed), name, commit=False)
    assert versions.revision(landed_workspace) == before
    git(landed_workspace.root, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "-am", "Land two")
    assert [task.name for task in versions.landed(landed_workspace)] == ["alpha", "beta", "gamma", "delta"]
    after = versions.revision(landed_workspace)
    assert after.commit == git(landed_workspace.root, "rev-parse", "HEAD").strip()
    assert after.digest in git(landed_workspace.root, "show", f"{after.commit}:data.dvc")
    assert len(versions.read_task(landed_workspace, "delta").train) == 4


def test_who_blocks_dvc_and_what_to_do_is_told_to_the_last_line(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    holder = {"pid": os.getpid(), "cmd": "dvc add data"}
    lock = landed_workspace.root / ".dvc" / "tmp" / "rwlock"
    lock.write_text(json.dumps({"write": {str(landed_workspace.data_dir): holder}}))
    with pytest.raises(DataVersionError, match=rf"(?s)\(PID {os.getpid()}\): dvc add data.*manually remove"):
        land(landed_workspace, write_task(tmp_path / "in", seed=3), "gamma")


def test_nothing_lands_while_params_yaml_is_in_no_commit(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    git(workspace.root, "rm", "--quiet", "--cached", "params.yaml")
    git(workspace.root, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "-m", "Forget it")
    with pytest.raises(DataVersionError, match=r"params\.yaml is in no commit.*'lorax init"):
        land(workspace, write_task(tmp_path / "in"), "gaugan")
    assert not workspace.data_dvc_path.exists()


def test_ctrl_c_after_the_commit_leaves_the_task_landed(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted("commit", monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        land(landed_workspace, write_task(tmp_path / "in", seed=3), "gamma")
    assert [entry.name for entry in versions.landed(landed_workspace)][-1] == "gamma"
    assert repository.is_committed(landed_workspace.root, "data.dvc")
    assert (landed_workspace.data_dir / "gamma" / "val").is_dir()


def test_a_commit_that_a_killed_landing_left_at_work_is_waited_for(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    hook, begun = landed_workspace.root / ".git/hooks/pre-commit", tmp_path / "begun"
    hook.write_text(f"#!/bin/sh\ntouch {begun}\nsleep 1.5\n")
    hook.chmod(0o755)
    source = write_task(tmp_path / "in", seed=3)
    landing = subprocess.Popen([sys.executable, "-c", ONE_OF_TWO, landed_workspace.root, source, "gamma"])
    while not begun.exists():
        assert landing.poll() is None
        time.sleep(0.01)
    landing.kill()
    landing.wait()
    undo_killed(landed_workspace)
    assert [entry.name for entry in versions.landed(landed_workspace)][-1] == "gamma"
    assert git(landed_workspace.root, "status", "--porcelain") == ""
    assert (landed_workspace.data_dir / "gamma" / "val").is_dir()


def test_a_git_that_is_killed_once_head_has_moved_leaves_nothing_staged(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_locks, "_YOUNG_S", 0.0)  # the lock that it leaves
    hook = landed_workspace.root / ".git/hooks/reference-transaction"
    hook.write_text("#!/bin/sh\n[ $1 = committed ] && kill -9 $PPID\nexit 0\n")
    hook.chmod(0o755)
    with pytest.raises(DataVersionError):
        land(landed_workspace, write_task(tmp_path / "in", seed=3), "gamma")
    assert [entry.name for entry in versions.landed(landed_workspace)][-1] == "gamma"
    assert git(landed_workspace.root, "status", "--porcelain") == ""


def test_a_landing_that_loses_another_tasks_files_is_undone(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(landed_workspace)
    added = keeping.add_to_dvc

    def add_everything(workspace: Workspace, path: str) -> None:
        (workspace.data_dir / "alpha").rename(tmp_path / "alpha")
        added(workspace, "data")  # what lies in data/ now replaces all that was pinned
        (tmp_path / "alpha").rename(workspace.data_dir / "alpha")

    monkeypatch.setattr(keeping, "add_to_dvc", add_everything)
    with pytest.raises(DataVersionError, match=r"does not pin what it should: 8 files .* alpha/train"):
        land(landed_workspace, write_task(tmp_path / "in", seed=3), "gamma")
    unforeseen = {path for path in contents(landed_workspace) if path.endswith(".dir")} - before.keys()
    assert {p: held for p, held in contents(landed_workspace).items() if p not in unforeseen} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from lorax.data import landing, pins
from lorax.workspace import Workspace
real = pins.write_stream
def write_then_die(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
pins.write_stream = write_then_die
landing.land(Workspace(Path(sys.argv[1])), Path(sys.argv[2]), "gamma")
"""


def test_what_a_killed_landing_left_is_put_back_by_the_next(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    before = contents(landed_workspace)
    source = write_task(tmp_path / "in", seed=3)
    killed = subprocess.run([sys.executable, "-c", KILLED, landed_workspace.root, source])
    assert killed.returncode == -signal.SIGKILL
    assert contents(landed_workspace) != before
    with pytest.raises(ContractError):
        break_images(source)
        land(landed_workspace, source, "gamma")
    assert contents(landed_workspace) == before


def test_what_a_killed_landing_left_is_put_back_before_learning_unless_another_is_at_work(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    before = contents(landed_workspace)
    subprocess.run([sys.executable, "-c", KILLED, landed_workspace.root, write_task(tmp_path / "in", seed=3)])
    after_the_kill = contents(landed_workspace)
    with one_at_a_time(landed_workspace):
        undo_killed(landed_workspace)
        assert contents(landed_workspace) == after_the_kill != before
    undo_killed(landed_workspace)
    assert contents(landed_workspace) == before


def test_two_workspaces_with_one_cache_bring_the_same_images_at_once(
    new_workspace: NewWorkspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = new_workspace("first"), new_workspace("second")
    for workspace in (first, second):
        (workspace.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tmp_path / 'shared'}\n")
    source, copy, is_done = write_task(tmp_path / "in", seed=3), keeping.copy_bytes, []

    def copy_meanwhile(old: str, new: str) -> None:
        copy(old, new)
        if not is_done:
            is_done.append(True)
            land(second, source, "gamma")

    monkeypatch.setattr(keeping, "copy_bytes", copy_meanwhile)
    land(first, source, "gamma")
    kept = [path for path in (tmp_path / "shared").rglob("*") if path.is_file() and path.suffix != ".dir"]
    assert len(kept) == 8
    assert all(versions.md5_of(path) == path.parent.name + path.name for path in kept)


def test_a_source_that_is_written_to_while_it_lands_does_not_land(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    before = contents(landed_workspace)
    source = write_task(tmp_path / "in", seed=3)

    def write_over(plan: object) -> None:
        target = source / "train/1_fake/0.png"
        before = target.stat()
        shutil.copyfile(source / "val/1_fake/0.png", target)
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync does

    with pytest.raises(DataVersionError, match=r"train/1_fake/0\.png was changed while it landed"):
        land(landed_workspace, source, "gamma", on_plan=write_over)
    assert contents(landed_workspace) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    ("share", "said"), [(0.7, "could not write .*free space"), (1.3, "the disk is full")], ids=["cache", "data"]
)
def test_a_disk_that_fills_up_is_a_storage_error_and_changes_nothing(
    share: float, said: str, landed_workspace: Workspace, small_disk: Path, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace = Workspace(small_disk / "workspace")
    shutil.copytree(landed_workspace.root, workspace.root)
    before = contents(workspace)
    free = shutil.disk_usage(small_disk).free
    source = write_task(tmp_path / "in", {"0_real": 1, "1_fake": 1}, seed=3, side=int((free * share / 4 / 3) ** 0.5))
    with pytest.raises(StorageError, match=said):
        land(workspace, source, "gamma")
    assert contents(workspace) == before


def test_a_disk_that_fills_up_while_a_landing_is_tried_is_a_storage_error(
    landed_workspace: Workspace, small_disk: Path, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace = Workspace(small_disk / "workspace")
    shutil.copytree(landed_workspace.root, workspace.root)
    before = contents(workspace)
    source = write_task(tmp_path / "in", seed=3, side=600)
    with pytest.raises(StorageError, match="disk is full"):
        check_landing(workspace, source, "gamma", LandingOptions(Reading(recode=95)))
    assert contents(workspace) == before


ONE_OF_TWO = """
import sys
from pathlib import Path
from lorax.data.commands import dvc
from lorax.data.landing import land, one_at_a_time, undo_killed
from lorax.workspace import Workspace
land(Workspace(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3])
"""


def test_two_landings_at_once_run_one_after_the_other(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    sources = [write_task(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"), 1)]
    started = [subprocess.Popen([sys.executable, "-c", ONE_OF_TWO, workspace.root, s, s.name]) for s in sources]
    assert [process.wait() for process in started] == [0, 0]
    assert sorted(entry.name for entry in versions.landed(workspace)) == ["one", "two"]
    assert [len(versions.read_task(workspace, name).train) for name in ("one", "two")] == [4, 4]
    assert len(git(workspace.root, "log", "--format=%s").splitlines()) == 3


def test_where_a_remote_and_an_upstream_are_set_data_and_commit_are_pushed(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", "hub")
    repository.set_remote(workspace.root, str(tmp_path / "store"))
    repository.commit(workspace.root, [".dvc/config"], "Name the remote")
    git(workspace.root, "remote", "add", "origin", str(tmp_path / "hub"))
    git(workspace.root, "push", "--quiet", "--set-upstream", "origin", "main")
    land(workspace, write_task(tmp_path / "in", seed=1), "first")

    git(tmp_path, "clone", "--quiet", "hub", "clone")
    clone = Workspace(tmp_path / "clone")
    land(clone, write_task(tmp_path / "in2", seed=2), "second")
    assert not (clone.data_dir / "first").exists()
    assert len(versions.fetch(clone, versions.read_task(clone, "first").train)) == 4
    assert git(tmp_path / "hub", "log", "-1", "--format=%s", "main").startswith("Land second")

    land(workspace, write_task(tmp_path / "in3", seed=3), "third")  # the hub is ahead
    assert [task.name for task in versions.landed(workspace)] == ["first", "second", "third"]
    assert git(tmp_path / "hub", "log", "-1", "--format=%s", "main").startswith("Land third")


def test_where_dvc_is_to_link_data_and_cache_are_one_file_until_a_failed_landing_leaves_none(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    dvc(workspace.root, "config", "cache.type", "hardlink,copy")
    repository.commit(workspace.root, [".dvc/config"], "Link")
    source = write_task(tmp_path / "in", seed=1)
    land(workspace, source, "first")
    old = git(workspace.root, "rev-parse", "HEAD").strip()

    def images() -> list[Path]:
        return [path for path in workspace.data_dir.rglob("*") if path.is_file()]

    def is_clean() -> bool:
        return "up to date" in subprocess.check_output(
            [sys.executable, "-m", "dvc", "status"], cwd=workspace.root, text=True
        )

    kept = versions.cache_paths(workspace, versions.manifest(workspace).values())
    assert all(path.samefile(kept[versions.md5_of(path)]) for path in images())
    assert {path.stat().st_nlink for path in source.rglob("*") if path.is_file()} == {1}
    assert is_clean()

    before = contents(workspace)
    set_hook(workspace, "exit 1")
    with pytest.raises(DataVersionError):
        land(workspace, write_task(tmp_path / "in2", seed=2), "second")
    assert contents(workspace) == before
    set_hook(workspace, "exit 0")
    land(workspace, tmp_path / "in2", "second")

    damaged = workspace.data_dir / "first/train/0_real/0.png"
    sound = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes(b"written over, and so is the cache")
    land(workspace, source, "first")
    assert damaged.read_bytes() == sound
    assert {path.stat().st_nlink for path in images()} == {2}
    assert is_clean()
    git(workspace.root, "checkout", "--quiet", old, "--", "data.dvc")
    dvc(workspace.root, "checkout")
    assert {path.relative_to(workspace.data_dir).parts[0] for path in images()} == {"first"}


def test_in_a_clone_without_cache_and_remote_landing_the_known_tasks_again_heals_it(
    shared_landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    git(tmp_path, "clone", "--quiet", str(shared_landed_workspace.root), "clone")
    clone = Workspace(tmp_path / "clone")
    pinned = clone.data_dvc_path.read_bytes()
    with pytest.raises(DataVersionError, match="dvc remote add -d"):
        land(clone, write_task(tmp_path / "new", seed=3), "gamma")
    assert not clone.data_dir.exists()
    for seed, name in ((1, "alpha"), (2, "beta")):
        land(clone, write_task(tmp_path / name, seed=seed), name, commit=False)
    assert clone.data_dvc_path.read_bytes() == pinned
    assert len(versions.fetch(clone, versions.read_task(clone, "alpha").test)) == 4
    assert repository.is_committed(clone.root, "data.dvc")


def test_a_task_that_lands_again_with_other_bytes_keeps_its_place_and_the_old_bytes_resolve(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    old = versions.read_task(landed_workspace, "alpha")
    source = write_task(tmp_path / "in", {"0_real": 1, "1_fake": 1, "2_new": 1}, seed=9)
    kept = next((landed_workspace.data_dir / "alpha/train/0_real").glob("*.png"))
    shutil.copy(kept, source / "train/0_real/kept.png")
    [entry] = land(landed_workspace, source, "alpha", options=LandingOptions(replace=True))
    assert entry.digest != old.digest
    assert [task.name for task in versions.landed(landed_workspace)] == ["alpha", "beta"]
    new = versions.read_task(landed_workspace, "alpha")
    assert (new.digest, len(new.train), len(new.test)) == (entry.digest, 4, 3)
    on_disk = {p.relative_to(landed_workspace.data_dir).as_posix() for p in landed_workspace.data_dir.rglob("*.*")}
    assert on_disk == set(versions.manifest(landed_workspace))
    assert len(versions.read_task(landed_workspace, "beta").train) == 4
    shown = git(landed_workspace.root, "log", "-1", "--format=%s").strip()
    assert shown == "Land alpha again: 4 train and 3 val images"
    assert git(landed_workspace.root, "status", "--short") == ""
    assert not list(landed_workspace.work_dir.glob("landing/*"))
    assert len(versions.fetch(landed_workspace, old.train + old.test)) == 8


@pytest.mark.parametrize("step", ["add_to_dvc", "write_stream"])
def test_a_replacement_that_is_interrupted_leaves_no_trace(
    step: str, landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(landed_workspace)
    interrupted(step, monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        land(landed_workspace, write_task(tmp_path / "in", seed=9), "alpha", options=LandingOptions(replace=True))
    assert contents(landed_workspace) == before


def test_a_replacement_that_is_killed_is_put_back_by_the_next_landing_and_then_done(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    before = contents(landed_workspace)
    source = write_task(tmp_path / "in", seed=9)
    code = KILLED.replace('"gamma"', '"alpha", options=landing.LandingOptions(replace=True)')
    killed = subprocess.run([sys.executable, "-c", code, landed_workspace.root, source])
    assert killed.returncode == -signal.SIGKILL
    assert contents(landed_workspace) != before
    with pytest.raises(ContractError, match="--replace"):
        land(landed_workspace, source, "alpha")
    assert contents(landed_workspace) == before
    [entry] = land(landed_workspace, source, "alpha", options=LandingOptions(replace=True))
    assert versions.landed(landed_workspace)[0] == entry


def test_a_clone_without_the_old_bytes_can_replace_them_and_still_gets_them_from_the_remote(
    workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    land(workspace, write_task(tmp_path / "one", seed=1), "first")
    old = versions.read_task(workspace, "first")
    repository.set_remote(workspace.root, str(tmp_path / "store"))
    repository.commit(workspace.root, [".dvc/config"], "Name the remote")
    land(workspace, write_task(tmp_path / "two", seed=2), "first", options=LandingOptions(replace=True))
    git(tmp_path, "clone", "--quiet", str(workspace.root), "clone")
    clone = Workspace(tmp_path / "clone")
    git(clone.root, "remote", "remove", "origin")
    assert len(versions.fetch(clone, old.train)) == 4
    land(clone, write_task(tmp_path / "three", seed=3), "first", options=LandingOptions(replace=True))
    assert len(versions.read_task(clone, "first").train) == 4
    assert len(versions.fetch(clone, old.train)) == 4
