"""A drop folder: DIR/<task>/ lands once DIR/<task>/_READY is there, and is removed when it has landed.

What is refused stays where it is, with DIR/<task>.report.json beside it, and is tried again when something in it has
changed (touching _READY is enough). Everything else that fails, such as a push, is tried again after a while.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lorax.data.contract import OnReport, Report
from lorax.data.layout import READY
from lorax.errors import ContractError, ImageError, LayoutError, LoraxError, StorageError
from lorax.storage import write_whole
from lorax.stream import PinnedTask

Land = Callable[[Path, str, OnReport], PinnedTask]
"""Called as land(folder, task, on_report); raises like `lorax.data.landing.land`."""

POLL_S = 2.0
RETRY_S = 60.0

_REFUSALS = (ContractError, LayoutError, ImageError)
_CONSUMED = ".landed-"


@dataclass(frozen=True)
class Outcome:
    """What came of one data set: `landed`, or an `error` ('' if none), refused or to be tried again."""

    task: str
    landed: PinnedTask | None
    report: Report | None
    error: str = ""
    is_refused: bool = False


@dataclass
class DropFolder:
    """A drop folder and what was tried of it; `look` lands what is complete.

    Args:
        root: the folder; made if it is not there.
        land: how to land one data set.
    """

    root: Path
    land: Land
    _retry_at: dict[str, float] = field(default_factory=dict)

    def watch(self) -> Iterator[Outcome]:
        """Land what is complete, and wait for more, for ever.

        Raises:
            StorageError: the folder can't be read or written from the start; later on that is told, and tried again.
        """
        yield from self.look()
        said = ""
        while True:
            time.sleep(POLL_S)
            try:
                yield from self.look()
                said = ""
            except StorageError as error:  # a disk that is away for a while: it may come back
                if str(error) != said:
                    yield Outcome(self.root.name, None, None, str(error))
                said = str(error)

    def look(self) -> Iterator[Outcome]:
        """Land what is complete now, in the order in which it became so.

        Raises:
            StorageError: the folder can't be read or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for leftover in self.root.glob(f"{_CONSUMED}*"):
                _remove(leftover)
            for folder in _complete(self.root):
                if self._is_due(folder):
                    yield self._try(folder)
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"the drop folder {self.root} can't be used: {error}.") from error

    def _is_due(self, folder: Path) -> bool:
        if time.monotonic() < self._retry_at.get(folder.name, 0.0):
            return False
        try:
            return bool(json.loads(_report_path(folder).read_bytes())["snapshot"] != snapshot(folder))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # no report, or none of ours
            return True

    def _try(self, folder: Path) -> Outcome:
        reports: list[Report] = []
        before = snapshot(folder)
        try:
            landed = self.land(folder, folder.name, reports.append)
        except _REFUSALS as error:
            report = reports[-1] if reports else None
            if folder.exists():
                record = {"snapshot": before, "error": str(error), "report": report.record() if report else None}
                write_whole(_report_path(folder), json.dumps(record, indent=2) + "\n")
            return Outcome(folder.name, None, report, str(error), is_refused=True)
        except LoraxError as error:
            self._retry_at[folder.name] = time.monotonic() + RETRY_S
            return Outcome(folder.name, None, reports[-1] if reports else None, str(error))
        if folder.exists() and snapshot(folder) == before:  # else something was added meanwhile: look again
            _consume(folder)
        return Outcome(folder.name, landed, reports[-1] if reports else None)


def snapshot(folder: Path) -> str:
    """A digest of what lies below `folder`: paths, sizes and times of change; no file is read."""
    entries = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with suppress(FileNotFoundError):  # removed meanwhile
                facts = path.lstat()
                entries.append((path.relative_to(folder).as_posix(), facts.st_size, facts.st_mtime_ns))
    return hashlib.sha256(json.dumps(sorted(entries)).encode(errors="surrogateescape")).hexdigest()


def _complete(root: Path) -> list[Path]:
    found = []
    for path in root.iterdir():
        with suppress(FileNotFoundError, NotADirectoryError):  # not complete, or removed meanwhile
            if not path.name.startswith("."):
                found.append(((path / READY).stat().st_mtime_ns, path.name, path))
    return [path for _, _, path in sorted(found)]


def _report_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.report.json")


def _consume(folder: Path) -> None:
    """Take a landed data set out of the drop folder; a removal that is cut short goes on at the next look."""
    _report_path(folder).unlink(missing_ok=True)
    consumed = folder.with_name(f"{_CONSUMED}{folder.name}")
    with suppress(FileNotFoundError):  # removed meanwhile
        folder.rename(consumed)
        _remove(consumed)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
