"""Draws the floor plan in docs/architecture.md from import-linter's contracts, so that the page says nothing else.

python scripts/architecture.py           write it
python scripts/architecture.py --check   exit code 1 if the page has another one
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- floors: made by scripts/architecture.py -->", "<!-- end of floors -->"


def drawing() -> str:
    """The floors, one above the other, and a table of what lives in each room and who may import what."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    lines = []
    for number, floor in enumerate(floors):
        rooms = " · ".join(re.sub(r"^lorax\.", "", room) for room in _rooms(floor))
        lines.append(f"    {len(floors) - number:2}  {rooms}")
    lines += ["", "| floor | room | what lives there |", "|---|---|---|"]
    for number, floor in enumerate(floors):
        lines += [f"| {len(floors) - number} | `{room}` | {_said(room)} |" for room in _rooms(floor)]
    lines += ["", "Beside that:", ""]
    lines += [f"- {contract['name']}" for contract in contracts if contract["type"] != "layers"]
    return "\n".join(lines)


def page_with(drawn: str) -> str:
    """The page with this drawing in its place."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n\n{drawn}\n\n{END}{rest.partition(END)[2]}"


def _rooms(floor: str) -> list[str]:
    return [room.strip() for room in floor.split("|")]


def _files(room: str) -> list[Path]:
    place = ROOT / room.replace(".", "/")
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


def _said(room: str) -> str:
    """The first sentence of the room's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(_files(room)[0].read_text())) or "").split())
    return re.split(r"\.(?: |$)", text)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    wanted = page_with(drawing())
    if parser.parse_args().check:
        sys.exit(PAGE.read_text() != wanted and f"{PAGE} is out of date: run 'python scripts/architecture.py'")
    PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
