"""Zip archives as data sets are shared in: each is a folder of the tree around it, called like the archive.

Their names are read first, which takes no image, and the lists of files in them; then the images that are wanted become
files, one after the other.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lorax.data.images import Progress
from lorax.data.layout import is_image
from lorax.data.layouts.apart import Apart, check_size
from lorax.data.layouts.words import listed
from lorax.errors import LayoutError

ENDINGS = (".zip",)
_NOT_THE_DATA = "__MACOSX"  # what macOS's archiver puts beside the files, under their names
_NOT_READ = (".parquet", ".arrow", ".tar", *ENDINGS)
_SHOWN = 3


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    archive: Path
    info: zipfile.ZipInfo

    def text(self) -> str:
        """What a list of files says, without the mark that UTF-8 may begin with.

        Raises:
            LayoutError: it can't be read.
            ValueError: it is no text.
        """
        check_size(self.archive, self.info.filename, self.info.file_size)
        with _readable(self.archive), zipfile.ZipFile(self.archive) as opened:
            return opened.read(self.info).decode("utf-8-sig")


def members(root: Path, archives: Mapping[str, Path]) -> tuple[dict[str, Member], list[str]]:
    """The files in archives, and what is to be told of these.

    Args:
        root: the tree.
        archives: the folder that each stands for, "" if it is the tree itself -> archive.

    Returns:
        Path in the tree -> file. `data/train.zip` is the folder `data/train`, also where its images begin with
        `train/`, as they do where a folder was packed whole. One beside which that folder lies is left out.

    Raises:
        LayoutError: an archive is damaged, has a member with an unsafe name or two of one name, or holds what is not
            read in there.
    """
    found: dict[str, Member] = {}
    told = []
    for place, path in archives.items():
        if place and (root / place).is_dir():
            told.append(f"{path.name} stays behind, since {place}/ lies beside it: unpacked, by its name.")
        else:
            found |= _placed(path, place)
    return found, told


def unpacked(wanted: Mapping[str, Member], apart: Apart, progress: Progress | None) -> dict[str, Path]:
    """Images become files: path in the tree -> file.

    Raises:
        LayoutError: one can't be read.
    """
    files: dict[str, Path] = {}
    for archive in dict.fromkeys(member.archive for member in wanted.values()):
        with _readable(archive), zipfile.ZipFile(archive) as opened:
            for name, member in wanted.items():
                if member.archive == archive:
                    files[name], _ = apart.file(opened.read(member.info), "", name)
                    if progress is not None:
                        progress(len(files), len(wanted), "unpacking")
    return files


def _placed(path: Path, place: str) -> dict[str, Member]:
    """Path in the tree -> file of an archive."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir() and not _is_beside(info.filename)]
    if held := [info.filename for info in infos if info.filename.lower().endswith(_NOT_READ)]:
        raise LayoutError(f"{path} holds {listed(held, _SHOWN)}, which is not read in there: unpack it first.")
    found: dict[str, Member] = {}
    for info in infos:
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or not info.filename.isprintable():
            raise LayoutError(f"{path} has a member called {info.filename!r}, which leads out of it; it is not read.")
        if is_image(name.name):
            check_size(path, name.as_posix(), info.file_size)
        if name.as_posix() in found:
            raise LayoutError(f"{path} has two members called {name}. Rename one.")
        found[name.as_posix()] = Member(path, info)
    top = f"{path.stem}/"
    is_packed_whole = all(name.startswith(top) for name in found if is_image(name))
    return {
        "/".join(filter(None, (place, name.removeprefix(top) if is_packed_whole and place else name))): member
        for name, member in found.items()
    }


def _is_beside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part == _NOT_THE_DATA or (part.startswith(".") and part != "..") for part in parts)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what is raised of a damaged archive, or of one that takes more than zip's usual ways."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise LayoutError(
            f"{path} is damaged, or one part of several: {error}. Fetch it again, or unpack it."
        ) from error
    except (NotImplementedError, RuntimeError) as error:  # of a compression or a password
        raise LayoutError(f"{path} can't be read: {error}. Unpack it first.") from error
