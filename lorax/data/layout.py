"""CDDB's folders read as samples: `<task>/{train,val}/[<subject>/]{0_real,1_fake}/*`.

A class folder is `<index>_<name>`: `0_real` is the real class, `1_fake` the generator that the task is named after, and
`1_<name>`, `2_<name>`, ... are generators of their own. `val` is the test split, as in CDDB. Subject folders are found
by looking, in each split for itself.

Source: Li et al., A Continual Deepfake Detection Benchmark, WACV 2023 (arXiv 2205.05467).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from PIL import Image

from lorax.data.images import FORMATS
from lorax.errors import LayoutError
from lorax.stream import Sample, Task, TaskClass, check_task_name
from lorax.text import some

SPLITS = ("train", "val")

_CLASS_FOLDER = re.compile(r"(\d+)_([a-z0-9][a-z0-9_-]*)")
READY = "_READY"
"""The file that says, in a drop folder, that a data set is complete; never part of the data."""

_NOT_DATA = {"thumbs.db", "desktop.ini", "__macosx", READY.lower()}
SHOWN = 20  # paths named in one complaint; a whole misplaced data set would fill the screen


def parse_task(name: str, digest: str, files: Mapping[str, str]) -> Task:
    """Read the list of one task's files as samples; the one parser, for landing and for learning.

    Args:
        name: the task's name, which is also its folder's under data/.
        digest: the task's digest, kept as it is.
        files: path relative to data/<name> (POSIX) -> md5 of the file's bytes; hidden files are passed over.

    Returns:
        The task: classes by folder number, samples of both splits sorted by path.

    Raises:
        LayoutError: the name is unsafe, or the files are not a task; lists everything found wrong.
    """
    check_task_name(name)
    complaints: dict[str, list[str]] = defaultdict(list)
    good: list[str] = []
    for path in sorted(p for p in files if not _is_hidden(p)):
        complaint = _complaint(path)
        if complaint:
            complaints[complaint].append(path)
        else:
            good.append(path)
    classes = sorted({_task_class(class_folder(path), name) for path in good})
    problems = [f"{text}: {some(paths, SHOWN)}" for text, paths in complaints.items()] + _class_problems(name, good)
    if problems:
        raise LayoutError(_message(name, files, problems))
    samples = {
        split: tuple(_sample(name, path, files[path]) for path in good if path.startswith(f"{split}/"))
        for split in SPLITS
    }
    return Task(name=name, digest=digest, classes=tuple(classes), train=samples["train"], test=samples["val"])


def list_files(folder: Path) -> list[str]:
    """The paths of all files below `folder` (relative, POSIX, sorted), but for hidden ones such as .DS_Store.

    Raises:
        LayoutError: `folder` is not a folder, or something in it can't land safely: a symbolic link that is broken,
            leaves the folder or leads back up, a pipe or device, a name that is not valid UTF-8; lists all of them.
    """
    found, complaint = find_files(folder)
    if complaint:
        raise LayoutError(complaint)
    return found


def find_files(folder: Path) -> tuple[list[str], str]:
    """As `list_files`, but what can't land safely is left out and told of in the second value, '' if there is none.

    Raises:
        LayoutError: `folder` is not a folder.
    """
    if not folder.is_dir():
        raise LayoutError(f"{folder} is not a folder; expected one task's folder, holding train/ and val/.")
    root = folder.resolve()
    problems: list[str] = []
    found = sorted(_walk(root, root, (root,), problems))
    listed = "\n  - ".join(sorted(problems))
    complaint = (
        f"{folder} can't be landed:\n  - {listed}\n"
        "Replace such entries by ordinary files (for links: 'cp -rL' copies what they lead to) and try again."
    )
    return found, complaint if problems else ""


def is_within(path: Path, root: Path) -> bool:
    """Whether a resolved path lies in a data set's resolved folder, or where the Hub's cache keeps that folder's files.

    The cache of huggingface_hub has links in `<set>/snapshots/<revision>/`, to files of `<set>/blobs/`.
    """
    if path.is_relative_to(root):
        return True
    above = (folder.parent.parent for folder in (root, *root.parents) if folder.parent.name == "snapshots")
    return any(path.parent == folder / "blobs" for folder in above)


def well_placed(paths: Iterable[str]) -> list[str]:
    """Those of `paths` (relative to data/<task>) that lie where an image of a class may lie."""
    return [path for path in paths if not _is_hidden(path) and not _complaint(path)]


def is_image(path: str) -> bool:
    """Whether a file is one by its extension, and not hidden."""
    return not _is_hidden(path) and _suffix(path) in _image_suffixes()


def class_folder(path: str) -> str:
    """The class folder that holds an image: the last folder of its path."""
    return path.split("/")[-2]


def class_index(path: str) -> int:
    """The number of the class that an image of a task belongs to; 0 is real."""
    return int(class_folder(path).partition("_")[0])


def class_name(folder: str, task: str) -> str:
    """What the class of a class folder of a task is called: `1_fake` is named after the task."""
    return _task_class(folder, task).name


def split_by_content(files: Mapping[str, str], fraction: float) -> dict[str, str]:
    """Where each file belongs when data without a val/ folder is split by content.

    An image goes to train/ if its md5, read as a number in [0, 1), lies below `fraction`: the same image lands on the
    same side on every machine, whatever its name and neighbours.

    Args:
        files: path (`[train/][<subject>/]<class>/<image>`) -> md5.
        fraction: the share of images for training, as in `--split 0.8`.

    Returns:
        path as given -> path with train/ or val/ in front.

    Raises:
        LayoutError: `fraction` is not between 0 and 1, or there is a val/ folder already.
    """
    if not 0 < fraction < 1:
        raise LayoutError(f"--split {fraction} is not usable: expected a share between 0 and 1, such as 0.8.")
    heads = {path.partition("/")[0] for path in files}
    if "val" in heads:
        raise LayoutError("--split was given, but the data set has a val/ folder already. Leave --split out.")
    if "train" in heads:  # what lies beside train/ stays where it is, for parse_task to complain about
        inner = {path: path.removeprefix("train/") for path in files if path.startswith("train/")}
    else:
        inner = {path: path for path in files}
    moved = {path: f"{side_of(files[path], fraction)}/{rest}" for path, rest in inner.items()}
    return {path: moved.get(path, path) for path in files}


def side_of(md5: str, fraction: float) -> str:
    """Which split an image belongs to by its content."""
    return "train" if int(md5, 16) < fraction * 16**32 else "val"


def _walk(folder: Path, root: Path, above: tuple[Path, ...], problems: list[str]) -> Iterator[str]:
    """Files below `folder`, whose real path is the last of `above`; what must not land goes to `problems`."""
    start = len(str(root / "x")) - 1
    for entry in os.scandir(folder):
        shown = entry.path[start:]
        if _is_hidden(shown):
            continue
        problem = _entry_problem(entry, shown, root, above)
        if problem:
            problems.append(problem)
        elif entry.is_dir():
            path = Path(entry.path)
            yield from _walk(path, root, (*above, path.resolve()), problems)
        else:
            yield shown


def _entry_problem(entry: os.DirEntry[str], shown: str, root: Path, above: tuple[Path, ...]) -> str:
    """What forbids landing `entry`; '' if nothing does."""
    if not shown.isprintable():  # also true of the stand-ins for bytes that are not UTF-8
        return f"{shown!r}: its name holds characters that can't be printed, or is not UTF-8"
    if entry.is_symlink():
        target = Path(entry.path).resolve()
        if not target.exists():
            return f"{shown}: a broken symbolic link"
        if not is_within(target, root):
            return f"{shown}: a symbolic link out of the folder, to {target}"
        if target in above:
            return f"{shown}: a symbolic link back up to {target}"
    if not entry.is_dir() and not entry.is_file():
        return f"{shown}: neither a file nor a folder"
    return ""


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part.lower() in _NOT_DATA for part in path.split("/"))


def _complaint(path: str) -> str:
    """What is wrong with where a file lies or what it is; '' if nothing is."""
    *folders, file_name = path.split("/")
    if len(folders) < 2 or folders[0] not in SPLITS:
        return "expected only folders train/ and val/ at the top, with class folders in them"
    if len(folders) > 2 and _CLASS_FOLDER.fullmatch(folders[1]):
        return f"a folder inside class folder {folders[1]}; expected images only"
    if len(folders) > 3:
        return "too deep; expected {train,val}/[<subject>/]<class>/<image>"
    if not _CLASS_FOLDER.fullmatch(folders[-1]):
        return f"class folder {folders[-1]!r} is not named <number>_<name>, such as 0_real, 1_fake or 2_stylegan"
    if _suffix(file_name) not in _image_suffixes():
        return "not an image by its extension"
    return ""


def _suffix(path: str) -> str:
    """As pathlib has it, in lower case; a Path for each of 100,000 files would take as long as copying them."""
    stem, dot, ending = path.rpartition("/")[2].rpartition(".")
    return f"{dot}{ending}".lower() if stem else ""


@cache
def _image_suffixes() -> frozenset[str]:
    """Of the formats that are decoded; a JPEG with a second image behind it is called MPO."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in (*FORMATS, "MPO"))


def _class_problems(task: str, paths: Iterable[str]) -> list[str]:
    """What is wrong with the class folders, taken together."""
    seen: dict[str, set[str]] = defaultdict(set)  # class folder -> the folders that hold it
    for path in paths:
        seen[class_folder(path)].add(path.rpartition("/")[0])
    classes = {folder: _task_class(folder, task) for folder in sorted(seen)}
    problems = [text for folder in classes if (text := _name_problem(folder))]
    for what, key in (("number", lambda c: c.index), ("name", lambda c: c.name)):
        alike: dict[object, list[str]] = defaultdict(list)
        for folder, task_class in classes.items():
            alike[key(task_class)].append(folder)
        for value, folders in alike.items():
            if len(folders) > 1:
                where = "; ".join(f"{folder} in {some(sorted(seen[folder]), SHOWN)}" for folder in folders)
                problems.append(f"class {what} {value!r} belongs to several class folders: {where}")
    for folder in classes:
        splits = {place.partition("/")[0] for place in seen[folder]}
        problems += [f"class {folder} has no image in {split}/" for split in SPLITS if split not in splits]
    if not any(c.index for c in classes.values()):
        problems.append("no synthetic class was found; expected images in class folder 1_fake (or 1_<generator>)")
    return problems


def _name_problem(folder: str) -> str:
    number, _, name = folder.partition("_")
    if number != str(int(number)):
        return f"class folder {folder} has leading zeros in its number"
    if (int(number) == 0) != (name == "real"):
        return f"class folder {folder}: number 0 and the name 'real' go together, as in 0_real"
    return ""


def _task_class(folder: str, task: str) -> TaskClass:
    number, _, name = folder.partition("_")
    if int(number) == 0:
        return TaskClass(0, "real")
    return TaskClass(int(number), task if name == "fake" else name)


def _sample(task: str, path: str, md5: str) -> Sample:
    return Sample(f"{task}/{path}", md5, task, class_index(path))


def _message(name: str, files: Iterable[str], problems: list[str]) -> str:
    heads = {tuple(path.split("/")[:2]) for path in files}
    hint = "Mend the folder and try again."
    if any(len(head) > 1 and head[1] in SPLITS for head in heads):
        hint = "It seems to hold several tasks: give one task's folder at a time."
    elif "val" not in {head[0] for head in heads} or all(problem.endswith("no image in val/") for problem in problems):
        hint = "Mend the folder and try again; --split 0.8 makes val/ from data that has none."
    listed = "\n  - ".join(problems)
    return (
        f"task {name!r} is not laid out as {name}/{{train,val}}/[<subject>/]{{0_real,1_fake}}/<images>:"
        f"\n  - {listed}\n{hint}"
    )
