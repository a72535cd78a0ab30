"""A data set that wants to land: its tasks, each file where it would lie below data/<task>, read and decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lorax.data import memory, versions
from lorax.data.examine import Examined, examine_all
from lorax.data.images import Progress, in_threads
from lorax.data.layout import is_image, parse_task, well_placed
from lorax.data.layouts.apart import Apart
from lorax.data.layouts.arrangement import Arranged, Plan, arranged, as_is, named
from lorax.data.layouts.items import Found, Item, Reading
from lorax.data.layouts.recognition import read_source
from lorax.data.layouts.words import own_name
from lorax.errors import LayoutError
from lorax.workspace import Workspace

_JPEG = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Incoming:
    """A task that was read: for each path below data/<task>, the file's source and what was seen in it.

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


def size(incoming: Iterable[Incoming]) -> str:
    """How many images of either split, for people."""
    splits = [path.partition("/")[0] for one in incoming for path in one.files]
    return f"{splits.count('train')} train and {splits.count('val')} val images"


def checked_source(workspace: Workspace, source: Path) -> Path:
    """The resolved folder or file.

    Raises:
        LayoutError: it is neither, or overlaps with the workspace's data/.
    """
    if not source.is_dir() and not source.is_file():
        raise LayoutError(f"{source} is not a folder, and no file either; expected a data set (docs/how-to/land.md).")
    path = source.resolve() if source.is_dir() else source.parent.resolve() / source.name  # a link's name tells more
    data = workspace.data_dir.resolve()
    if path.is_relative_to(data) or data.is_relative_to(path):
        raise LayoutError(
            f"{source} overlaps with the workspace's own {data}; only landing writes there. "
            "Land from a folder outside the workspace's data/."
        )
    return path


def read_incoming(
    source: Path, task: str, reading: Reading, scratch: Path, progress: Progress | None = None
) -> tuple[Plan, list[Incoming]]:
    """Read a data set; what is wrong with its files is told, not raised.

    Args:
        source: a folder or file in one of the known layouts.
        task: the name of its only task; '' takes the generators' names.
        reading: what the source does not say itself.
        scratch: an empty folder, where images that are no files yet become some.
        progress: told after each image.

    Raises:
        LayoutError: it can't be told what is what, or something is damaged.
    """
    apart = Apart(scratch, None if reading.limit is None else ())
    found = read_source(source, task, reading, apart, progress)
    names = {} if found.as_is is not None else named(found, task, source, reading)
    wanted = _wanted(found, names, reading)
    lay_out = partial(_laid_out, found, task or own_name(source), names, reading)
    if reading.limit is None and reading.recode is None:  # everything is read once
        examined = _examined(wanted, progress)
        plan = lay_out({path: seen.md5 for path, seen in examined.items()})
    else:  # what is drawn or encoded anew is so by what the source holds, which takes reading that first
        plan = lay_out(apart.md5s | _md5s([path for path in wanted.values() if path not in apart.md5s], progress))
        if apart.md5s:
            drawn = {item.path for one in plan.tasks for item in one.files.values()}
            read_source(source, task, reading, Apart(scratch, drawn), progress)
        if reading.recode is not None:
            plan = _recoded(plan, reading.recode, apart, progress)
        chosen = [one.files[place] for one in plan.tasks for place in well_placed(one.files)]
        examined = _examined({item.shown: item.path for item in chosen}, progress)
    complaints = [found.complaints, *[()] * len(plan.tasks)]  # of the source: told with its first task
    return plan, [_incoming(one, examined, said) for one, said in zip(plan.tasks, complaints, strict=False)]


def _wanted(found: Found, names: Mapping[str, str], reading: Reading) -> dict[str, Path]:
    """The files that are to be read, by what messages call them."""
    if found.as_is is None:
        return {item.shown: item.path for item in found.items if item.is_real or item.generator in names}
    # a split is by content, so it takes reading; else what is misplaced, as all is in a wrong folder, is not read
    paths = found.as_is if reading.split is not None else well_placed(found.as_is)
    return {path: found.as_is[path] for path in paths}


def _laid_out(found: Found, task: str, names: Mapping[str, str], reading: Reading, md5s: Mapping[Path, str]) -> Plan:
    if found.as_is is None:
        return arranged(found, names, reading, md5s)
    try:
        return as_is(found, task, reading, md5s)
    except LayoutError as error:
        return Plan(found.taken_for, found.told, (Arranged(task, task, {}, complaint=str(error)),))


def _examined(paths: Mapping[str, Path], progress: Progress | None) -> dict[Path, Examined]:
    return {paths[name]: seen for name, seen in examine_all(paths, progress).items()}


def _recoded(plan: Plan, quality: int, apart: Apart, progress: Progress | None) -> Plan:
    """With every image encoded anew."""
    paths = [item.path for one in plan.tasks for place, item in one.files.items() if is_image(place)]
    made = apart.recoded(paths, quality, progress)
    return replace(plan, tasks=tuple(_with_encoded(one, made) for one in plan.tasks))


def _with_encoded(one: Arranged, made: Mapping[Path, Path]) -> Arranged:
    files: dict[str, Item] = {}
    for place, item in one.files.items():
        path = made.get(item.path)
        is_called_so = path is None or place.lower().endswith(_JPEG)
        files[place if is_called_so else f"{place}.jpg"] = replace(item, path=path or item.path)
    said = "two images would have one name once they are encoded anew, as a.png and a.png.jpg would. Rename one."
    return replace(one, files=files, complaint=one.complaint or (said if len(files) < len(one.files) else ""))


def _md5s(paths: Sequence[Path], progress: Progress | None) -> dict[Path, str]:
    return dict(zip(paths, in_threads(_md5, paths, progress, "reading"), strict=True))


def _md5(path: Path) -> str:
    try:
        return memory.md5_of(path)
    except OSError:  # told by who decodes it
        return ""


def _incoming(one: Arranged, examined: Mapping[Path, Examined], complaints: Iterable[str]) -> Incoming:
    try:
        parse_task(one.name, "", dict.fromkeys(one.files, ""))
        wrong = ""
    except LayoutError as error:
        wrong = "" if one.complaint and not one.files else str(error)
    good = set(well_placed(one.files))
    sources = {place: item.path for place, item in one.files.items() if place in good}
    files = {place: examined[path] for place, path in sources.items()}
    digest = versions.task_digest({place: file.md5 for place, file in files.items()})
    said = tuple(text for text in (*complaints, one.complaint, wrong) if text)
    return Incoming(one.name, digest, sources, files, said)
