"""What commands print of records, where no real run is needed to see it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from lorax.commands import console, diff, history, learn, status, tables, tasks

HOLD = {
    "task": "tiles",
    "digest": "171d0eea9212ffff",
    "version": 3,
    "reason": "a: accuracy 50.0 %; b: accuracy 46.2 %; c: accuracy 1.0 %",
    "by": "the gate",
    "at": "2026-11-22T06:25:11+00:00",
    "is_withdrawn": False,
}


def printed(show: Callable[[Any, Console], None], record: dict[str, Any]) -> list[str]:
    text = io.StringIO()
    show(record, Console(file=text, width=200, highlight=False))
    return [line.strip() for line in text.getvalue().splitlines()]


def test_learn_tells_every_reason_of_a_refusal_and_of_what_is_held_the_first() -> None:
    refused = {"version": 3, "task": "tiles", "outcome": "refused", "reason": HOLD["reason"]}
    record = {"learned": [3], "outcomes": [refused], "champion": None, "accuracy": [], "held": [HOLD], "approval": None}
    assert printed(learn.print_outcomes, record) == [
        "no champion yet.",
        "version 3 (tiles) refused:",
        "a: accuracy 50.0 %",
        "b: accuracy 46.2 %",
        "c: accuracy 1.0 %",
        "held: tiles (bytes 171d0eea9212, version 3): a: accuracy 50.0 %, and 2 more (the gate, 2026-11-22 06:25)",
    ]


def test_withdrawing_once_more_tells_what_is_left_to_forget() -> None:
    before, after = ({"version": number, "tasks": ["ripple"]} for number in (4, 5))
    of = {"task": "tiles", "champion": after, "held": [], "data": {"commit": "c0ffee"}}
    first, more = printed(tasks.print_withdrawn, of | {"before": before, "known_by": [2, 4]})
    assert first == "champion: version 4 (ripple) -> version 5 (ripple)"
    assert "Versions that know it still: 2, 4. 'lorax forget tiles' removes them" in more
    first, more = printed(tasks.print_withdrawn, of | {"before": after, "known_by": []})
    assert first == "champion: version 5 (ripple)"
    assert "no version knows it. Images may be left: 'lorax forget tiles' looks." in more


def test_a_person_s_reason_is_told_whole() -> None:
    hold = HOLD | {"by": "ann@desk", "reason": "false alarms; seen by two of us"}
    record = {"learned": [], "outcomes": [], "champion": None, "accuracy": [], "held": [hold], "approval": 4}
    said = printed(learn.print_outcomes, record)
    assert said[0] == "nothing to learn: the champion knows every landed task that is not held."
    assert "false alarms; seen by two of us (ann@desk, 2026-11-22 06:25)" in said[2]
    assert said[3].startswith("version 4 waits for approval")


def test_status_says_what_to_do_about_changed_data_and_which_holds_are_of_bytes_of_the_past() -> None:
    record = {
        "workspace": "/w", "landed": ["tiles"], "error": None, "broken": [], "champion": None, "known": [],
        "waiting": [], "behind": {}, "approval": None, "changed": ["tiles"], "held": [HOLD | {"is_landed": False}],
        "data": {"digest": "", "commit": None}, "services": {}, "helpers": {}, "runs": None,
        "work": {"bytes": 3 * 2**29}, "unpushed": {"tasks": ["tiles"], "why": "because"}, "withdrawing": ["ripple"],
    }  # fmt: skip
    said = "\n".join(printed(status.print_status, record))
    assert "tiles: landed here, not in the upstream" in said
    assert "tiles landed with other bytes than were learned; to learn these: 'lorax relearn tiles'" in said
    assert "other bytes have landed since, or none" in said
    assert "1.5 GiB" in said
    assert "ripple: begun, not over; the same command goes on with it: 'lorax withdraw ripple --reason TEXT'" in said


def test_status_tells_the_champion_s_false_positives_and_their_worst_slice() -> None:
    metrics = dict.fromkeys(tables.HEADLINES, 0.9)
    metrics |= {"false_positives/clean": 0.01, "false_positives/jpeg-75": 0.12, "false_positives/webp-80": 0.1}
    champion = {"version": 2, "state_digest": "0" * 64, "calibrated": True, "metrics": metrics}
    record = {
        "workspace": "/w", "landed": [], "error": None, "broken": [], "champion": champion, "known": ["tiles"],
        "waiting": [], "behind": {}, "approval": None, "changed": [], "held": [],
        "data": {"digest": "", "commit": None}, "services": {}, "helpers": {}, "runs": None, "work": {"bytes": 0},
        "unpushed": {"tasks": [], "why": ""}, "withdrawing": [],
    }  # fmt: skip
    said = [" ".join(line.split()) for line in printed(status.print_status, record)]
    place = said.index("false positives on other real photographs 1.0 %")
    assert said[place + 1] == "false positives, worst slice jpeg-75 12.0 %"
    champion["metrics"] = dict.fromkeys(tables.HEADLINES, 0.9)
    assert not [line for line in printed(status.print_status, record) if "false positives" in line or "worst" in line]


def test_a_branch_that_started_from_another_s_weights_is_told_by_its_start_and_not_as_a_likeness() -> None:
    near = {"task": "tiles", "similarity": 0.912}
    assert tables.nearest_line({"start": None, "nearest": near}) == "nearest tiles 0.91"
    assert tables.nearest_line({"start": "tiles", "nearest": None}) == "started from tiles"
    assert tables.nearest_line({"start": None, "nearest": None}) == ""


def version(number: int, parent: int | None, *aliases: str, **more: Any) -> dict[str, Any]:
    return {
        "version": number, "task": f"task{number}", "aliases": aliases, "calibrated": True, "nearest": None,
        "start": None, "metrics": {"average_accuracy": 0.97, "forgetting": 0.01}, "outcome": "promoted", "reason": "",
        "verdicts": [], "promoted_at": None, "state_digest": f"digest{number}", "data_digest": "d" * 32,
        "parent_digest": parent and f"digest{parent}", **more,
    }  # fmt: skip


def history_at(width: int, *versions: dict[str, Any]) -> list[str]:
    text = io.StringIO()
    found = {"versions": versions, "journal": [], "held": [], "broken": []}
    history.print_history(found, Console(file=text, width=width), gate=False)
    return text.getvalue().splitlines()


def test_a_line_of_descent_is_a_list_however_long_it_is() -> None:
    line = [version(n, n - 1 or None, *(["champion"] if n == 200 else [])) for n in range(1, 201)]
    shown = history_at(80, *line)
    assert [row.split()[1:3] for row in shown if row.startswith("version ")] == [
        [f"{n}", f"+task{n}"] for n in range(1, 201)
    ]
    assert next(row for row in shown if "[champion]" in row).startswith("version 200 +task200  [champion]")


def test_what_grew_beside_the_champion_s_line_hangs_below_where_it_left_it() -> None:
    refused = version(3, 2, outcome="refused", verdicts=[{"passed": False, "reason": "task1: accuracy 50.0 %"}])
    shown = history_at(
        120,
        version(1, None),
        version(2, 1),
        refused,
        version(4, 2),
        version(5, 3),
        version(6, 4, "champion"),
        version(7, 2),
    )
    begin = "  average 97.0 %, forgetting 1.0 %, data dddddddddddd"
    assert [row.replace(begin, "") for row in shown[:8]] == [
        "version 1 +task1  promoted",
        "version 2 +task2  promoted",
        "├── version 3 +task3  refused  (from version 2)",
        "│   └── task1: accuracy 50.0 %",
        "├── version 5 +task5  promoted",
        "└── version 7 +task7  promoted  (from version 2)",
        "version 4 +task4  promoted",
        "version 6 +task6  [champion]  promoted",
    ]


def test_a_table_cuts_no_name_however_narrow_the_terminal() -> None:
    names = [f"a_generator_with_a_long_name_{n}" for n in range(2)]
    record = {
        "versions": [1, 2], "calibrated": [True, True], "newest": [version(1, None), version(2, 1)], "classes": {},
        "parameters": {}, "metrics": {key: [None, None] for key in (*diff.HEADLINES, *diff.TRUST)},
        "tasks": {n: {"accuracy": [0.5, 1.0], "digests": ["d" * 32] * 2, "data": "same"} for n in names},
        "data": [{"digest": None, "commit": None}] * 2,
    }  # fmt: skip
    text = io.StringIO()
    diff.print_differences(record, Console(file=text, width=30))
    assert all(name in text.getvalue() for name in names)
    assert "…" not in text.getvalue()


def test_nothing_said_is_turned_into_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    reason = {"reason": "a :bug: was found [red]here[/red]"}
    console.print_json(reason)
    assert json.loads(capsys.readouterr().out) == reason
