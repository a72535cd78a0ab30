"""The published way and ours do the same job: without dropout, and where an image has one crop, the numbers agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.published import PublishedFit, PublishedLearner, PublishedNetwork
from benchmarks.tasks import TaskFiles, write_task
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.training import Fit
from lorax.network.building import open_backbone
from lorax.network.network import Network
from lorax.params import Params
from lorax.stream import DataRevision
from tests.tiny_learner import tiny_params


@pytest.fixture
def params(tmp_path: Path) -> Params:
    """Two epochs of the tiny backbone, dropout off."""
    values = tiny_params(tmp_path).model_dump(mode="json")
    values["lora"]["dropout"] = 0.0
    values["run"]["batch_size"] = 8
    return Params.model_validate(values)


def test_a_step_at_two_branches_gives_the_same_loss_head_and_branch(params: Params) -> None:
    published, ours = PublishedNetwork(params.backbone), Network.empty(open_backbone(params.backbone))
    random = torch.Generator().manual_seed(0)
    for episode in range(2):  # the first gives the old branch something to say
        for network in (published, ours):
            network.grow(params.lora, 2, branch_seed=episode, head_seed=10 + episode)
        fits = (
            PublishedFit(published, 2 * episode, params, episode),
            Fit(ours, range(2 * episode, 2 * episode + 2), params.training, params.run, episode),
        )
        images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=random)
        labels = torch.randint(0, 2 * episode + 2, (8,), generator=random)
        expected = fits[0].step(published.normalised(images), labels)
        found = fits[1].step(images, ours.features(images, range(episode)), labels)
        ours.backbone.keep_branch(episode, fits[1].live)
    torch.testing.assert_close(found[:2], torch.stack(expected).double(), atol=1e-5, rtol=0)
    assert min(expected) > 0.01, "both losses are at work"
    torch.testing.assert_close(ours.head.state_dict(), published.head.state_dict(), atol=1e-5, rtol=0)
    for k in range(2):
        torch.testing.assert_close(ours.backbone.branch(k).weights, published.export(k)[1], atol=1e-5, rtol=0)
    learned = [weights.abs().max() for name, weights in published.export(1)[1].items() if "lora_B" in name]
    assert min(learned) > 1e-3, "the step moved the branch, whose B begins as zero"


def test_a_whole_stream_gives_the_same_exemplars_accuracies_head_and_branches(params: Params, tmp_path: Path) -> None:
    files, learner, base = TaskFiles(), PublishedLearner(params), None
    for number in range(2):
        write_task(tmp_path / f"task{number}", train=12, test=8, side=16, seed=number)
        task = files.read(tmp_path / f"task{number}")
        learner.learn(task, files.fetch)
        folder = EpisodeFolder.open(tmp_path / "episodes", Plan.of(base, task, params, DataRevision("none", "none")))
        state = learn_episode(Episode.open(folder, {t.name: t for t in files.tasks}.__getitem__, files.fetch))
        base = folder.state_dir
    assert [e.sample for e in state.exemplars] == [e.sample for e in learner.memory]
    assert list(state.accuracy) == learner.accuracy
    torch.testing.assert_close(state.head_weight, learner.network.head.weight.detach(), atol=1e-5, rtol=0)
    for k, branch in enumerate(state.branches):
        torch.testing.assert_close(branch.weights, learner.network.export(k)[1], atol=1e-5, rtol=0)
