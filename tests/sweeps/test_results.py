"""What cells come to together."""

from __future__ import annotations

import pytest

from lorax.sweeps.plan import Cell
from lorax.sweeps.results import Result, as_markdown, as_rows, lines_of


def result(method: str, seed: int, rows: list[list[float]]) -> Result:
    return Result.of(Cell("hard", method, seed, 0, ("a", "b"), f"{method}-{seed}"), rows, 1.0, None)


RESULTS = [
    result("lorax", 0, [[0.9], [0.7, 0.9]]),
    result("linear", 0, [[0.8], [0.8, 0.5]]),
    result("lorax", 1, [[0.9], [0.9, 0.9]]),
]


def test_a_method_s_figures_are_the_mean_and_the_sample_s_deviation_over_its_cells() -> None:
    lorax, linear = lines_of(RESULTS)
    assert (lorax.method, lorax.cells, linear.method, linear.cells) == ("lorax", 2, "linear", 1)
    accuracy = lorax.figures["average_accuracy"]  # 0.8 and 0.9
    assert (accuracy.mean, accuracy.deviation) == (pytest.approx(0.85), pytest.approx(0.1 / 2**0.5))
    assert lorax.figures["forgetting"].mean == pytest.approx(0.1)
    assert linear.figures["average_accuracy"].deviation is None, "one cell has no spread"
    assert as_rows([linear])[0]["average_accuracy_mean"] == pytest.approx(0.65)


def test_the_table_is_the_paper_s() -> None:
    assert as_markdown(lines_of(RESULTS)).splitlines()[2:] == [
        "| method | hard |",
        "| --- | --- |",
        "| lorax | 87.5 ± 3.5 / 85.0 ± 7.1 / -10.0 ± 14.1 (2) |",
        "| linear | 72.5 / 65.0 / 0.0 (1) |",
    ]
