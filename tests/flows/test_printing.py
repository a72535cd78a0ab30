"""What commands print of records, where no real run is needed to see it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from rich.console import Console

from flows import outcomes, records, status

HOLD = {
    "task": "tiles",
    "digest": "171d0eea9212ffff",
    "version": 3,
    "reason": "a: accuracy 50.0 %; b: accuracy 46.2 %; c: accuracy 1.0 %",
    "by": "the gate",
    "at": "2026-11-22T06:25:11+00:00",
}


def printed(show: Callable[[Any, Console], None], record: dict[str, Any]) -> list[str]:
    text = io.StringIO()
    show(record, Console(file=text, width=200, highlight=False))
    return [line.strip() for line in text.getvalue().splitlines()]


def test_learn_tells_every_reason_of_a_refusal_and_of_what_is_held_the_first() -> None:
    refused = {"version": 3, "task": "tiles", "outcome": "refused", "reason": HOLD["reason"]}
    record = {"learned": [3], "outcomes": [refused], "champion": None, "accuracy": [], "held": [HOLD], "approval": None}
    assert printed(outcomes.print_outcomes, record) == [
        "no champion yet.",
        "version 3 (tiles) refused:",
        "a: accuracy 50.0 %",
        "b: accuracy 46.2 %",
        "c: accuracy 1.0 %",
        "held: tiles (bytes 171d0eea9212, version 3): a: accuracy 50.0 %, and 2 more (the gate, 2026-11-22 06:25)",
    ]


def test_a_person_s_reason_is_told_whole() -> None:
    hold = HOLD | {"by": "ann@desk", "reason": "false alarms; seen by two of us"}
    record = {"learned": [], "outcomes": [], "champion": None, "accuracy": [], "held": [hold], "approval": 4}
    said = printed(outcomes.print_outcomes, record)
    assert said[0] == "nothing to learn: the champion knows every landed task that is not held."
    assert "false alarms; seen by two of us (ann@desk, 2026-11-22 06:25)" in said[2]
    assert said[3].startswith("version 4 waits for approval")


def test_status_says_what_to_do_about_changed_data_and_which_holds_are_of_bytes_of_the_past() -> None:
    record = {
        "workspace": "/w", "landed": ["tiles"], "error": None, "broken": [], "champion": None, "known": [],
        "waiting": [], "approval": None, "changed": ["tiles"], "held": [HOLD | {"is_landed": False}],
        "data": {"digest": "", "commit": None}, "services": {}, "helpers": {},
    }  # fmt: skip
    said = "\n".join(printed(status.print_status, record))
    assert "tiles landed with other bytes than were learned; to learn these: 'lorax relearn tiles'" in said
    assert "other bytes have landed since, or none" in said


def test_a_branch_that_started_from_another_s_weights_is_told_by_its_start_and_not_as_a_likeness() -> None:
    near = {"task": "tiles", "similarity": 0.912}
    assert records.nearest_line({"start": None, "nearest": near}) == "nearest tiles 0.91"
    assert records.nearest_line({"start": "tiles", "nearest": None}) == "started from tiles"
    assert records.nearest_line({"start": None, "nearest": None}) == ""
