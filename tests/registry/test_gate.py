"""The gate, by hand: floors, drops, and noise that must not refuse."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from lorax.learning.folder import Report
from lorax.learning.metrics import Paired
from lorax.learning.unknown import Slice
from lorax.params import GateParams
from lorax.registry.gate import TaskVerdict, at_least, judge, mcnemar, two_proportions

GATE = GateParams(attribution_floor=0.7, attribution_drop=0.05, attribution_forgetting=0.15, significance=0.05)
SAME = Paired(160, 0, 0)
TASKS = ["old", "new"]
DETECTED = {"old": 0.98, "new": 0.95}
"""Of the challenger, and as good as it ever was."""


def _report(attribution: Paired | None, detection: Paired | None = SAME, **detected: float) -> Report:
    old, found = {"old": attribution} if attribution else {}, {"old": detection} if detection else {}
    return Report({}, DETECTED | detected, 1.0, [], old, found, 1, "new", [], {}, 1, 1)


def _judged(report: Report, rows: list[list[float]], gate: GateParams = GATE, **how: Any) -> list[TaskVerdict]:
    return judge(report, rows, TASKS, gate, {"old": 0.98}, **how)


def _failed(report: Report, rows: list[list[float]], gate: GateParams = GATE) -> list[tuple[str, str]]:
    return [(v.figure, v.kind) for v in _judged(report, rows, gate) if not v.passed]


def _first(**how: Any) -> list[TaskVerdict]:
    return judge(_report(None, None), [[0.69]], ["new"], **{"gate": GATE, "detected_first": {}, **how})


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
    report = _report(Paired(160, 4, 3), old=0.6)
    assert _failed(report, rows) == [("detection", "forgetting"), ("attribution", "forgetting")]
    verdicts = _judged(report, rows, replaced=["old"])
    assert [v.kind for v in verdicts] == ["new", "drop", "forgetting"] * 2
    assert all(v.passed for v in verdicts)
    assert verdicts[5].reason == (
        "old: attribution was compared with the champion only: its data was replaced since it was learned, or the "
        "version that learned it was deleted"
    )
    lost = _judged(_report(Paired(160, 30, 3)), rows, replaced=["old"])
    assert [(v.figure, v.kind) for v in lost if not v.passed] == [("attribution", "drop")]


def test_two_proportions_by_hand() -> None:
    assert two_proportions(0.9, 0.9, 100) == 0.5
    assert two_proportions(1.0, 1.0, 100) == 1.0
    # (0.9 - 0.8) / sqrt(2 · 0.85 · 0.15 / 100) = 1.98 standard deviations
    assert two_proportions(0.9, 0.8, 100) == pytest.approx(0.0239, abs=2e-4)


def test_a_good_challenger_passes() -> None:
    assert _failed(_report(Paired(160, 4, 3)), [[0.9], [0.894, 0.85]]) == []


def test_the_first_task_needs_the_floors_only() -> None:
    detection, attribution = _first()
    assert (detection.passed, attribution.passed) == (True, False)
    assert attribution.reason == "new: attribution 69.0 %, the floor is 70.0 %"
    missed = judge(_report(None, None, new=0.69), [[0.7]], ["new"], GATE, {})
    assert [v.passed for v in missed] == [False, True]
    assert missed[0].reason == "new: detection 69.0 %, the floor is 70.0 %"


def test_a_real_drop_is_refused_and_named() -> None:
    report = _report(Paired(160, 20, 2))
    assert _failed(report, [[0.9], [0.7875, 0.85]]) == [("attribution", "drop")]
    reason = _judged(report, [[0.9], [0.7875, 0.85]])[4].reason
    assert reason.startswith("old: attribution 78.8 %, the champion has 90.0 % (p =")


def test_confusion_among_relatives_alone_refuses_nothing_but_images_that_pass_for_real_do() -> None:
    """Half of an old generator's images, and of the new one's, are called by the other's name."""
    rows, told = [[0.98], [0.73, 0.73]], Paired(160, 41, 1)
    assert _failed(_report(told, old=0.98, new=0.98), rows, GateParams()) == []
    missed = _report(told, Paired(160, 21, 1), old=0.855)
    assert _failed(missed, rows, GateParams()) == [("detection", "drop")]


def test_a_generator_whose_name_is_lost_is_refused_though_it_is_detected() -> None:
    rows, told = [[0.98], [0.49, 0.98]], Paired(160, 79, 0)
    failed = _failed(_report(told), rows, GateParams())
    assert failed == [("attribution", "drop"), ("attribution", "forgetting")]


def test_a_drop_within_chance_is_no_reason() -> None:
    assert _failed(_report(Paired(20, 3, 1)), [[0.9], [0.8, 0.85]]) == []


def test_a_certain_but_small_drop_is_no_reason() -> None:
    assert _failed(_report(Paired(2000, 40, 0)), [[0.9], [0.88, 0.85]]) == []


def test_a_drop_of_just_what_is_allowed_is_no_reason() -> None:
    before, after = 158 / 160, 150 / 160
    assert before - after > GATE.attribution_drop  # in floating point only
    assert _failed(_report(Paired(160, 8, 0)), [[before], [after, 0.85]]) == []


def test_slow_forgetting_is_refused_though_no_step_is_large() -> None:
    assert _failed(_report(Paired(160, 5, 1)), [[0.95], [0.75, 0.85]]) == [("attribution", "forgetting")]
    slowly = _report(Paired(160, 5, 1), Paired(160, 5, 1), old=0.8)
    assert _failed(slowly, [[0.95], [0.9, 0.85]]) == [("detection", "forgetting")]


def test_what_cannot_be_checked_has_failed() -> None:
    report = _report(None, None)
    assert _failed(report, [[0.9], [0.9, 0.85]]) == [("detection", "drop"), ("attribution", "drop")]
    assert math.isnan(_judged(report, [[0.9], [0.9, 0.85]])[1].before)


def test_robustness_is_asked_only_where_it_is_asked_for() -> None:
    asked = GateParams(robustness=0.8)
    assert [v.kind for v in _first(robustness=0.1)] == ["new", "new"]
    assert [v.passed for v in _first(gate=asked, robustness=0.8)] == [True, True, True]
    refused = _first(gate=asked, robustness=0.62)[-1]
    assert not refused.passed
    assert refused.reason.startswith("robustness 62.0 %, at least 80.0 % is asked for")


def test_robustness_that_was_not_measured_has_failed() -> None:
    verdict = _first(gate=GateParams(robustness=0.1))[-1]
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
    asked = GateParams(false_positives=0.02)
    found = Slice("clean", images, synthetic, 0, 0)
    verdict = _first(gate=asked, photographs=found)[-1]
    assert (verdict.kind, verdict.passed) == ("false positives", passed)
    assert [v.kind for v in _first(photographs=found)] == ["new", "new"]


def test_false_positives_are_told_in_a_line_and_none_measured_has_failed() -> None:
    asked = GateParams(false_positives=0.02)
    verdict = _first(gate=asked, photographs=Slice("clean", 100, 6, 2, 1))[-1]
    assert verdict.reason == (
        "real photographs that no task brought: 6.0 % are called synthetic, at most 2.0 % are allowed (p = 0.015)"
    )
    nothing = _first(gate=asked)[-1]
    assert not nothing.passed
    assert nothing.reason.endswith("none were looked at, at most 2.0 % are allowed to be called synthetic")
