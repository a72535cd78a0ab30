"""`lorax init`, a workspace made: its own git and DVC repository, params.yaml, dvc.yaml, and a first commit."""

from __future__ import annotations

import io
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from lorax.commands.console import out
from lorax.errors import ParamsError
from lorax.workspace import Workspace

_FILES = {name: name.removeprefix(".") for name in ("params.yaml", "dvc.yaml", "prefect.yaml", ".gitignore")}
_COMMITTED = (*_FILES, ".dvc/config", ".dvc/.gitignore", ".dvcignore")
_LONGEST = 1000
"""A line of params.yaml, which stays whole."""


def init(
    directory: Annotated[Path, typer.Argument(help="The folder to make a workspace of.")],
    preset: Annotated[
        str | None, typer.Option(help="Begin with the values of this preset, as in --preset paper.")
    ] = None,
    remote: Annotated[str | None, typer.Option(help="Where DVC pushes landed data: a folder, or s3://... .")] = None,
    prefect_port: Annotated[int | None, typer.Option(help="The embedded Prefect server's port.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="The embedded MLflow server's port.")] = None,
) -> None:
    """Make a workspace: a folder with its own git and DVC repository and params.yaml.

    Example: `lorax init detector --remote /mnt/backup/detector`
    """
    place = remote if remote is None or "://" in remote else str(Path(remote).resolve())
    ports = {"prefect_port": prefect_port, "mlflow_port": mlflow_port}
    values = {"services": {name: port for name, port in ports.items() if port is not None}}
    workspace = initialize(directory, preset=preset, remote=place, values=values)
    out.print(f"workspace ready: {workspace.root}\nNext: cd there, then 'lorax land PATH --task NAME'.", markup=False)


def initialize(
    root: Path,
    *,
    preset: str | None = None,
    remote: str | None = None,
    values: Mapping[str, Mapping[str, Any]] | None = None,
) -> Workspace:
    """Make `root` a workspace; in one that is there already, only what is missing is made.

    Args:
        root: the folder; it may hold other things.
        preset: a preset whose values params.yaml begins with.
        remote: where DVC is to push landed data: a folder or an address that DVC knows.
        values: section -> key -> value that params.yaml begins with in place of the usual one.

    Raises:
        ParamsError: unknown preset, or a value that can't be one.
        DataVersionError: git or DVC refused.
    """
    from lorax.data import repository
    from lorax.params import load_params
    from lorax.storage import write_whole

    texts = {name: (files("lorax") / "templates" / source).read_text() for name, source in _FILES.items()}
    texts["params.yaml"] = with_values(_with_preset(texts["params.yaml"], preset), values or {})
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
        text: the file's content.
        changes: section -> key -> new value.
    """
    import yaml
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    round_trip, written = YAML(), io.StringIO()
    round_trip.preserve_quotes, round_trip.width = True, _LONGEST
    round_trip.Representer = _representer()
    tree = round_trip.load(text) or CommentedMap()
    for section, values in changes.items():
        tree[section] = tree.get(section) or CommentedMap()
        for key, value in values.items():
            node = round_trip.load(yaml.safe_dump(value, default_flow_style=True, width=_LONGEST))  # in YAML 1.1
            if key in tree[section]:
                tree[section][key] = node
            else:
                tree[section].insert(0, key, node)
    round_trip.dump(tree, written)
    return written.getvalue()


def _representer() -> type:
    """What writes None as it stands in the template."""
    from ruamel.yaml.representer import RoundTripRepresenter

    class WithNull(RoundTripRepresenter):
        def represent_none(self, data: Any) -> Any:
            return self.represent_scalar("tag:yaml.org,2002:null", "null")

    WithNull.add_representer(type(None), WithNull.represent_none)
    return WithNull


def _with_preset(text: str, preset: str | None) -> str:
    import yaml

    if preset is None:
        return text
    presets = yaml.safe_load(text)["presets"]
    if preset not in presets:
        raise ParamsError(f"there is no preset {preset!r}; expected {' or '.join(sorted(presets))}.")
    return with_values(text, presets[preset])
