from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from supervisor.options import UnhosedConfigParser

from lorax.services.configuration import Program, section, write_config


@pytest.mark.parametrize("name", ["plain", "a #b", "a ;b\t#c", "41%41 %(x)s", "it's #1 'quoted'", "größe"])
def test_an_argument_reaches_its_program_whatever_begins_a_comment_or_an_expansion(name: str, tmp_path: Path) -> None:
    program = Program("watcher", ("-m", "lorax", "land", "--watch", f"/data/{name}"), tmp_path / "watcher")
    config = UnhosedConfigParser()
    config["program:watcher"] = section(program)
    write_config(tmp_path, config)
    read = UnhosedConfigParser()
    read.read([str(tmp_path / "supervisord.conf")])
    assert shlex.split(read["program:watcher"]["command"] % {})[-5:] == list(program.arguments)
