from __future__ import annotations

import math

import pytest
import torch

from lorax.learning.calibration import (
    answers_of,
    calibration_error,
    mean_loss,
    reliability,
    right_answers,
    sampling_floor,
)
from lorax.stream import ClassEntry, ClassTable

TABLE = ClassTable(
    tuple(ClassEntry(i, f"t{i // 2}", i % 2, name) for i, name in enumerate(("real", "gan", "real", "diffusion")))
)


def test_all_real_classes_are_one_answer() -> None:
    answers = answers_of(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), TABLE)
    assert answers.tolist()[0] == pytest.approx([0.4, 0.2, 0.4])
    assert right_answers(torch.tensor([0, 1, 2, 3]), TABLE).tolist() == [0, 1, 0, 2]


def test_the_log_loss_by_hand() -> None:
    answers = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]], dtype=torch.double)
    assert float(mean_loss(answers, torch.tensor([0, 1]))) == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_the_calibration_error_by_hand() -> None:
    confident = torch.tensor([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, dtype=torch.double)
    right = torch.tensor([0] * 8 + [1] * 2 + [0] * 6 + [1] * 4)  # 0.9 is right in 8 of 10, 0.6 in 6 of 10
    bins = reliability(confident, right)
    assert sum(b.images for b in bins) == 20
    coarse = reliability(confident.repeat(100, 1), right.repeat(100))  # each bin holds one confidence only
    assert calibration_error(coarse) == pytest.approx(0.1 / 2)


def test_calibrated_answers_show_an_error_about_their_floor_and_overconfident_ones_more() -> None:
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(2000, generator=generator, dtype=torch.double) / 2 + 0.5
    answers = torch.stack([confidence, 1 - confidence], dim=1)
    right = (torch.rand(2000, generator=generator, dtype=torch.double) > confidence).long()
    floor = sampling_floor(answers)
    assert 0.5 * floor < calibration_error(reliability(answers, right)) < 1.8 * floor
    sure = torch.tensor([[0.99, 0.01]], dtype=torch.double).repeat(2000, 1)
    assert calibration_error(reliability(sure, right)) > 5 * sampling_floor(sure)


def test_the_floor_falls_with_the_number_of_images() -> None:
    answers = torch.tensor([[0.7, 0.3]], dtype=torch.double)
    assert sampling_floor(answers.repeat(50, 1)) > 2 * sampling_floor(answers.repeat(2000, 1))
