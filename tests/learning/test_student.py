"""The student says what all branches would, and is believed where images that it never saw show that it may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.learning import student as rules
from lorax.learning.assessment import assess
from lorax.learning.calibration import answers_of, right_answers
from lorax.learning.cascade import ask_as_served
from lorax.learning.folder import EpisodeFolder
from lorax.learning.queries import FeatureQuery
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state
from lorax.learning.student import Student, least_ahead, margins
from lorax.params import Params, RobustnessParams
from tests.learning.conftest import Stream, learn_one

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("images", [50, 110])  # fewer than numbers in a texture, and more
def test_it_is_the_ridge_regression_on_numbers_by_their_deviation(images: int) -> None:
    random = torch.Generator().manual_seed(0)
    textures = torch.randn(images, 80, generator=random).double() * torch.logspace(-2, 2, 80)
    logits = torch.randn(images, 4, generator=random).double()
    apart = (textures - textures.mean(0)) / (textures.std(0, unbiased=False) + 1e-3)
    gram = apart.T @ apart + 100 * torch.eye(80)
    expected = apart @ torch.linalg.solve(gram, apart.T @ (logits - logits.mean(0))) + logits.mean(0)
    said, _ = Student.fit(textures, logits).answer(textures.float(), None)
    assert torch.allclose(said, expected.float(), atol=1e-4)


def answers(sure: list[float], right: list[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a student, so far ahead for its first answer, and of branches, which say the same where that is right."""
    ahead = torch.tensor(sure, dtype=torch.double)
    told = torch.stack([(1 + ahead) / 2, (1 - ahead) / 2], dim=1)
    return told, torch.where(torch.tensor(right)[:, None], told, told.flip(1))


def test_as_few_new_images_are_answered_otherwise_as_may_be() -> None:
    sure = torch.linspace(0.6, 1, 600).tolist()
    wrong = {100, 200, 300, 400}
    # 1 + 2 of 601 are at most 0.5 %: the two surest that differ may be beyond
    found = least_ahead(*answers(sure, [k not in wrong for k in range(600)]))
    assert found == pytest.approx(sure[200])
    assert least_ahead(*answers(sure, [True] * 600)) == 0.5
    assert least_ahead(*answers(sure[:198], [True] * 198)) is None
    assert least_ahead(*answers(sure[:199], [True] * 199)) == 0.5


def test_one_answer_is_ahead_of_none() -> None:
    assert margins(torch.ones(3, 1)).tolist() == [1, 1, 1]


def test_an_answer_is_the_students_where_it_is_sure_and_else_that_of_all_branches() -> None:
    state = load_state(FIXTURES / "state-format-7")
    student, fitted = state.student, state.calibration
    assert student and fitted and state.texture_head
    random = torch.Generator().manual_seed(1)
    width = student.weight.shape[1]
    textures, features = torch.randn(400, width, generator=random), torch.randn(400, 32, generator=random)
    told, nothing_to_add = student.answer(textures, state.texture_head)
    ahead = margins(answers_of(fitted.probabilities(told), state.classes))
    middle = float(ahead[~nothing_to_add].median())
    state = replace(state, calibration=replace(fitted, student=replace(student, ahead=middle)))
    by_student = (ahead > middle) | nothing_to_add
    served, whole = state.served_logits(features, textures), state.logits(features, textures)
    assert 50 < int(by_student.sum()) < 350 and bool(nothing_to_add.any())
    assert torch.equal(served[by_student], told[by_student]) and torch.equal(served[~by_student], whole[~by_student])
    assert torch.equal(told[nothing_to_add], whole[nothing_to_add]), "of a perturbed image branches say nothing"
    assert torch.equal(state.classes_of(features, textures), served.argmax(dim=1))


def test_a_state_without_one_asks_all_branches() -> None:
    state: LearnerState = load_state(FIXTURES / "state-format-5")
    assert state.student is None and state.texture_head
    textures = torch.randn(9, state.texture_head.weight.shape[-1])
    features = torch.randn(9, 32)
    assert torch.equal(state.served_logits(features, textures), state.logits(features, textures))


def test_an_episode_leaves_one_where_enough_was_held_out_and_scores_what_is_served(
    monkeypatch: pytest.MonkeyPatch, stream: Stream, params: Params, learned: list[EpisodeFolder], tmp_path: Path
) -> None:
    assert load_state(learned[1].state_dir).student is None, "a dozen images bound nothing"
    monkeypatch.setattr(rules, "MAY_DIFFER", 0.2)
    monkeypatch.setattr(rules, "_LEAST_AHEAD", 0.0)
    params = params.model_copy(update={"robustness": RobustnessParams(per_class=0)})
    folder = learn_one(stream, params, tmp_path, learned[0].state_dir, 1)
    state, episode = load_state(folder.state_dir), stream.open(folder)
    assert state.student and 0 <= state.student.ahead <= 1
    tests = [sample for task in episode.tasks for sample in task.test]
    said = episode.asker.ask(FeatureQuery.of_centers(tests), with_texture=True)
    found = torch.tensor(state.classes.multi_real())[state.classes_of(*said)]
    right = found == torch.tensor(state.classes.multi_real())[torch.tensor(state.classes.ids(tests))]
    parts = right.double().split([len(task.test) for task in episode.tasks])
    assert [float(part.mean()) for part in parts] == pytest.approx(list(state.accuracy[-1]))
    found = assess(episode).by_student
    answered, fitted = state.ask_student(said[1]), state.calibration
    assert answered and fitted and found and found.images == len(tests)
    answers = answers_of(fitted.probabilities(state.served_logits(*said)), state.classes)
    is_right = answers.argmax(dim=1) == right_answers(torch.tensor(state.classes.ids(tests)), state.classes)
    assert (found.share, found.accuracy) == tuple(float(x.double().mean()) for x in (answered[1], is_right))
    ahead = float(margins(answers_of(fitted.probabilities(answered[0]), state.classes)).median())
    state = replace(state, calibration=replace(fitted, student=replace(state.student, ahead=ahead)))
    features, textures = ask_as_served(episode.asker, FeatureQuery.of_centers(tests), [state], with_texture=False)
    assert 0 < int(features.any(dim=1).sum()) < len(tests), "the branches are asked about some"
    assert torch.equal(state.served_logits(features, textures), state.served_logits(*said))
