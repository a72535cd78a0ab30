"""A learner state's branches in an atlas: once each, labelled, and marked where they began at another's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lorax.atlas.adapter import Adapter
from lorax.atlas.formats import read_all
from lorax.atlas.index import Atlas
from lorax.errors import AtlasError
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state, save_state
from lorax.stream import TaskClass
from tests.atlas.made import made
from tests.tiny_learner import learn_stream, tiny_params


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state after alpha and beta."""
    folder = tmp_path_factory.mktemp("branches")
    return learn_stream(folder, tiny_params(folder), ["alpha", "beta"])[-1].state_dir


@pytest.fixture
def atlas(tmp_path: Path) -> Atlas:
    return Atlas.open(tmp_path / "atlas")


def changed(state: LearnerState, into: Path, **of_newest: object) -> list[Adapter]:
    """The same state with another newest branch."""
    *older, newest = state.branches
    save_state(replace(state, branches=(*older, replace(newest, **of_newest))), into)
    return read_all(into)


def add_missing(atlas: Atlas, branches: list[Adapter], on_wait: Callable[[], None] = lambda: None) -> list[str]:
    """Add those that the atlas lacks; returns why the others were refused."""
    with atlas.adding(keep_going=True, on_wait=on_wait) as newcomers:
        newcomers.offer_all(branches, missing_only=True)
    return newcomers.refused


def test_each_is_labelled_by_its_task_s_generators_without_the_real_class(learned: Path, tmp_path: Path) -> None:
    state = load_state(learned)
    classes = replace(state.classes, entries=state.classes.entries[:2])
    classes = classes.with_task("beta", (TaskClass(1, "beta"), TaskClass(2, "other")))
    state = replace(state, classes=classes, exemplars=(), calibration_memory=())
    save_state(state, tmp_path / "state")
    labels = {branch.name: branch.label for branch in read_all(tmp_path / "state")}
    assert labels == {"alpha": "alpha", "beta": "beta+beta/other"}


def test_an_atlas_takes_each_once(learned: Path, atlas: Atlas) -> None:
    for _ in range(2):
        assert add_missing(atlas, read_all(learned)) == []
        assert [(e.name, e.label, e.kind) for e in atlas.entries] == [
            ("alpha", "alpha", "branch"),
            ("beta", "beta", "branch"),
        ]


def test_one_that_started_from_another_s_weights_is_marked(learned: Path, atlas: Atlas, tmp_path: Path) -> None:
    add_missing(atlas, changed(load_state(learned), tmp_path / "state", start="alpha"))
    assert {e.name: e.kind for e in atlas.entries} == {"alpha": "branch", "beta": "derived"}


def test_a_task_that_was_learned_twice_has_two(learned: Path, atlas: Atlas, tmp_path: Path) -> None:
    add_missing(atlas, read_all(learned))
    state = load_state(learned)
    other = {name: value + 0.1 for name, value in state.branches[1].weights.items()}
    add_missing(atlas, changed(state, tmp_path / "state", weights=other))
    alpha, beta, again = atlas.entries
    assert [e.name for e in (alpha, beta, again)] == ["alpha", "beta", f"beta@{again.digest[:8]}"]
    assert again.label == "beta"


def test_one_that_was_never_trained_is_refused_and_the_others_are_not(
    learned: Path, atlas: Atlas, tmp_path: Path
) -> None:
    state = load_state(learned)
    zero = {name: 0 * value for name, value in state.branches[0].weights.items()}
    save_state(replace(state, branches=(replace(state.branches[0], weights=zero), state.branches[1])), tmp_path / "s")
    [reason] = add_missing(atlas, read_all(tmp_path / "s"))
    assert "its product" in reason
    assert [e.name for e in atlas.entries] == ["beta"]


def test_an_atlas_of_another_base_refuses_them_all_and_stays_as_it_is(learned: Path, atlas: Atlas) -> None:
    atlas.add([made("theirs", base="another")])
    assert len(add_missing(atlas, read_all(learned))) == 2
    assert [e.name for e in atlas.entries] == ["theirs"]


def test_nobody_waits_for_another_add_who_does_not_want_to(learned: Path, atlas: Atlas) -> None:
    def leave() -> None:
        raise AtlasError("in use")

    with atlas.adding(), pytest.raises(AtlasError, match="in use"):
        add_missing(Atlas.open(atlas.folder), read_all(learned), leave)
