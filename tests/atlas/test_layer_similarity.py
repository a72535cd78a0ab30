"""The step that compares an episode's branches: its record, the workspace's atlas, and that nothing of it can fail."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lorax.atlas import layer_similarity
from lorax.atlas.index import Atlas
from lorax.learning.branch_similarity import BranchComparison
from lorax.learning.folder import EpisodeFolder
from lorax.learning.state import Branch
from lorax.learning.state_files import load_state, save_state
from lorax.storage import write_record
from tests.atlas.made import made
from tests.tiny_learner import Learned, learn_stream, tiny_params

pytestmark = pytest.mark.slow

MAP = {"map.png", "map.html"}


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> list[Learned]:
    """alpha, beta, gamma."""
    folder = tmp_path_factory.mktemp("similarity")
    return learn_stream(folder, tiny_params(folder), ["alpha", "beta", "gamma"])


@pytest.fixture
def atlas_dir(tmp_path: Path) -> Path:
    return tmp_path / "atlas"


def episode_of(learned: Learned, into: Path, branches: Sequence[Branch] | None = None) -> EpisodeFolder:
    """A folder of the episode before this step, with other branches in its state if they are given."""
    folder, state = EpisodeFolder(into), load_state(learned.state_dir)
    write_record(folder.report_path, learned.report)
    save_state(replace(state, branches=tuple(branches or state.branches)), folder.state_dir)
    return folder


def compared(folder: EpisodeFolder) -> BranchComparison:
    found = layer_similarity.compared_dir(folder)
    assert found is not None
    return BranchComparison.read(found)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def never(warning: str) -> None:
    raise AssertionError(warning)


def test_the_nearest_is_the_branch_with_the_most_similar_weights(
    learned: list[Learned], tmp_path: Path, atlas_dir: Path
) -> None:
    alpha, beta, gamma = load_state(learned[2].state_dir).branches
    like_alpha = {name: value + 0.1 * gamma.weights[name] for name, value in alpha.weights.items()}
    folder = episode_of(learned[2], tmp_path / "e", [alpha, beta, replace(gamma, weights=like_alpha)])
    said = layer_similarity.update(folder, atlas_dir, never)
    found = compared(folder)
    assert found.nearest is not None
    assert (found.nearest.task, found.nearest.generators) == ("alpha", "alpha")
    assert found.nearest.similarity > 0.9
    assert said == f"nearest alpha {found.nearest.similarity:.2f}, 3 in the atlas"
    similarities = {(b.task, near.task): near.similarity for b in found.branches for near in b.nearest}
    assert len(similarities) == 6
    assert all(similarities[other, one] == value for (one, other), value in similarities.items())


def test_what_is_told_follows_from_the_state_alone(learned: list[Learned], tmp_path: Path, atlas_dir: Path) -> None:
    here, there = (episode_of(learned[1], tmp_path / name) for name in ("here", "there"))
    Atlas.open(atlas_dir).add([made("theirs")])
    layer_similarity.update(here, atlas_dir, lambda _: None)
    layer_similarity.update(there, tmp_path / "empty", never)
    assert compared(here) == compared(there)


def test_a_map_is_left_where_there_are_two_to_compare(learned: list[Learned], tmp_path: Path, atlas_dir: Path) -> None:
    for episode, expected in zip(learned[:2], (set(), MAP), strict=True):
        folder = episode_of(episode, tmp_path / episode.digest)
        layer_similarity.update(folder, atlas_dir, never)
        assert set(files(folder.root / "atlas")) == {"neighbours.json"} | expected


def test_the_atlas_gets_what_it_lacks_of_the_state_and_nothing_twice(
    learned: list[Learned], tmp_path: Path, atlas_dir: Path
) -> None:
    for episode in learned[1:]:  # nobody was here when alpha was learned
        folder = episode_of(episode, tmp_path / episode.digest)
        for _ in range(2):
            layer_similarity.update(folder, atlas_dir, never)
    assert [entry.name for entry in Atlas.open(atlas_dir).entries] == ["alpha", "beta", "gamma"]


def test_a_branch_that_started_from_another_s_weights_is_marked_and_nobody_s_neighbour(
    learned: list[Learned], tmp_path: Path, atlas_dir: Path
) -> None:
    alpha, beta, gamma = load_state(learned[2].state_dir).branches
    folder = episode_of(learned[2], tmp_path / "e", [alpha, replace(beta, start="alpha"), gamma])
    assert layer_similarity.update(folder, atlas_dir, never).startswith("nearest alpha ")
    found = {branch.task: branch for branch in compared(folder).branches}
    assert [branch.start for branch in found.values()] == [None, "alpha", None]
    assert [near.task for near in found["gamma"].nearest] == ["alpha"]
    assert {near.task for near in found["beta"].nearest} == {"alpha", "gamma"}
    newest = episode_of(learned[1], tmp_path / "f", [alpha, replace(beta, start="alpha")])
    assert layer_similarity.update(newest, atlas_dir, never).startswith("started from alpha")


def test_a_branch_from_before_there_was_a_common_start_is_not_compared(
    learned: list[Learned], tmp_path: Path, atlas_dir: Path
) -> None:
    alpha, beta, gamma = load_state(learned[2].state_dir).branches
    folder = episode_of(learned[2], tmp_path / "e", [replace(alpha, start=""), beta, gamma])
    layer_similarity.update(folder, atlas_dir, never)
    near = {branch.task: [near.task for near in branch.nearest] for branch in compared(folder).branches}
    assert near == {"alpha": [], "beta": ["gamma"], "gamma": ["beta"]}
    assert {entry.kind for entry in Atlas.open(atlas_dir).entries} == {"branch"}


def test_an_atlas_of_another_backbone_is_left_alone_with_a_warning_that_says_what_to_do(
    learned: list[Learned], tmp_path: Path, atlas_dir: Path
) -> None:
    Atlas.open(atlas_dir).add([made("theirs", base="another")])
    before, warnings = files(atlas_dir), list[str]()
    folder = episode_of(learned[1], tmp_path / "e")
    assert layer_similarity.update(folder, atlas_dir, warnings.append).endswith(", 1 in the atlas")
    [warning] = warnings
    assert "refused 2 of the branches" in warning
    assert "rename that folder" in warning
    assert files(atlas_dir) == before
    assert compared(folder).nearest is not None


@pytest.mark.parametrize("damage", ["{", '{"format": 1, "describer": 1, "base": "", "segments": [], "revision": 1}'])
def test_a_broken_atlas_is_a_warning(learned: list[Learned], tmp_path: Path, atlas_dir: Path, damage: str) -> None:
    atlas_dir.mkdir()
    (atlas_dir / "atlas.json").write_text(damage)
    warnings = list[str]()
    folder = episode_of(learned[1], tmp_path / "e")
    layer_similarity.update(folder, atlas_dir, warnings.append)
    [warning] = warnings
    assert warning.startswith(f"the atlas at {atlas_dir} was not updated: ")
    assert warning.endswith(" The episode goes on.")
    assert compared(folder).nearest is not None


def test_an_atlas_in_use_is_not_waited_for(learned: list[Learned], tmp_path: Path, atlas_dir: Path) -> None:
    atlas_dir.mkdir()
    warnings = list[str]()
    with (atlas_dir / "atlas.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        layer_similarity.update(episode_of(learned[0], tmp_path / "e"), atlas_dir, warnings.append)
    [warning] = warnings
    assert "another 'lorax atlas add' is at work in it" in warning


def test_branches_that_can_t_be_compared_leave_no_record_or_half_a_one(
    learned: list[Learned], tmp_path: Path, atlas_dir: Path
) -> None:
    folder, warnings = episode_of(learned[1], tmp_path / "e"), list[str]()
    shutil.rmtree(folder.state_dir / "branches")
    assert layer_similarity.update(folder, atlas_dir, warnings.append) == ""
    assert len(warnings) == 2
    assert layer_similarity.compared_dir(folder) is None
    assert sorted(path.name for path in folder.root.iterdir()) == ["report.json", "state"]


def test_a_comparison_that_can_not_be_read_is_made_again(
    learned: list[Learned], tmp_path: Path, atlas_dir: Path
) -> None:
    folder = episode_of(learned[1], tmp_path / "episode")
    told = layer_similarity.update(folder, atlas_dir, never)
    (folder.root / "atlas" / "neighbours.json").write_text('{"episode": 1}')
    assert layer_similarity.compared_dir(folder) is None
    assert layer_similarity.update(folder, atlas_dir, never) == told
    assert compared(folder).task == "beta"
