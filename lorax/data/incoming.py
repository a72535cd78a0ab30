"""A data set that wants to land: its files where they would lie below data/<task>, each read and decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorax.data import versions
from lorax.data.examine import Examined, examine_all
from lorax.data.images import Progress
from lorax.data.layout import find_files, parse_task, split_by_content, well_placed
from lorax.errors import LayoutError
from lorax.workspace import Workspace


@dataclass(frozen=True)
class Incoming:
    """What was read: for each path below data/<task>, the file's source and what was seen in it.

    `complaints` say what is wrong with the layout; the files that it concerns are left out. `extends` names the task
    of which these are more images; '' for none.
    """

    task: str
    digest: str
    sources: Mapping[str, Path] = field(repr=False)
    files: Mapping[str, Examined] = field(repr=False)
    complaints: tuple[str, ...]
    extends: str = ""

    @property
    def md5s(self) -> dict[str, str]:
        return {path: file.md5 for path, file in self.files.items()}

    @property
    def size(self) -> str:
        """How many images of either split, for people."""
        train = sum(path.startswith("train/") for path in self.files)
        return f"{train} train and {len(self.files) - train} val images"


def checked_source(workspace: Workspace, source: Path) -> Path:
    """The resolved folder.

    Raises:
        LayoutError: it is no folder, or overlaps with the workspace's data/.
    """
    if not source.is_dir():
        raise LayoutError(f"{source} is not a folder; expected one task's folder, holding train/ and val/.")
    folder, data = source.resolve(), workspace.data_dir.resolve()
    if folder.is_relative_to(data) or data.is_relative_to(folder):
        raise LayoutError(
            f"{source} overlaps with the workspace's own {data}; only landing writes there. "
            "Land from a folder outside the workspace's data/."
        )
    return folder


def read_incoming(folder: Path, task: str, split: float | None, progress: Progress | None = None) -> Incoming:
    """Read a task's folder; what is wrong with it is told, not raised.

    Args:
        folder: one task's folder in CDDB's layout.
        task: the name that it would land under.
        split: for data without val/: the share of images, by content, that goes to train/.
        progress: told after each image.
    """
    found, complaint = find_files(folder)
    # a split is by content, so it takes reading; else what is misplaced, as all is in a wrong folder, is not read
    paths = found if split is not None else well_placed(found)
    examined = examine_all({path: folder / path for path in paths}, progress)
    try:
        places = _places(found, examined, split)
        complaints = _complaints(task, complaint, places.values())
    except LayoutError as error:
        places, complaints = {}, [complaint, str(error)]
    good = set(well_placed(places.values()))
    kept = {place: path for path, place in places.items() if place in good}
    files = {place: examined[path] for place, path in kept.items()}
    digest = versions.task_digest({place: file.md5 for place, file in files.items()})
    sources = {place: folder / path for place, path in kept.items()}
    return Incoming(task, digest, sources, files, tuple(text for text in complaints if text))


def _places(found: Sequence[str], examined: Mapping[str, Examined], split: float | None) -> dict[str, str]:
    """Path in the source -> path below data/<task>."""
    if split is None:
        return {path: path for path in found}
    return split_by_content({path: file.md5 or "0" for path, file in examined.items()}, split)


def _complaints(task: str, complaint: str, places: Iterable[str]) -> list[str]:
    try:
        parse_task(task, "", dict.fromkeys(places, ""))
    except LayoutError as error:
        return [complaint, str(error)]
    return [complaint]
