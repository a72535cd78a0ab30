from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lorax.commands import status
from lorax.data import landing, memory, pins, repository, versions
from lorax.data.admission import LandingOptions
from lorax.errors import DataVersionError
from lorax.stream import DataRevision
from lorax.workspace import Workspace
from tests.conftest import write_task_files

pytestmark = pytest.mark.slow


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def clone(workspace: Workspace, to: Path) -> Workspace:
    git(workspace.root, "clone", "--quiet", str(workspace.root), str(to))
    return Workspace(to)


def test_a_new_repository_is_its_own_even_inside_another(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    versions.create_repository(tmp_path / "inner")
    assert Path(git(tmp_path / "inner", "rev-parse", "--show-toplevel").strip()) == tmp_path / "inner"
    config = (tmp_path / "inner" / ".dvc" / "config").read_text()
    assert "analytics = false" in config
    assert "autostage = false" in config


def test_making_a_repository_again_changes_nothing(workspace: Workspace) -> None:
    config = workspace.root / ".dvc" / "config"
    config.write_text(config.read_text() + "# mine\n")
    versions.create_repository(workspace.root)
    assert "# mine" in config.read_text()


def test_where_nothing_landed_there_is_no_stream_and_no_digest(workspace: Workspace) -> None:
    assert versions.landed(workspace) == ()
    assert versions.revision(workspace) == DataRevision("", None)
    assert versions.manifest(workspace) == {}


def test_the_stream_names_tasks_in_landing_order(shared_landed_workspace: Workspace) -> None:
    assert [entry.name for entry in versions.landed(shared_landed_workspace)] == ["alpha", "beta"]


def test_the_revision_is_what_data_dvc_and_git_say(shared_landed_workspace: Workspace) -> None:
    found = versions.revision(shared_landed_workspace)
    assert f"md5: {found.digest}\n" in shared_landed_workspace.data_dvc_path.read_text()
    assert found.commit == git(shared_landed_workspace.root, "rev-parse", "HEAD").strip()


def test_asking_what_has_landed_imports_neither_dvc_nor_torch(shared_landed_workspace: Workspace) -> None:
    code = (
        "import sys; from pathlib import Path; from lorax.data import versions; from lorax.workspace import Workspace; "
        f"w = Workspace(Path({str(shared_landed_workspace.root)!r})); versions.landed(w); versions.revision(w); "
        "assert not {'dvc', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_landed_task_is_read_without_its_files(landed_workspace: Workspace) -> None:
    shutil.rmtree(landed_workspace.data_dir)
    task = versions.read_task(landed_workspace, "beta")
    assert (len(task.train), len(task.test), [c.name for c in task.classes]) == (4, 4, ["real", "beta"])
    assert task.digest == versions.landed(landed_workspace)[1].digest


def test_what_landed_is_found_from_any_folder_of_the_workspace(
    landed_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = landed_workspace.work_dir / "services" / "watcher"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert len(versions.manifest(landed_workspace)) == 16


def test_a_data_dvc_that_stays_the_same_is_parsed_once_for_all_its_tasks(shared_landed_workspace: Workspace) -> None:
    assert pins.committed(shared_landed_workspace) is pins.committed(shared_landed_workspace)


def test_a_task_that_has_not_landed_is_refused_with_those_that_have(shared_landed_workspace: Workspace) -> None:
    with pytest.raises(DataVersionError, match=r"'gamma' has not landed .* landed are: alpha, beta"):
        versions.read_task(shared_landed_workspace, "gamma")


def test_the_task_digest_depends_on_paths_and_bytes_but_not_on_order() -> None:
    pairs = {"train/0_real/a.png": "0" * 32, "val/1_fake/b.png": "1" * 32}
    digest = versions.task_digest(pairs)
    assert versions.task_digest(dict(reversed(pairs.items()))) == digest
    assert versions.task_digest(pairs | {"val/1_fake/b.png": "2" * 32}) != digest
    assert versions.task_digest({f"x{path}": md5 for path, md5 in pairs.items()}) != digest


def test_a_stream_that_contradicts_its_files_is_refused(landed_workspace: Workspace) -> None:
    alpha, beta = versions.landed(landed_workspace)
    pins.write_stream(landed_workspace, [dataclasses.replace(alpha, digest="0" * 64), beta], {})
    repository.commit(landed_workspace.root, ["data.dvc"], "Damage")
    assert versions.read_task(landed_workspace, "beta").name == "beta"
    with pytest.raises(DataVersionError, match="contradicts itself"):
        versions.read_task(landed_workspace, "alpha")


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\nouts:\n", "outs: []\n", "outs:\n- md5: ../x\n  path: data\n"])
def test_a_damaged_data_dvc_is_refused(workspace: Workspace, text: str) -> None:
    workspace.data_dvc_path.write_text(text)
    with pytest.raises(DataVersionError, match=r"data\.dvc can't be read"):
        pins.on_disk(workspace)
    repository.commit(workspace.root, ["data.dvc"], "Damage")
    for read in (versions.landed, versions.revision, versions.manifest):
        with pytest.raises(DataVersionError, match=r"data\.dvc in git's \w+ can't be read"):
            read(workspace)


def test_data_that_no_landing_pinned_is_refused(landed_workspace: Workspace) -> None:
    path = landed_workspace.data_dvc_path
    path.write_text(path.read_text().partition("meta:")[0])
    repository.commit(landed_workspace.root, ["data.dvc"], "Damage")
    with pytest.raises(DataVersionError, match="names no stream"):
        versions.landed(landed_workspace)


def test_fetch_finds_bytes_in_the_cache(landed_workspace: Workspace) -> None:
    shutil.rmtree(landed_workspace.data_dir)
    task = versions.read_task(landed_workspace, "alpha")
    found = versions.fetch(landed_workspace, task.train + task.test)
    assert found.keys() == {s.md5 for s in task.train + task.test}
    for md5, path in found.items():
        assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == md5


def test_fetch_takes_what_the_cache_lacks_from_data_if_the_bytes_are_right(landed_workspace: Workspace) -> None:
    samples = versions.read_task(landed_workspace, "alpha").train
    shutil.rmtree(landed_workspace.root / ".dvc" / "cache")
    found = versions.fetch(landed_workspace, samples)
    assert found == {s.md5: landed_workspace.data_dir / s.path for s in samples}
    (landed_workspace.data_dir / samples[0].path).write_bytes(b"other")
    with pytest.raises(DataVersionError, match="1 of 4 images") as caught:
        versions.fetch(landed_workspace, samples)
    assert samples[0].path in str(caught.value)
    assert "dvc remote add -d" in str(caught.value)


def test_what_is_damaged_in_the_cache_is_taken_from_data_or_the_remote_and_mended(
    landed_workspace: Workspace, tmp_path: Path
) -> None:
    samples = versions.read_task(landed_workspace, "alpha").train
    repository.set_remote(landed_workspace.root, str(tmp_path / "store"))
    repository.push_data(landed_workspace.root)
    cached = versions.cache_paths(landed_workspace, [s.md5 for s in samples])
    for whole_in_data in (True, False):
        for path in cached.values():
            path.chmod(0o644)
            path.write_bytes(b"damaged")
        if not whole_in_data:
            shutil.rmtree(landed_workspace.data_dir)
        versions.fetch(landed_workspace, samples)
        assert versions.fetch(landed_workspace, samples) == cached
        assert all(versions.md5_of(path) == md5 for md5, path in cached.items())
    shutil.rmtree(tmp_path / "store")
    cached[samples[0].md5].chmod(0o644)
    cached[samples[0].md5].write_bytes(b"damaged")
    with pytest.raises(DataVersionError, match="1 of 4 images"):
        versions.fetch(landed_workspace, samples)
    assert cached[samples[0].md5].read_bytes() == b"damaged"


def test_dvc_s_collector_takes_nothing_that_a_version_needs_of_data_that_was_replaced(
    landed_workspace: Workspace, tmp_path: Path
) -> None:
    old = versions.read_task(landed_workspace, "alpha").train
    repository.set_remote(landed_workspace.root, str(tmp_path / "store"))
    versions.keep(landed_workspace, "a-state", old)
    landing.land(
        landed_workspace, write_task_files(tmp_path / "new", seed=9), "alpha", options=LandingOptions(replace=True)
    )
    subprocess.run(
        [sys.executable, "-m", "dvc", "gc", "--workspace", "--cloud", "--force"], cwd=landed_workspace.root, check=True
    )
    cached = versions.cache_paths(landed_workspace, [s.md5 for s in old])
    assert not any(path.exists() for path in cached.values())
    assert versions.fetch(landed_workspace, old).keys() == cached.keys()

    shutil.rmtree(landed_workspace.memory_dir)  # as in a clone
    for path in cached.values():
        path.unlink(missing_ok=True)
    found = versions.fetch(landed_workspace, old)
    assert all(versions.md5_of(path) == md5 for md5, path in found.items())


def test_what_a_version_needs_and_nobody_has_any_more_is_told_with_what_works(
    landed_workspace: Workspace, tmp_path: Path
) -> None:
    old = versions.read_task(landed_workspace, "alpha").train
    versions.keep(landed_workspace, "a-state", old)
    assert versions.lost(landed_workspace, "a-state") == []
    assert versions.lost(landed_workspace, "another") == []
    assert status._lost_images(landed_workspace, {"state_digest": "a-state", "version": 7}) == []
    landing.land(
        landed_workspace, write_task_files(tmp_path / "new", seed=9), "alpha", options=LandingOptions(replace=True)
    )
    for place in (*versions.cache_paths(landed_workspace, [s.md5 for s in old]).values(),):
        place.unlink()
    for sample in old:
        memory.path_of(landed_workspace, sample.md5).unlink()
    assert versions.lost(landed_workspace, "a-state") == list(old)
    (told,) = status._lost_images(landed_workspace, {"state_digest": "a-state", "version": 7})
    assert "4 exemplars or calibration images that version 7 needs are nowhere to be had" in told
    assert told.endswith("'lorax relearn alpha'.")
    with pytest.raises(DataVersionError, match=r"4 of 4 images .*'lorax relearn alpha'\.$") as caught:
        versions.fetch(landed_workspace, old)
    assert "Landing the same folder" not in str(caught.value)


def test_a_clone_with_a_remote_reads_and_fetches_what_landed_elsewhere(
    landed_workspace: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repository.set_remote(landed_workspace.root, str(tmp_path / "store"))
    repository.push_data(landed_workspace.root)
    repository.commit(landed_workspace.root, [".dvc/config"], "Name the remote")
    other = clone(landed_workspace, tmp_path / "clone")
    assert versions.default_remote(other) == "storage"
    task = versions.read_task(other, "beta")
    assert task == versions.read_task(landed_workspace, "beta")
    capfd.readouterr()
    found = versions.fetch(other, task.test)
    assert found.keys() == {s.md5 for s in task.test}
    assert all(path.is_relative_to(other.root) for path in found.values())
    assert capfd.readouterr() == ("", "")

    shutil.rmtree(tmp_path / "store")
    assert versions.fetch(other, task.test) == found
    with pytest.raises(DataVersionError, match=r"nor in DVC's remote 'storage': beta/train"):
        versions.fetch(other, task.train)


def test_a_clone_without_cache_and_remote_says_how_to_get_the_list_of_files(
    shared_landed_workspace: Workspace, tmp_path: Path
) -> None:
    other = clone(shared_landed_workspace, tmp_path / "clone")
    assert [entry.name for entry in versions.landed(other)] == ["alpha", "beta"]
    with pytest.raises(DataVersionError, match=r"the list of files below data/ .*dvc remote add -d"):
        versions.read_task(other, "alpha")


def test_what_is_no_md5_is_never_looked_for(shared_landed_workspace: Workspace) -> None:
    sample = versions.read_task(shared_landed_workspace, "alpha").train[0]
    with pytest.raises(DataVersionError, match="is no md5"):
        versions.fetch(shared_landed_workspace, [dataclasses.replace(sample, md5="../../../etc/passwd")])


def test_a_commit_holds_the_named_paths_only_and_keeps_what_the_user_staged(workspace: Workspace) -> None:
    for name in ("mine.txt", "params.yaml", "new.txt"):
        (workspace.root / name).write_text("changed")
    git(workspace.root, "add", "mine.txt")
    repository.commit(workspace.root, ["new.txt", "params.yaml"], "Two files")
    assert git(workspace.root, "show", "--name-only", "--format=%s|%an", "HEAD").split() == [
        *("Two", "files|lorax"),
        *("new.txt", "params.yaml"),
    ]
    assert "A  mine.txt" in git(workspace.root, "status", "--short")
    assert repository.is_committed(workspace.root, "new.txt")
    (workspace.root / "new.txt").write_text("again")
    assert not repository.is_committed(workspace.root, "new.txt")


def test_a_refused_commit_leaves_the_index_as_it_was(workspace: Workspace) -> None:
    (workspace.root / "mine.txt").write_text("mine")
    (workspace.root / "new.txt").write_text("new")
    git(workspace.root, "add", "mine.txt")
    before = git(workspace.root, "status", "--short")
    hook = workspace.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho the hook says no >&2\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(DataVersionError, match="the hook says no"):
        repository.commit(workspace.root, ["new.txt"], "Refused")
    assert git(workspace.root, "status", "--short") == before
