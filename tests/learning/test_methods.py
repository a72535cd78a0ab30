"""What LoRAX is compared with, on three tiny tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lorax.data.images import Images
from lorax.errors import StateError
from lorax.learning.folder import EpisodeFolder
from lorax.learning.methods import METHODS, der, ease, finetune, joint, linear
from lorax.learning.methods.lessons import Lesson, Taught, learn_in_turn
from lorax.learning.state_files import load_state
from lorax.network.building import open_backbone
from lorax.network.network import Network
from lorax.params import HeadParams, Params
from lorax.stream import TaskClass
from tests.learning.conftest import Stream

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("solver", ["gradient", "ridge"])
def test_each_gives_an_accuracy_matrix_and_the_same_one_again(
    stream: Stream, params: Params, name: str, solver: str, tmp_path: Path
) -> None:
    params = params.model_copy(update={"head": HeadParams(solver=solver)})
    rows = METHODS[name](stream.tasks[:2], stream.fetch, params, tmp_path / "home", None)
    assert [len(row) for row in rows] == [1, 2]
    assert all(0 <= value <= 1 for row in rows for value in row)
    assert rows == METHODS[name](stream.tasks[:2], stream.fetch, params, tmp_path / "home", None)
    assert rows == METHODS[name](stream.tasks[:2], stream.fetch, params, tmp_path / "another", None)


def taught(method: ModuleType, stream: Stream, params: Params, home: Path) -> list[dict[str, torch.Tensor]]:
    """The network, and what was in it after each of the three tasks."""
    network, teach = method.begin(params)
    states: list[dict[str, torch.Tensor]] = []

    def and_look(lesson: Lesson) -> Taught:
        found = teach(lesson)
        states.append({name: value.clone() for name, value in tensors(lesson.network).items()})
        return found

    learn_in_turn(network, and_look, stream.tasks, stream.fetch, params, home, None)
    return states


def tensors(network: Network) -> dict[str, torch.Tensor]:
    """All weights, by names of the network's own and those of its branches."""
    backbone, found = network.backbone, dict(network.state_dict())
    for k in range(0 if isinstance(backbone, der.Copies) else backbone.branches):
        found |= {f"branch.{k}.{name}": value for name, value in backbone.branch(k).weights.items()}
    return found


def of(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    assert found
    return found


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_fine_tuning_begins_as_lorax_and_then_changes_its_one_branch(
    stream: Stream, params: Params, learned: list[EpisodeFolder], tmp_path: Path
) -> None:
    after = taught(finetune, stream, params, tmp_path)
    first = load_state(learned[0].state_dir)
    assert are_equal(of(after[0], "branch.0."), dict(first.branches[0].weights))
    assert torch.equal(after[0]["head.weight"], first.head_weight)
    assert not are_equal(of(after[0], "branch."), of(after[2], "branch."))
    assert after[2]["head.weight"].shape == (6, 16)


def test_the_oracle_learns_one_task_as_lorax_does_and_needs_no_memory(
    stream: Stream, params: Params, learned: list[EpisodeFolder], tmp_path: Path
) -> None:
    rows = joint.learn(stream.tasks, stream.fetch, params, tmp_path / "home")
    assert rows[0] == load_state(learned[0].state_dir).accuracy[0]
    forgetful = params.model_copy(update={"exemplars": params.exemplars.model_copy(update={"budget": 0})})
    assert rows == joint.learn(stream.tasks, stream.fetch, forgetful, tmp_path / "another")


def test_a_union_has_one_real_class_and_all_synthetic_ones(stream: Stream) -> None:
    union = joint.union(stream.tasks)
    assert union.classes == (
        TaskClass(0, "real"),
        TaskClass(1, "stripes"),
        TaskClass(2, "bars"),
        TaskClass(3, "checks"),
    )
    for split in ("train", "test"):
        images = [(s.md5, k * s.class_index) for k, t in enumerate(stream.tasks, 1) for s in getattr(t, split)]
        assert [(s.md5, s.class_index) for s in getattr(union, split)] == images


@pytest.mark.parametrize("backbone", ["convit", "residual"])
def test_a_copy_learns_and_then_stays_as_it_is_bit_for_bit(
    stream: Stream, params: Params, backbone: str, tmp_path: Path
) -> None:
    if backbone == "residual":
        settings = params.model_dump(exclude={"backbone"})
        params = Params.model_validate(settings | {"backbone": {"name": "residual", "crop": 64}})
    after = taught(der, stream, params, tmp_path)
    frozen, first, second = (of(after[2], f"backbone.{part}.") for part in ("model", "copies.0", "copies.1"))
    assert are_equal(of(after[0], "backbone.model."), frozen)
    assert are_equal(of(after[0], "backbone.copies.0."), first) and not are_equal(first, second)
    learned = {name.split(".")[0] for name in frozen if not torch.equal(frozen[name], first[name])}
    assert learned >= {"blocks", "norm"} and learned.isdisjoint({"convs", "spectrum_token", "colour_token"})
    assert len(after[2]["head.weight"][0]) == 3 * open_backbone(params.backbone).width


def test_subspaces_and_prototypes_in_them_stay_and_nothing_is_kept_of_old_images(
    stream: Stream, params: Params, tmp_path: Path
) -> None:
    after = taught(ease, stream, params, tmp_path / "home")
    assert are_equal(of(after[0], "branch.0."), of(after[2], "branch.0."))
    assert torch.equal(after[0]["head.weight"], after[2]["head.weight"][:2, :16])  # tells the same within its own
    rows = ease.learn(stream.tasks, stream.fetch, params, tmp_path / "home")
    forgetful = params.model_copy(update={"exemplars": params.exemplars.model_copy(update={"budget": 0})})
    assert rows == ease.learn(stream.tasks, stream.fetch, forgetful, tmp_path / "home")


def test_an_old_class_is_mapped_to_a_new_subspace_as_it_resembles_the_new_classes() -> None:
    east, north, west = torch.eye(2)[0], torch.eye(2)[1], -torch.eye(2)[0]
    old = ease.Prototypes().with_task(torch.stack([east, north])[:, None])  # two classes in one subspace
    new = torch.stack([torch.stack([east, north]), torch.stack([west, west])])  # two more, in it and in their own
    means = old.with_task(new).means
    assert torch.equal(means[2:], new) and torch.equal(means[:2, 0], old.means[:, 0])
    likeness = torch.tensor([1.0, -1.0]).exp() / torch.tensor([1.0, -1.0]).exp().sum()
    assert torch.allclose(means[0, 1], likeness[0] * north + likeness[1] * west)
    assert torch.allclose(means[1, 1], (north + west) / 2)
    counts = old.with_task(new).head().weight.view(4, 2, 2).norm(dim=2)
    assert torch.allclose(counts, 32 * torch.tensor([[1, 0.1], [1, 0.1], [0.1, 1], [0.1, 1]]))


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"linear"}))
def test_more_images_of_a_known_task_are_refused(stream: Stream, params: Params, name: str, tmp_path: Path) -> None:
    more = replace(stream.tasks[1], extends="stripes")
    with pytest.raises(StateError, match="only LoRAX itself"):
        METHODS[name]([more], stream.fetch, params, tmp_path, None)


def test_a_solved_head_is_the_one_that_all_images_at_once_would_give(
    stream: Stream, params: Params, tmp_path: Path
) -> None:
    params = params.model_copy(update={"head": HeadParams(solver="ridge", penalty=1e-6)})
    [*_, row] = linear.learn(stream.tasks, stream.fetch, params, tmp_path)
    backbone, inputs, answers = open_backbone(params.backbone), {}, {}
    for split in ("train", "test"):
        samples = [sample for task in stream.tasks for sample in getattr(task, split)]
        images = Images.load(samples, stream.fetch(samples), backbone.identity.crop, center_only=True)
        inputs[split] = backbone.texture(images.batch(list(range(len(samples))), images.center()[:, 0])).double()
        answers[split] = torch.tensor(
            [task if sample.class_index else -1 for task, t in enumerate(stream.tasks) for sample in getattr(t, split)]
        )
    wanted = torch.stack([answers["train"] == answer for answer in (-1, 0, 1, 2)], dim=1).double()
    with_bias = {split: torch.nn.functional.pad(said, (0, 1), value=1.0) for split, said in inputs.items()}
    weight = torch.linalg.lstsq(with_bias["train"], wanted, driver="gelsd").solution
    said = (with_bias["test"] @ weight).argmax(dim=1) - 1
    right = (said == answers["test"]).double().split([len(task.test) for task in stream.tasks])
    assert row == pytest.approx([float(part.mean()) for part in right], abs=1e-9)
