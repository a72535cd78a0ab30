"""Making a workspace: its own git and DVC repository, params.yaml, dvc.yaml, and a first commit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from lorax.data import repository
from lorax.errors import ParamsError
from lorax.params import load_params
from lorax.storage import write_whole
from lorax.workspace import Workspace

_FILES = {name: name.removeprefix(".") for name in ("params.yaml", "dvc.yaml", "prefect.yaml", ".gitignore")}
_COMMITTED = (*_FILES, ".dvc/config", ".dvc/.gitignore", ".dvcignore")


def initialize(
    root: Path,
    *,
    preset: str | None = None,
    remote: str | None = None,
    prefect_port: int | None = None,
    mlflow_port: int | None = None,
    values: Mapping[str, Mapping[str, Any]] | None = None,
) -> Workspace:
    """Make `root` a workspace; in one that is there already, only what is missing is made.

    Args:
        root: the folder; it may hold other things.
        preset: a preset whose values params.yaml begins with.
        remote: where DVC is to push landed data: a folder or an address that DVC knows.
        prefect_port: the embedded Prefect server's port, instead of the usual one.
        mlflow_port: likewise for MLflow.
        values: section -> key -> value that params.yaml begins with in place of the usual one.

    Raises:
        ParamsError: unknown preset, or a port that can't be one.
        DataVersionError: git or DVC refused.
    """
    ports = {"prefect_port": prefect_port, "mlflow_port": mlflow_port}
    changes = {**(values or {}), "services": {key: port for key, port in ports.items() if port is not None}}
    texts = {name: (files("lorax") / "templates" / source).read_text() for name, source in _FILES.items()}
    texts["params.yaml"] = with_values(_with_preset(texts["params.yaml"], preset), changes)
    root = root.resolve()
    for name, text in texts.items():  # first, since .gitignore keeps DVC's files from being ignored
        if not (root / name).exists():
            write_whole(root / name, text)
    repository.create_repository(root)
    if remote is not None:
        repository.set_remote(root, remote)
    load_params(root / "params.yaml")
    present = [name for name in _COMMITTED if (root / name).exists()]
    if not all(repository.is_committed(root, name) for name in present):
        repository.commit(root, present, "Make a lorax workspace")
    return Workspace(root)


def with_values(text: str, changes: Mapping[str, Mapping[str, Any]]) -> str:
    """params.yaml's `text` with some values changed or added, comments and order kept.

    Args:
        text: the file's content; every key of a section on a line of its own.
        changes: section -> key -> new value.
    """
    for section, values in changes.items():
        for key, value in values.items():
            text = _with_value(text, section, key, value)
    return text


def _with_value(text: str, section: str, key: str, value: Any) -> str:
    written = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
    line = re.compile(rf"(?m)^(  {key}:)[^#\n]*?(\s*#.*)?$")
    found = re.search(rf"(?m)^{section}:.*\n(?:(?:  .*)?\n)*", text)
    if found is None:
        return f"{text}\n{section}:\n  {key}: {written}\n"
    block = found.group()
    if line.search(block):
        block = line.sub(lambda match: f"{match[1]} {written}{match[2] or ''}", block, count=1)
    else:
        head, rest = block.split("\n", 1)
        block = f"{head}\n  {key}: {written}\n{rest}"
    return text[: found.start()] + block + text[found.end() :]


def _with_preset(text: str, preset: str | None) -> str:
    if preset is None:
        return text
    presets = yaml.safe_load(text)["presets"]
    if preset not in presets:
        raise ParamsError(f"there is no preset {preset!r}; expected {' or '.join(sorted(presets))}.")
    return with_values(text, presets[preset])
