from __future__ import annotations

import pytest

from lorax.verdicts.rate import Window, interval
from lorax.verdicts.watched import WatchedVerdict


def feed(window: Window, kinds: str, start: int = 0) -> list[str]:
    """Take in images, of which those marked x are strange; what changed with each."""
    return [
        window.add(WatchedVerdict(f"{i}.png", str(i), "undecided", kind == "x", 1))
        for i, kind in enumerate(kinds, start)
    ]


def test_the_interval_is_wilson_s() -> None:
    """Its ends are where the test of that share just fails."""
    window = Window(50, 0.1)
    assert window.interval == (0, 1)
    feed(window, "x" * 10 + "." * 40)
    assert [abs(0.2 - share) / (share * (1 - share) / 50) ** 0.5 for share in window.interval] == (
        pytest.approx([2.576, 2.576], abs=1e-9)
    )
    assert window.interval[0] < 0.2 < window.interval[1]
    assert interval(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4), "10 of 10 may still be 72 %"


def test_known_images_with_false_alarms_are_no_rise() -> None:
    window = Window(200, 0.1)
    assert set(feed(window, ("." * 19 + "x") * 100)) == {""}
    assert window.share == 0.05
    assert len(window.seen) == 200


def test_a_rise_is_told_once_and_again_only_after_it_has_fallen() -> None:
    window = Window(100, 0.1)
    feed(window, "." * 100)
    rise = feed(window, "x" * 100, 100)
    assert rise.count("rising") == 1
    assert rise.index("rising") == 17  # 18 of 100, 2.67 standard errors of the rate above it; 17 are 2.33
    fall = feed(window, "." * 100, 200)
    assert [change for change in fall if change] == ["fallen"]
    assert fall.index("fallen") == 90  # the share is then 9 of 100
    assert feed(window, "x" * 100, 300).count("rising") == 1


def test_a_few_strange_images_at_the_beginning_are_not_enough() -> None:
    window = Window(200, 0.1)
    assert set(feed(window, "x" * 19)) == {""}
    assert feed(window, "x", 19) == ["rising"]


def test_the_same_file_again_counts_once() -> None:
    window = Window(200, 0.1)
    assert {window.add(WatchedVerdict("a.png", "same", "synthetic:unknown", True, 1)) for _ in range(50)} == {""}
    assert len(window.seen) == 1


def test_an_image_undecided_between_known_classes_is_not_strange() -> None:
    window = Window(30, 0.1)
    for i in range(30):
        window.add(WatchedVerdict("", str(i), "undecided", False, 1))
    assert window.share == 0
    assert window.verdicts == {"undecided": 30}
