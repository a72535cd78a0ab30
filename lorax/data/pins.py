"""data.dvc: what has landed, in which order. Imports no DVC.

It is one small file in git. Its `outs:` entry is DVC's (the md5 of the list of all files below data/), and its `meta:`
block, which DVC keeps, is ours:

    meta:
      stream:
      - task: gaugan
        digest: <sha256 of the task's (path, md5) pairs>
        <what else is kept with the task: the fields of TaskNotes that say something>

What has landed is what is committed (`committed`). The file on disk (`on_disk`) may be that of a landing which is under
way, and which a hook of git's may still refuse; only landing reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from typing import Any

import yaml

from lorax.data import repository
from lorax.errors import DataVersionError
from lorax.storage import write_whole
from lorax.stream import PinnedTask
from lorax.workspace import Workspace

NAME = "data.dvc"

_DIRECTORY_MD5 = re.compile(r"[0-9a-f]{32}\.dir")
_NO_LINE_BREAKS = 2**20


@dataclass(frozen=True)
class TaskNotes:
    """What data.dvc keeps with a task beside its digest; '' where there is nothing to say.

    Args:
        accepted_leak: why its format leak was accepted.
        extends: the task whose classes its classes are, of which it brings more images.
        new_version_of: the task from whose branch its own is to start.
        source, licence: where its images come from, and what may be done with them.
        recoded: as what every image was encoded anew, such as jpeg:90.
    """

    accepted_leak: str = ""
    extends: str = ""
    new_version_of: str = ""
    source: str = ""
    licence: str = ""
    recoded: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> TaskNotes:
        """Those of an entry of the stream."""
        return cls(**{field.name: str(entry[field.name]) for field in fields(cls) if entry.get(field.name)})

    @property
    def origin(self) -> str:
        """Where its images come from, for people; '' if nobody said."""
        told = (("from", self.source), ("licence", self.licence), ("encoded anew as", self.recoded))
        return ", ".join(f"{what} {' '.join(text.split())}" for what, text in told if text)

    @property
    def record(self) -> dict[str, str]:
        """What there is to say, by name."""
        return {name: text for name, text in asdict(self).items() if text}


@dataclass(frozen=True)
class Pins:
    """What a data.dvc says; `content` is {} where there is none, `place` is what messages call it.

    Nobody changes what it holds: who reads the same text gets the same one.
    """

    content: Mapping[str, Any]
    place: str

    @property
    def digest(self) -> str:
        """DVC's md5 of the list of files; '' if nothing landed."""
        return str(self.content["outs"][0]["md5"]) if self.content else ""

    @cached_property
    def stream(self) -> tuple[PinnedTask, ...]:
        """The tasks in landing order; () if nothing landed.

        Raises:
            DataVersionError: it was not written by a landing.
        """
        if not self.content:
            return ()
        try:
            return tuple(_task(entry) for entry in self.content["meta"]["stream"])
        except (KeyError, TypeError, AttributeError) as error:
            raise DataVersionError(
                f"{self.place} names no stream of tasks (expected meta: stream: with task and digest each), "
                "so it was not written by 'lorax land'. Restore it from git, or move data/ and data.dvc away and land "
                "each task's folder."
            ) from error

    @cached_property
    def notes(self) -> Mapping[PinnedTask, TaskNotes]:
        """What is kept with each task."""
        entries = (self.content.get("meta") or {}).get("stream") or ()
        return {_task(entry): TaskNotes.of(entry) for entry in entries}

    def notes_of(self, name: str) -> TaskNotes:
        """What is kept with a task, by its name; nothing if it has not landed."""
        return next((notes for task, notes in self.notes.items() if task.name == name), TaskNotes())

    def text(self, stream: Sequence[PinnedTask], notes: Mapping[PinnedTask, TaskNotes]) -> str:
        """The file's text, with another stream; what is kept with tasks is what is given, and the file's own."""
        kept = {**self.notes, **notes}
        entries = [_entry(task) | kept.get(task, TaskNotes()).record for task in stream]
        meta = {**(self.content.get("meta") or {}), "stream": entries}
        return yaml.safe_dump(
            {**self.content, "meta": meta}, sort_keys=False, allow_unicode=True, width=_NO_LINE_BREAKS
        )


def committed(workspace: Workspace, commit: str = "HEAD", folder: str = "data") -> Pins:
    """What a commit of the workspace's repository has landed, or pins of another folder.

    Raises:
        DataVersionError: the commit's data.dvc is damaged, or git can't read it.
    """
    name = f"{folder}.dvc"
    place = f"{workspace.root / name} in git's {commit[:12]}"
    return read(repository.committed_text(workspace.root, name, commit), place, folder)


def on_disk(workspace: Workspace) -> Pins:
    """What data.dvc says as it lies there, be it committed or not.

    Raises:
        DataVersionError: it is damaged, or can't be read.
    """
    path = workspace.data_dvc_path
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Pins({}, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(str(path), error) from error
    return read(text, str(path))


def read(text: str | None, place: str, folder: str = "data") -> Pins:
    """The text of a data.dvc, or of the file that pins another folder; None is none.

    Raises:
        DataVersionError: it is damaged.
    """
    return Pins({}, place) if text is None else _parsed(text, place, folder)


@lru_cache(maxsize=8)  # each known task is read by itself, and YAML takes milliseconds for each that is in the stream
def _parsed(text: str, place: str, folder: str) -> Pins:
    try:
        content = yaml.safe_load(text)
        [output] = content["outs"]
        name = folder.rpartition("/")[2]
        if output["path"] != name or not _DIRECTORY_MD5.fullmatch(output["md5"]):
            raise ValueError(f"its only output should be {name}, with the md5 of a directory")
        return Pins(dict(content), place)
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise _damaged(place, error, folder) from error


def write_stream(workspace: Workspace, stream: Sequence[PinnedTask], notes: Mapping[PinnedTask, TaskNotes]) -> None:
    """Write the stream into data.dvc's `meta:` block, whole or not at all."""
    write_whole(workspace.data_dvc_path, on_disk(workspace).text(stream, notes))


def _damaged(place: str, error: Exception, folder: str = "data") -> DataVersionError:
    return DataVersionError(
        f"{place} can't be read as DVC's file that pins {folder}/ ({type(error).__name__}: {error}). "
        f"Restore it with 'git checkout -- {folder}.dvc'; after a merge, resolve its conflict first."
    )


def _task(entry: Mapping[str, Any]) -> PinnedTask:
    return PinnedTask(str(entry["task"]), str(entry["digest"]))


def _entry(task: PinnedTask) -> dict[str, str]:
    return {"task": task.name, "digest": task.digest}
