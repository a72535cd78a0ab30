"""Real photographs that no task brought: a folder of the workspace that DVC tracks beside data/.

`dvc add photographs` makes photographs.dvc, which is committed as any file is; params.yaml names the folder. Nothing of
it is ever learned from.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorax.data import layout, pins, versions
from lorax.data.pins import Pins
from lorax.errors import DataVersionError
from lorax.params import RealsParams
from lorax.stream import Sample
from lorax.workspace import Workspace


@dataclass(frozen=True)
class Reals:
    """The photographs of a folder at a commit: samples of no task, each once; `digest` is DVC's of all of them."""

    folder: str
    digest: str
    samples: tuple[Sample, ...]


def read_reals(workspace: Workspace, asked: RealsParams) -> Reals | None:
    """The photographs that params.yaml names; None where it names none. No image is read.

    Raises:
        DataVersionError: the folder is not pinned, holds no image, or its list of files can't be had.
    """
    found = pinned(workspace, asked)
    if found is None:
        return None
    files = {md5: path for path, md5 in versions.manifest(workspace, found).items() if layout.is_image(path)}
    if not files:
        raise DataVersionError(
            f"{found.place} pins no image: expected real photographs. Add some, or make reals.path null."
        )
    samples = (Sample(f"{asked.path}/{path}", md5, "", 0) for md5, path in sorted(files.items()))
    return Reals(str(asked.path), found.digest, tuple(samples))


def pinned(workspace: Workspace, asked: RealsParams) -> Pins | None:
    """What pins the folder that params.yaml names; None where it names none. Imports no DVC.

    Raises:
        DataVersionError: nothing that is committed does.
    """
    if asked.path is None:
        return None
    found = pins.committed(workspace, folder=asked.path)
    if not found.digest:
        raise DataVersionError(
            f"reals.path names {asked.path!r}, but git's HEAD in {workspace.root} has no {asked.path}.dvc. "
            f"'dvc add {asked.path}', commit {asked.path}.dvc, and 'dvc push' where there is a remote; or make "
            "reals.path null."
        )
    return found
