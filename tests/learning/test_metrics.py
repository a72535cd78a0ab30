"""The accuracy matrix's metrics, and how a network is scored and compared."""

from __future__ import annotations

import pytest
import torch

from lorax.learning import metrics
from lorax.learning.metrics import Paired, score
from lorax.stream import ClassTable, TaskClass

ROWS = [[0.9], [0.8, 1.0], [0.6, 0.9, 0.75]]


def test_average_accuracy_is_the_mean_of_the_last_row() -> None:
    assert metrics.average_accuracy(ROWS) == pytest.approx(0.75)


def test_average_incremental_accuracy_is_the_mean_over_episodes() -> None:
    assert metrics.average_incremental_accuracy(ROWS) == pytest.approx((0.9 + 0.9 + 0.75) / 3)


def test_backward_transfer_compares_with_when_each_task_was_learned() -> None:
    assert metrics.backward_transfer(ROWS) == pytest.approx(((0.6 - 0.9) + (0.9 - 1.0)) / 2)
    assert metrics.forgetting(ROWS) == pytest.approx(0.2)


def test_one_task_has_forgotten_nothing() -> None:
    assert metrics.summary([[0.5]]) == {
        "average_accuracy": 0.5,
        "average_incremental_accuracy": 0.5,
        "backward_transfer": 0.0,
        "forgetting": 0.0,
    }


CLASSES = ClassTable().with_task("a", [TaskClass(0, "real"), TaskClass(1, "a")])
CLASSES = CLASSES.with_task("b", [TaskClass(0, "real"), TaskClass(1, "b")])  # ids: 0 real, 1 a, 2 real, 3 b


def test_any_real_class_is_right_for_a_real_image() -> None:
    predicted = {"a": torch.tensor([2, 0, 1, 3]), "b": torch.tensor([0, 3])}
    true = {"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([2, 2])}
    scores = score(predicted, {}, true, CLASSES)
    assert scores.accuracy == {"a": pytest.approx(3 / 4), "b": pytest.approx(1 / 2)}
    assert scores.binary_accuracy == {"a": 1.0, "b": 0.5}
    assert scores.pooled_accuracy == pytest.approx(4 / 6)
    assert scores.confusion == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 0]]


def test_a_paired_comparison_counts_what_only_one_network_got_right() -> None:
    true = {"a": torch.tensor([0, 0, 1, 1]), "b": torch.tensor([2, 3])}
    before = {"a": torch.tensor([0, 1, 1, 0])}
    after = {"a": torch.tensor([2, 2, 1, 3]), "b": torch.tensor([2, 3])}
    scores = score(after, before, true, CLASSES)
    assert scores.against_base == {"a": Paired(images=4, only_before=0, only_after=1)}


def test_an_image_called_by_a_relative_s_name_counts_as_detected() -> None:
    true = {"a": torch.tensor([0, 1, 1, 1])}
    before, after = {"a": torch.tensor([0, 1, 1, 0])}, {"a": torch.tensor([1, 3, 3, 3])}
    scores = score(after, before, true, CLASSES)
    assert scores.detection_against_base == {"a": Paired(images=4, only_before=1, only_after=1)}
    assert scores.binary_accuracy == {"a": 0.75}
