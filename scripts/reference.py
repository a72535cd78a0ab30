"""What the documentation takes from the source: every command from the command line, every parameter from its schema.

A page has a line such as `<!-- made from the source: commands -->`; `source` puts what the code says now in its place.
`make docs` builds the pages so, and tests/test_documentation.py reads them so.

python -m scripts.reference docs/reference/commands.md      print a page as it is built
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lorax.cli import app
from lorax.params import Params

ROOT = Path(__file__).parents[1]
NEW_WORKSPACE = ROOT / "lorax" / "templates" / "params.yaml"


def source(page: Path) -> str:
    """A page's Markdown, with what is made from the source in its place, and links called by the pages they lead to."""
    makers = {"commands": commands, "parameters": parameters}
    text = re.sub(r"<!-- made from the source: (\w+) -->", lambda mark: makers[mark[1]](), page.read_text())
    link = r"\[[\w/.-]+\.md\]\(([^)#\s]+\.md)\)(?:,\s\"([^\"]+)\")?"
    return re.sub(link, lambda found: _called_by_title(page.parent / found[1], found), text)


def headings(page: Path) -> list[str]:
    """Of a file, as they are written; the first is its title."""
    lines = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [title.replace("`", "") for title in re.findall(r"^#{1,4} (.+)$", lines, flags=re.MULTILINE)]


def anchor(heading: str) -> str:
    """As GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _called_by_title(target: Path, link: re.Match[str]) -> str:
    """For `[method.md](method.md), "Verdicts"`: a link to that section, which names the page by its title."""
    titles = headings(target) if target.is_file() else []
    if not titles:
        return link[0]
    if link[2] and (section := " ".join(link[2].split())) in titles:
        return f"[{titles[0]}, {section}]({link[1]}#{anchor(section)})"
    return f"[{titles[0]}]({link[1]})" + (f', "{link[2]}"' if link[2] else "")


def commands() -> str:
    """Every command: how it is called, its help, its arguments and options."""
    lines = _options(typer.main.get_command(app))
    for name, command in named_commands():
        usage = " ".join([name, *(_argument(p) for p in command.params if not _is_option(p)), "[OPTIONS]"])
        lines += [f"## {name}", "", f"    {usage}", "", _flowing(command.help), "", *_options(command)]
    return "\n".join(lines)


def parameters() -> str:
    """Every key of params.yaml by section: what it means, what it may be, what it is in a new workspace."""
    new = yaml.safe_load(NEW_WORKSPACE.read_text())
    lines = []
    for section, field in Params.model_fields.items():
        schema = field.annotation
        assert isinstance(schema, type) and issubclass(schema, BaseModel)
        lines += [f"## {section}", "", _flowing(schema.__doc__), ""]
        lines += ["| key | what | may be | in a new workspace | if left out |", "|---|---|---|---|---|"]
        for key, of_key in schema.model_fields.items():
            default = of_key.get_default(call_default_factory=True)
            chosen = new.get(section, {}).get(key, default)
            cells = (_cell(of_key.description or ""), _range(of_key), _value(chosen), _value(default))
            lines.append(f"| `{key}` | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def named_commands() -> Iterator[tuple[str, Any]]:
    """Every command by all that is typed to call it: `lorax land`, `lorax atlas add`."""
    yield from _named(typer.main.get_command(app), "lorax")


def _named(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _named(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _is_option(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "option")


def _argument(parameter: Any) -> str:
    shown = (parameter.metavar or parameter.name).strip("[]").upper() + ("..." if parameter.nargs == -1 else "")
    return shown if parameter.required else f"[{shown}]"


def _options(command: Any) -> list[str]:
    """A table of a command's arguments and options; none for a command without."""
    rows = []
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        names = ", ".join(f"`{name}`" for name in _spellings(parameter)) if _is_option(parameter) else ""
        shown = names or f"`{_argument(parameter)}`"
        rows.append(f"| {shown} | {_cell(parameter.help or '')} | {_default(parameter)} |")
    return ["| | what | default |", "|---|---|---|", *rows, ""] if rows else []


def _spellings(parameter: Any) -> list[str]:
    words = {Path: "PATH", int: "N", float: "X", str: "TEXT"}
    kind = parameter.type_descriptor.annotation
    value = parameter.metavar or words.get(next(iter(get_args(kind)), kind), "")
    names = [*(name if parameter.is_flag else f"{name} {value}" for name in parameter.opts), *parameter.secondary_opts]
    return [name.replace("|", "\\|") for name in names]


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "needed"
    if value is True:
        return f"`{parameter.opts[0]}`"
    return "" if value is None or value is False or value in ((), "") or callable(value) else f"`{value}`"


def _flowing(text: str | None) -> str:
    """A docstring's paragraphs, each in one line."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", (text or "").strip()))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")


def _range(field: FieldInfo) -> str:
    """The type and its limits, as a person reads them."""
    limits = {"ge": "from", "gt": "above", "le": "to", "lt": "below", "min_length": "length from", "max_length": "to"}
    found = [f"{word} {getattr(m, key):,}" for m in _limits(field) for key, word in limits.items() if hasattr(m, key)]
    return " ".join([_type(field.annotation), *found])


def _limits(field: FieldInfo) -> Sequence[Any]:
    return list(field.metadata)


def _type(kind: Any) -> str:
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null", dict: "map"}
    if kind in words:
        return words[kind]
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    inner = [part for part in get_args(kind) if part is not Ellipsis]
    if get_origin(kind) is tuple:
        fixed = Ellipsis not in get_args(kind)
        return f"{len(inner)} numbers" if fixed else f"list: {_type(inner[0])}"
    if get_origin(kind) is dict:
        return "map"
    return " or ".join(dict.fromkeys(_type(part) for part in inner)) if inner else "number"


def _value(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    return "`" + text.replace("|", "\\|") + "`"


def main() -> None:
    print(source(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
