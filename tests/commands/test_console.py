"""What a command prints: no text, whoever wrote it, does anything to the terminal but be read."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from lorax import progress
from lorax.commands import console
from lorax.commands.console import Screen

NAME = "a\x1b[31mred\x1b]8;;http://example.org\x07\x9b2J\u202egan\x7f\r"
_STYLES = re.compile(r"\x1b\[[\d;]*m")


def screen() -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    return Screen(file=file, force_terminal=True, highlight=False, soft_wrap=True, width=200), file


def test_control_characters_never_reach_the_terminal_in_whatever_they_stand() -> None:
    shown, file = screen()
    table, tree = Table(title=Text(NAME)), Tree(Text(NAME, "bold"))
    table.add_column(NAME)
    table.add_row(Text(NAME, "red"))
    tree.add(Text(NAME))
    for what in (NAME, Text(NAME), table, tree, f"one line\n{NAME}"):
        shown.print(what, markup=False)
    said = _STYLES.sub("", file.getvalue())
    assert "\x1b[1m" in file.getvalue()  # our own styles stay
    assert all(line.isprintable() for line in said.split("\n"))
    assert said.count(r"a\x1b[31mred\x1b]8;;http://example.") == 8
    assert said.count("\n") == 12


def test_json_stays_json_and_tells_the_very_text(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, file = screen()
    monkeypatch.setattr(console, "out", shown)
    console.print_json({NAME: [NAME, "größer\n"]})
    assert json.loads(file.getvalue()) == {NAME: [NAME, "größer\n"]}
    assert all(line.isprintable() for line in file.getvalue().split("\n"))
    assert "größer" in file.getvalue()


def test_what_is_imported_under_a_bar_finds_the_streams_themselves() -> None:
    streams = (sys.stdout, sys.stderr)
    with progress.counting(screen()[0]) as show:
        show(1, 2, "images")
        assert (sys.stdout, sys.stderr) == streams
