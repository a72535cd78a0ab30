"""The metrics, worked out by hand on a 3 x 3 accuracy matrix."""

from __future__ import annotations

import pytest

from lorax.learning import metrics

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
