"""What is fitted on held-out images, which these are, and whether probabilities can be trusted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.learning.calibration import (
    Calibration,
    answers_of,
    fit_probabilities,
    mean_loss,
    right_answers,
)
from lorax.learning.episode import learn_episode
from lorax.learning.exemplars import hold_out
from lorax.learning.folder import EpisodeFolder
from lorax.learning.ood import Residual
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state
from lorax.network.building import open_backbone
from lorax.params import CalibrationParams, Params
from lorax.stream import ClassEntry, ClassTable
from tests.learning.conftest import learn_one, opened

TABLE = ClassTable(tuple(ClassEntry(i, "t", i, name) for i, name in enumerate(("real", "gan", "diffusion"))))


@pytest.fixture
def nothing(params: Params) -> LearnerState:
    return LearnerState(open_backbone(params.backbone).identity)


def holding(params: Params, per_class: int, seed: int = 0) -> Params:
    run = params.run.model_copy(update={"seed": seed})
    return params.model_copy(update={"calibration": CalibrationParams(per_class=per_class), "run": run})


def test_held_out_images_are_a_few_of_every_class_and_no_longer_for_training(stream, params, nothing) -> None:
    task = stream.tasks[0]
    rest, held = hold_out(task, nothing, holding(params, 2))
    assert [sample.class_index for sample in held] == [0, 0, 1, 1]
    assert {*rest.train, *held} == {*task.train}
    assert not {*rest.train} & {*held}
    assert rest.test == task.test


def test_what_is_held_out_depends_on_seed_and_images_alone(stream, params, nothing) -> None:
    task, two = stream.tasks[0], holding(params, 2)
    turned = replace(task, train=tuple(reversed(task.train)))
    assert hold_out(task, nothing, two)[1] == hold_out(turned, nothing, two)[1]
    assert hold_out(task, nothing, two)[1] != hold_out(task, nothing, holding(params, 2, seed=1))[1]


def test_at_most_a_fifth_of_a_class_is_held_out(stream, params, nothing) -> None:
    _, held = hold_out(stream.tasks[0], nothing, holding(params, 30))
    assert len(held) == 2 * (15 // 5)


def test_photos_that_another_task_brings_again_are_not_trained_on(stream, params, learned: list[EpisodeFolder]) -> None:
    base = load_state(learned[0].state_dir)
    again = replace(stream.tasks[1], train=(*stream.tasks[1].train, *stream.tasks[0].train))
    rest, held = hold_out(again, base, params)
    older = {entry.sample.md5 for entry in base.calibration_memory}
    assert not older & {sample.md5 for sample in (*rest.train, *held)}
    assert not {entry.sample.md5 for entry in base.exemplars} & {sample.md5 for sample in held}
    assert len(held) == 2 * ((15 + 12) // 5)


def overconfident(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (count, 3) four times too large, and the classes (count,) that the true ones draw."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(count, 3, generator=generator, dtype=torch.double)
    ids = torch.multinomial(true.softmax(1), 1, generator=generator).flatten()
    return 4 * true, ids


def test_overconfidence_is_found_and_mended() -> None:
    logits, ids = overconfident(600)
    temperature, bias = fit_probabilities(logits, ids, TABLE)
    assert temperature == pytest.approx(4, rel=0.25)
    new, true = overconfident(3000)
    right = right_answers(true, TABLE)
    before = mean_loss(answers_of(new.softmax(1), TABLE), right)
    assert mean_loss(answers_of((new / temperature + bias).softmax(1), TABLE), right) < 0.8 * before


def test_images_that_are_all_answered_rightly_give_a_finite_temperature() -> None:
    logits = 20 * torch.eye(3).repeat(4, 1)
    temperature, bias = fit_probabilities(logits, torch.arange(3).repeat(4), TABLE)
    assert 0.05 < temperature < 20
    assert bias.abs().max() < 1


def test_about_the_stated_share_of_new_images_of_known_classes_passes_for_strange() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(3).repeat(100)
    centers = 5 * torch.randn(3, 20, generator=generator)
    draw = lambda: centers[ids] + torch.randn(300, 20, generator=generator)  # noqa: E731
    fitted = Calibration.fit(
        draw(), torch.randn(300, 3, generator=generator), ids, TABLE, false_alarms=0.1, set_error=0.1
    )
    assert float((fitted.ood_score(draw()) > fitted.threshold).double().mean()) == pytest.approx(0.1, abs=0.05)
    far = centers[:1] + 8 * torch.randn(50, 20, generator=generator)
    assert (fitted.ood_score(far) > fitted.threshold).all()
    assert fitted.images == 300


def test_every_version_is_calibrated_on_images_of_all_its_classes(learned: list[EpisodeFolder]) -> None:
    for k, folder in enumerate(learned):
        state = load_state(folder.state_dir)
        memory = [(e.class_id, e.rank) for e in state.calibration_memory]
        assert memory == [(class_id, rank) for class_id in range(2 * (k + 1)) for rank in range(3)]
        assert state.calibration is not None
        assert state.calibration.images == len(memory)
        assert not {e.sample for e in state.calibration_memory} & {e.sample for e in state.exemplars}


def test_a_saved_calibration_says_the_same(learned: list[EpisodeFolder], tmp_path: Path) -> None:
    fitted = load_state(learned[1].state_dir).calibration
    assert fitted is not None
    again = Calibration.parse(fitted.record(), fitted.tensors())
    features = torch.randn(3, fitted.distance.means.shape[1])
    assert torch.equal(again.ood_score(features), fitted.ood_score(features))
    assert again.threshold == fitted.threshold


def test_without_calibration_images_a_version_is_uncalibrated(stream, params: Params, tmp_path: Path) -> None:
    none = params.model_copy(update={"calibration": CalibrationParams(per_class=0)})
    folder = learn_one(stream, none, tmp_path, None, 0)
    state = load_state(folder.state_dir)
    assert state.calibration is None
    assert state.calibration_memory == ()


def test_a_version_on_top_of_an_uncalibrated_one_is_uncalibrated(stream, params: Params, tmp_path: Path) -> None:
    none = params.model_copy(update={"calibration": CalibrationParams(per_class=0)})
    base_dir = learn_one(stream, none, tmp_path, None, 0).state_dir
    state = learn_episode(opened(stream, params, tmp_path, base_dir, 1))
    assert state.calibration is None
    assert state.calibration_memory == ()  # nothing is held out in vain


def test_with_a_solved_head_the_ood_score_is_measured_by_what_it_leaves_over_of_held_out_images() -> None:
    generator, ids = torch.Generator().manual_seed(0), torch.arange(400) % 4
    table = ClassTable((*TABLE.entries, ClassEntry(3, "u", 0, "real")))  # the first one's answer, too
    answers = right_answers(ids, table)
    drawn = torch.randn(400, 3, generator=generator) * torch.tensor([0.3, 0.3, 0.01])
    textures, head = torch.eye(3)[answers] + drawn, Residual.of_head(torch.eye(3), torch.zeros(3))
    fitted = Calibration.fit(textures, 8 * torch.eye(4)[ids], ids, table, 0.05, 0.1, head)
    torch.testing.assert_close(fitted.distance.squared(textures), head.measured(textures, answers).squared(textures))
    assert float(fitted.scores.median()) == pytest.approx(1.0)
    usual, unusual = torch.tensor([[1.3, 0.3, 0.0], [1.0, 0.0, 0.3]])
    assert fitted.ood_score(usual[None]) < fitted.threshold < fitted.ood_score(unusual[None])


TWO_REALS = ClassTable(
    tuple(ClassEntry(i, f"t{i // 2}", i % 2, name) for i, name in enumerate(("real", "gan", "real", "diffusion")))
)


def test_all_real_classes_are_one_answer() -> None:
    answers = answers_of(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), TWO_REALS)
    assert answers.tolist()[0] == pytest.approx([0.4, 0.2, 0.4])
    assert right_answers(torch.tensor([0, 1, 2, 3]), TWO_REALS).tolist() == [0, 1, 0, 2]


def test_the_log_loss_by_hand() -> None:
    answers = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]], dtype=torch.double)
    assert float(mean_loss(answers, torch.tensor([0, 1]))) == pytest.approx((math.log(2) + math.log(4)) / 2)
