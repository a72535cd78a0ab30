"""The documentation, and what messages advise, is true: commands exist and parse, links lead somewhere, and so on.

Pages are read as `make docs` builds them, with what scripts/reference.py makes from the source in its place.
"""

from __future__ import annotations

import ast
import gc
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from lorax.cli import app
from lorax.learning.folder import Report
from lorax.learning.metrics import Scores
from lorax.learning.training import EpochRow
from lorax.params import Params
from lorax.registry import tracking
from lorax.registry.assessment_log import NEAREST_SIMILARITY, assessment_metrics
from scripts import reference
from tests.registry.assessments import FORESEEN, assessed

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
MADE = [page for page in PAGES if "<!-- made from the source:" in page.read_text()]
COMMANDS = typer.main.get_command(app)

_read = cache(reference.source)


def _code(page: Path) -> list[str]:
    """Lines of code: indented blocks, fenced blocks, and `inline` code."""
    text = _read(page)
    lines = re.findall(r"^ {4}(\S.*)$", text, flags=re.MULTILINE)
    for block in re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        lines += block.splitlines()
    return lines + re.findall(r"`([^`\n]+)`", text)


def _lorax_commands(page: Path) -> list[list[str]]:
    parts = [part.strip().removeprefix("$ ") for line in _code(page) for part in re.split(r"&&|\||;|#|·", line)]
    return [shlex.split(part)[1:] for part in parts if re.match(r"lorax( |$)", part)]


def _command(words: list[str]) -> click.Command | None:
    """The command that the words name; where they name a group, and no more than it, the group."""
    found = COMMANDS.commands.get(words[0])
    named = words[1:2] if found is COMMANDS.commands["atlas"] else []
    return found.commands.get(named[0]) if named and re.fullmatch("[a-z]+", named[0]) else found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_lorax_command_in_the_documentation_parses(page: Path) -> None:
    for words in _lorax_commands(page):
        if not words or words[0].startswith("-") or words[0].isupper():
            continue
        command = _command(words)
        assert command is not None, f"{page.name}: lorax {' '.join(words)}"
        options = {
            o
            for p in command.params
            if isinstance(p, click.Option) or p.param_type_name == "option"
            for o in (*p.opts, *p.secondary_opts)
        } | {"--help"}
        used = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
        assert used <= options, f"{page.name}: lorax {' '.join(words)} has no {used - options}"


def _advised() -> set[tuple[str, str]]:
    """Every 'lorax ...' that a text of the code has in quotes, with 1 for what it fills in, and where it stands."""
    found = set()
    gc.collect()  # Python 3.11's parser fails when a finalizer that raises runs inside it, as one of DVC's does
    for path in sorted(path for room in ("lorax", "flows") for path in (ROOT / room).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        filled = [node for node in nodes if isinstance(node, ast.JoinedStr)]
        parts = {id(part) for node in filled for part in node.values}
        plain = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in parts]
        texts = ["".join(_text(part) for part in node.values) for node in filled] + [_text(node) for node in plain]
        found |= {(path.name, words) for text in texts for words in re.findall(r"'lorax ([^'\n]+)'", text)}
    return found


def _text(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "1"


def test_every_command_that_a_message_advises_runs_as_it_is_printed() -> None:
    """It exists, has the options, and where more than its name is printed, all that it needs."""
    advised = _advised()
    assert len(advised) > 25
    for where, text in sorted(advised):
        words, place = shlex.split(text), f"{where}: 'lorax {text}'"
        command = _command(words)
        assert command is not None, place
        rest = words[2:] if words[0] == "atlas" else words[1:]
        options, left, _ = command.make_parser(click.Context(command)).parse_args([*rest])  # which it empties
        assert left == [], place
        needed = {parameter.name for parameter in command.params if parameter.required}
        assert not rest or needed <= {name for name, value in options.items() if value not in (None, ())}, place


def test_every_command_is_shown_at_work_on_a_page_that_a_person_wrote() -> None:
    commands = [words for page in PAGES if page not in MADE for words in _lorax_commands(page)]
    documented = {" ".join(words[:count]) for words in commands for count in (1, 2)}
    assert documented >= set(COMMANDS.commands)
    assert documented >= {f"atlas {name}" for name in COMMANDS.commands["atlas"].commands}


def test_every_make_target_in_the_documentation_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        used = {m for line in _code(page) for m in re.findall(r"^(?:\$ )?make ([a-z-]+)", line.strip())}
        assert used <= targets, page.name


def test_every_command_and_its_options_say_what_they_do() -> None:
    text = reference.commands()
    for name, command in reference.named_commands():
        assert f"\n## {name}\n" in text
        assert command.help, name
        assert all(parameter.help for parameter in command.params if parameter.name != "help"), name


def test_every_parameter_says_what_it_means() -> None:
    text = reference.parameters()
    for section, field in Params.model_fields.items():
        assert f"## {section}\n" in text
        for key, of_key in field.annotation.model_fields.items():
            assert of_key.description, f"{section}.{key}"
            assert f"| `{key}` | " in text, f"{section}.{key}"


@cache
def _headings(page: Path) -> list[str]:
    return [
        *reference.headings(page),
        *re.findall(r"^#{1,4} (.+)$", _read(page) if page in MADE else "", flags=re.MULTILINE),
    ]


def _has_section(page: Path, title: str) -> bool:
    """Whether a section is called so: by its heading, less the log's dates, or the bold words that it begins with."""
    titles = [*_headings(page), *re.findall(r"^\*\*(.+?)\*\*", _read(page), flags=re.MULTILINE)]
    return any(re.sub(r"^\d{4}-\d\d-\d\d: ", "", found).startswith(" ".join(title.split())) for found in titles)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", _read(page)):
        if "://" in target:
            continue
        place = page.parent / target if target else page
        assert place.is_file(), f"{target} is no file that a site can show"
        assert not anchor or anchor in map(reference.anchor, _headings(place)), f"{target}#{anchor}"
    for target, title in re.findall(r"\]\(([^)#\s]+\.md)\),\s+\"([^\"]+)\"", _read(page)):
        assert _has_section(page.parent / target, title), f"{target}, {title}"


def test_every_page_and_section_that_code_and_pages_name_is_there() -> None:
    """Such as: docs/method.md, "The student"; pages are named from the repository's root."""
    kinds = {".py", ".md", ".yaml", ".toml", ".j2", ".json"}
    rooms = ("lorax", "flows", "proofs", "benchmarks", "scripts", "deploy", "docs", "tests")
    places = [*ROOT.glob("*.md"), ROOT / "params.yaml", *(p for room in rooms for p in (ROOT / room).rglob("*"))]
    named = 0
    for place in places:
        if place.suffix not in kinds or place.name == "log.md":  # the log names pages as they were
            continue
        text = place.read_text().replace('\\"', '"')
        for name, section in re.findall(r"(docs/[\w/-]+\.md)\)?(?:,\s+\"([^\"]+)\")?", text):
            assert (ROOT / name).exists(), f"{place}: {name}"
            assert not section or _has_section(ROOT / name, section), f"{place}: {name}, {section}"
            named += bool(section)
    assert named > 10


def test_every_logged_metric_is_explained() -> None:
    explained = set(re.findall(r"^\| `([^`]+)` \|", _read(ROOT / "docs/reference/metrics.md"), flags=re.MULTILINE))
    row = EpochRow(0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    scores = Scores({"a-task": 1.0}, {"a-task": 1.0}, 1.0, [[1]], {}, {})
    report = Report(
        **vars(scores),
        episode=0,
        task="a-task",
        curves=[row],
        seconds={"a-part": 1.0},
        trainable_parameters=1,
        lora_modules=1,
    )
    logged = set(tracking.episode_metrics([[1.0]], ["a-task"], report))
    logged |= {point.key for point in tracking._curves(report)}
    trust = assessment_metrics(assessed(1, "a-task", foreseen=FORESEEN))
    logged.add(NEAREST_SIMILARITY)
    logged |= {re.sub("jpeg-75|jpeg-95|blur-100|clean", "<perturbation>", name) for name in trust}
    assert len(logged) >= 30
    assert {name.replace("a-task", "<task>").replace("a-part", "<part>") for name in logged} <= explained
