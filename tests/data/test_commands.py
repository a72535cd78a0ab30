"""What is read from git and DVC does not depend on a person's settings or language."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lorax.data import commands, repository, versions
from lorax.data.landing import land
from lorax.errors import DataVersionError
from lorax.workspace import Workspace
from tests.conftest import WriteTask

SETTINGS = """\
[user]
    name = Ä. Person
    email = person@example.org
    signingkey = {key}
[commit]
    gpgsign = true
[gpg]
    format = ssh
[gpg "ssh"]
    allowedSignersFile = {signers}
[log]
    showSignature = true
    decorate = full
[color]
    ui = always
[core]
    quotePath = true
[diff]
    external = false
    noprefix = true
"""


@pytest.fixture
def signing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of a person who signs commits and sees it, in colour."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("signing a commit needs ssh-keygen, which this machine has not")
    key, signers = tmp_path / "key", tmp_path / "signers"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    signers.write_text(f"person@example.org {key.with_suffix('.pub').read_text()}")
    (tmp_path / "gitconfig").write_text(SETTINGS.format(key=key, signers=signers))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("LANGUAGE", "de")


@pytest.mark.usefixtures("signing")
def test_a_signed_landing_in_colour_is_known_by_its_commit(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    root = tmp_path / "häus"
    landed_workspace.root.rename(root)
    workspace = Workspace(root)
    land(workspace, write_task(tmp_path / "in", seed=3), "gamma")
    shown = subprocess.run(["git", "log", "-1", "--format=%H"], cwd=root, check=True, capture_output=True, text=True)
    assert 'Good "git" signature' in shown.stdout + shown.stderr  # what porcelain says under these settings
    found = versions.revision(workspace)
    assert found.commit == commands.git(root, "rev-parse", "HEAD")
    assert repository.holds(root, found.commit)
    assert repository.is_committed(root, "data.dvc")
    assert [task.name for task in versions.landed(workspace)] == ["alpha", "beta", "gamma"]
    (root / "ä b.txt").write_text("one")
    assert not repository.is_committed(root, "ä b.txt")
    repository.commit(root, ["ä b.txt"], "Ä")
    assert repository.is_committed(root, "ä b.txt")


def test_what_is_no_name_of_a_commit_is_not_taken_for_one() -> None:
    with pytest.raises(DataVersionError, match="full name of a commit"):
        commands.checked_commit('Good "git" signature for person@example.org')


def test_tools_speak_english_and_find_a_user_a_home_and_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TERM", raising=False)
    code = "import getpass, os; print(os.environ['LC_ALL'], os.access(os.environ['HOME'], os.W_OK), getpass.getuser())"
    said = commands.run([sys.executable, "-c", code], tmp_path).stdout.split()
    assert said[:2] == ["C", "True"]
    assert said[2]
