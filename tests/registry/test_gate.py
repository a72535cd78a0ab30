"""The gate, by hand: floors, drops, and noise that must not refuse."""

from __future__ import annotations

import math
import time

import pytest

from lorax.learning.evaluation import Paired
from lorax.learning.false_positives import Slice
from lorax.learning.folder import Report
from lorax.params import GateParams
from lorax.registry.gate import at_least, judge, mcnemar, two_proportions

GATE = GateParams(floor=0.7, max_drop=0.05, max_forgetting=0.15, significance=0.05)


def _report(**against_base: Paired) -> Report:
    return Report(1, "new", {}, {}, 1.0, [], [], {}, 1, 1, against_base)


def _failed(report: Report, rows: list[list[float]]) -> list[tuple[str, str]]:
    return [(v.task, v.kind) for v in judge(report, rows, ["old", "new"], GATE) if not v.passed]


def test_mcnemar_by_hand() -> None:
    assert mcnemar(Paired(100, 3, 1)) == pytest.approx((4 + 1) / 16)
    assert mcnemar(Paired(100, 0, 0)) == 1.0
    assert mcnemar(Paired(100, 0, 5)) == 1.0
    assert mcnemar(Paired(100, 10, 0)) == pytest.approx(2**-10)


def test_mcnemar_of_a_million_images_takes_no_big_integers() -> None:
    started = time.process_time()
    assert mcnemar(Paired(10**6, 100_400, 99_600)) == pytest.approx(0.0370, abs=2e-4)  # (800 - 1) / sqrt(200_000)
    assert time.process_time() - started < 5  # of which most is the import


def test_a_task_whose_data_was_replaced_is_compared_with_the_champion_only() -> None:
    rows = [[0.95], [0.5, 0.85]]  # on other, harder test images than then
    report = _report(old=Paired(160, 4, 3))
    assert _failed(report, rows) == [("old", "forgetting")]
    verdicts = judge(report, rows, ["old", "new"], GATE, replaced=["old"])
    assert [(v.kind, v.passed) for v in verdicts] == [("new", True), ("drop", True), ("forgetting", True)]
    assert verdicts[2].reason == (
        "old: its data was replaced since it was learned, so it was compared with the champion only"
    )
    lost = judge(_report(old=Paired(160, 30, 3)), rows, ["old", "new"], GATE, replaced=["old"])
    assert [v.kind for v in lost if not v.passed] == ["drop"]


def test_two_proportions_by_hand() -> None:
    assert two_proportions(0.9, 0.9, 100) == 0.5
    assert two_proportions(1.0, 1.0, 100) == 1.0
    # (0.9 - 0.8) / sqrt(2 · 0.85 · 0.15 / 100) = 1.98 standard deviations
    assert two_proportions(0.9, 0.8, 100) == pytest.approx(0.0239, abs=2e-4)


def test_a_good_challenger_passes() -> None:
    assert _failed(_report(old=Paired(160, 4, 3)), [[0.9], [0.894, 0.85]]) == []


def test_the_first_task_needs_the_floor_only() -> None:
    (verdict,) = judge(_report(), [[0.69]], ["first"], GATE)
    assert not verdict.passed
    assert verdict.reason == "first: accuracy 69.0 %, the floor is 70.0 %"
    assert judge(_report(), [[0.7]], ["first"], GATE)[0].passed


def test_a_real_drop_is_refused_and_named() -> None:
    report = _report(old=Paired(160, 20, 2))
    assert _failed(report, [[0.9], [0.7875, 0.85]]) == [("old", "drop")]
    reason = judge(report, [[0.9], [0.7875, 0.85]], ["old", "new"], GATE)[1].reason
    assert reason.startswith("old: accuracy 78.8 %, the champion has 90.0 % (p =")


def test_a_drop_within_chance_is_no_reason() -> None:
    assert _failed(_report(old=Paired(20, 3, 1)), [[0.9], [0.8, 0.85]]) == []


def test_a_certain_but_small_drop_is_no_reason() -> None:
    assert _failed(_report(old=Paired(2000, 40, 0)), [[0.9], [0.88, 0.85]]) == []


def test_a_drop_of_just_what_is_allowed_is_no_reason() -> None:
    before, after = 158 / 160, 150 / 160
    assert before - after > GATE.max_drop  # in floating point only
    assert _failed(_report(old=Paired(160, 8, 0)), [[before], [after, 0.85]]) == []


def test_slow_forgetting_is_refused_though_no_step_is_large() -> None:
    assert _failed(_report(old=Paired(160, 5, 1)), [[0.95], [0.75, 0.85]]) == [("old", "forgetting")]


def test_what_cannot_be_checked_has_failed() -> None:
    report = _report()
    assert _failed(report, [[0.9], [0.9, 0.85]]) == [("old", "drop")]
    assert math.isnan(judge(report, [[0.9], [0.9, 0.85]], ["old", "new"], GATE)[1].before)


def test_robustness_is_asked_only_where_it_is_asked_for() -> None:
    asked = GATE.model_copy(update={"robustness": 0.8})
    kinds = [v.kind for v in judge(_report(), [[0.9]], ["first"], GATE, 0.1)]
    assert kinds == ["new"]
    assert [v.passed for v in judge(_report(), [[0.9]], ["first"], asked, 0.8)] == [True, True]
    refused = judge(_report(), [[0.9]], ["first"], asked, 0.62)[1]
    assert not refused.passed
    assert refused.reason.startswith("robustness 62.0 %, at least 80.0 % is asked for")


def test_robustness_that_was_not_measured_has_failed() -> None:
    asked = GATE.model_copy(update={"robustness": 0.1})
    verdict = judge(_report(), [[0.9]], ["first"], asked)[1]
    assert (verdict.passed, verdict.reason) == (False, "robustness was not measured, at least 10.0 % is asked for")


def test_false_positives_by_hand() -> None:
    assert at_least(1, 10, 0.1) == pytest.approx(1 - 0.9**10)
    assert at_least(0, 10, 0.1) == 1.0
    assert at_least(1, 10, 0.0) == 0.0


@pytest.mark.parametrize(
    ("synthetic", "images", "passed"),
    [(2, 100, True), (5, 100, True), (6, 100, False), (1, 10, True), (30, 1000, False)],  # 0.051 is chance, 0.015 not
)
def test_false_positives_beyond_what_is_allowed_and_chance_explains_are_refused(
    synthetic: int, images: int, passed: bool
) -> None:
    asked = GATE.model_copy(update={"false_positives": 0.02})
    found = Slice("clean", images, synthetic, 0, 0)
    verdict = judge(_report(), [[0.9]], ["first"], asked, photographs=found)[1]
    assert (verdict.kind, verdict.passed) == ("false positives", passed)
    assert [v.kind for v in judge(_report(), [[0.9]], ["first"], GATE, photographs=found)] == ["new"]


def test_false_positives_are_told_in_a_line_and_none_measured_has_failed() -> None:
    asked = GATE.model_copy(update={"false_positives": 0.02})
    verdict = judge(_report(), [[0.9]], ["first"], asked, photographs=Slice("clean", 100, 6, 2, 1))[1]
    assert verdict.reason == (
        "real photographs that no task brought: 6.0 % are called synthetic, at most 2.0 % are allowed (p = 0.015)"
    )
    nothing = judge(_report(), [[0.9]], ["first"], asked)[1]
    assert not nothing.passed
    assert nothing.reason.endswith("none were looked at, at most 2.0 % are allowed to be called synthetic")
