"""A task is cut out of a learner state: nothing of it is left, what others brought stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.errors import StateError
from lorax.learning.cutting import check_can_be_cut, cut_out, refit
from lorax.learning.episode import Episode
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state
from lorax.params import Params
from lorax.registry.card import limits
from lorax.stream import DataRevision
from tests.tiny_learner import Learned, learn_stream, tiny_params

REVISION = DataRevision("1" * 32, "c0ffee")


def after_cutting(stream: list[Learned], task: str, params: Params, folder: Path) -> LearnerState:
    """The state that is left."""
    tasks = {learned.task.name: learned.task for learned in stream}
    files = {md5: path for learned in stream for md5, path in learned.files.items()}
    reads = (tasks.__getitem__, lambda samples: {sample.md5: files[sample.md5] for sample in samples})
    home = cut_out(folder, stream[-1].state_dir, task, *reads, params, REVISION)
    assert cut_out(folder, stream[-1].state_dir, task, *reads, params, REVISION) == home
    episode = Episode.open(home, *reads)
    for step in (episode.grow, episode.fit, episode.herd, episode.calibrate, episode.score):
        step()
    return load_state(home.state_dir)


@pytest.mark.parametrize("solver", ["gradient", "ridge"])
def test_nothing_of_it_is_left_and_the_others_are_as_they_were(tmp_path: Path, solver: str) -> None:
    plain = tiny_params(tmp_path)
    head = {"solver": solver} | ({"perturbations": ["jpeg"]} if solver == "ridge" else {})
    params = Params.model_validate(plain.model_dump(exclude_defaults=True) | {"head": head})
    stream = learn_stream(tmp_path, params, ["alpha", "beta", "gamma"])
    before, state = load_state(stream[-1].state_dir), after_cutting(stream, "beta", params, tmp_path / "cut")
    assert [task.name for task in state.tasks] == ["alpha", "gamma"]
    assert [(entry.id, entry.task) for entry in state.classes.entries] == [
        *((0, "alpha"), (1, "alpha")),
        *((2, "gamma"), (3, "gamma")),
    ]
    assert [b.files() for b in state.branches] == [before.branches[0].files(), before.branches[2].files()]
    kept = {e.sample.md5 for e in (*state.exemplars, *state.calibration_memory)}
    assert not kept & set(stream[1].files)
    assert kept == {e.sample.md5 for e in (*before.exemplars, *before.calibration_memory)} - set(stream[1].files)
    assert (state.cut, state.parent, state.revision) == (tuple(before.tasks[1:2]), None, REVISION)
    assert any("**Cut**: beta was withdrawn the fast way" in sentence for sentence in limits(state, None))
    follower = replace(state, branches=(state.branches[0], replace(state.branches[1], start="beta")))
    assert any("the branch of gamma began as its branch" in sentence for sentence in limits(follower, None))

    never = load_state(learn_stream(tmp_path / "never", params, ["alpha", "gamma"])[-1].state_dir)
    assert state.statistics.keys() == never.statistics.keys() == before.statistics.keys()
    for kind, sums in never.statistics.items():
        assert torch.equal(state.statistics[kind].counts, sums.counts)
        torch.testing.assert_close(state.statistics[kind].means, sums.means)
        torch.testing.assert_close(state.statistics[kind].scatter, sums.scatter, rtol=1e-3, atol=1e-3)
    for extensions, task, why in (
        ({"beta": "alpha"}, "beta", "its images are of the classes of 'alpha', which stay"),
        ({"gamma": "beta"}, "beta", "'gamma', which is known, brought more of its images, and must go first"),
        ({"gamma": "alpha"}, "beta", "'gamma', learned last, brought more images of 'alpha'"),
    ):
        with pytest.raises(StateError, match=f"task '{task}' can't be cut out: {why}"):
            check_can_be_cut(replace(before, extensions=extensions), task)
    with pytest.raises(StateError, match="task 'gamma' can't be cut out: at least two others must be left"):
        after_cutting(stream, "gamma", params, tmp_path / "last")


def test_the_head_is_fitted_to_exemplars_from_where_it_was() -> None:
    weight, bias = torch.tensor([[0.5, 0.0], [-0.5, 0.0]]), torch.zeros(2)
    features, ids = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 1])
    fitted, moved = refit(weight, bias, features, ids)
    assert fitted[0, 0] > 0.5 > -0.5 > fitted[1, 0]
    torch.testing.assert_close(fitted.sum(0), torch.zeros(2), atol=1e-6, rtol=0)
    assert fitted[:, 1].abs().max() == 0, "nothing was seen there"
    torch.testing.assert_close(moved, torch.zeros(2), atol=1e-6, rtol=0)
