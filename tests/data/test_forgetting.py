"""Which images may go, where others share the history and DVC's remote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lorax.data import forgetting, versions, withdrawal
from lorax.data.landing import land
from lorax.errors import DataVersionError
from lorax.workspace import Workspace
from tests.conftest import write_task_files
from tests.data.test_upstream import _template, clones, names

__all__ = ["_template", "clones"]

pytestmark = pytest.mark.slow


def test_what_others_have_landed_since_stays_and_what_was_never_pushed_is_known(
    clones: tuple[Workspace, Workspace], tmp_path: Path
) -> None:
    here, there = clones
    raw = {name: write_task_files(tmp_path / name, seed=seed) for seed, name in enumerate(("bad", "second"), 2)}
    common = ("train/0_real/0.png", "train/1_fake/0.png")
    for path in common:
        shutil.copy(raw["bad"] / path, (raw["second"] / path).with_name("shared.png"))
    hub = here.root.parent / "hub"
    hub.rename(hub.with_name("away"))
    with pytest.raises(DataVersionError, match="was not pushed"):
        land(here, raw["bad"], "bad")
    theirs = frozenset(versions.below(versions.manifest(here), "bad").values())
    withdrawal.prepared(here, "bad", "why")
    with pytest.raises(DataVersionError, match="is withdrawn here, but that was not pushed"):
        withdrawal.carry_out(here, "bad")
    with pytest.raises(DataVersionError, match=r"(?s)what others have landed can't be asked for.*Nothing was removed"):
        forgetting.images_of(here, "bad", (), None)
    hub.with_name("away").rename(hub)
    land(there, raw["second"], "second")

    shared = frozenset(versions.md5_of(raw["bad"] / path) for path in common)
    found = forgetting.images_of(here, "bad", (), None)
    assert (found.shared, found.gone, found.branches) == (shared, theirs - shared, frozenset({"bad"}))
    withdrawal.carry_out(here, "bad")
    assert names(here) == ["first", "second"]
    assert forgetting.images_of(here, "bad", (), None) == found, "though no commit of a branch has landed it"
    with pytest.raises(DataVersionError, match=r"'bda' has never landed in .* to be forgotten, are: bad\."):
        forgetting.images_of(here, "bda", (), None)
    with pytest.raises(DataVersionError, match=r"task 'second' is landed\. Withdraw it first"):
        forgetting.images_of(here, "second", (), None)
