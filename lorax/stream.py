"""The vocabulary: tasks, their samples, and the table of all classes seen so far.

A *task* is what one landing brings: one or more synthetic classes (generators) and at most one real class.
The *stream* is the ordered tasks; a *scenario* is a published stream.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lorax.errors import LayoutError

SCENARIOS: dict[str, tuple[str, ...]] = {
    "easy": ("gaugan", "biggan", "cyclegan", "imle", "deepfake", "crn", "wild"),
    "hard": ("gaugan", "biggan", "wild", "whichfaceisreal", "san"),
    "long": (
        *("gaugan", "biggan", "cyclegan", "imle", "deepfake", "crn", "wild"),
        *("glow", "stargan_gf", "stylegan", "whichfaceisreal", "san"),
    ),
    "real": (
        *("waifu2x", "style26", "realesrgan", "span", "oidn", "rivagan", "ffdnet"),
        *("demosaicnet", "realcugan", "animevideo", "anime4k", "arbitrary", "idealogan"),
    ),
}
"""Published streams by CDDB's folder names, in order; "real" is the project's own, by task names (docs/real.md).

Source: Li et al., WACV 2023 (arXiv 2205.05467), for all others.
"""

_RESERVED = ("all", "real", "synthetic", "undecided", "unknown")
_TASK_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_task_name(name: str) -> str:
    """Return `name` if it is safe as a path, a metric and an artifact key.

    Raises:
        LayoutError: it is not made of 1 to 63 lower-case letters, digits, `_` and `-`, a letter or digit first.
    """
    if not _TASK_NAME.fullmatch(name):
        raise LayoutError(
            f"task name {name!r} is not usable: expected 1 to 63 lower-case letters, digits, '_' or '-', "
            "beginning with a letter or digit. Choose another --task name."
        )
    return name


def check_new_name(name: str) -> str:
    """The same, for a task that is about to land.

    Raises:
        LayoutError: as `check_task_name`, or the name is one that verdicts or figures need.
    """
    if name in _RESERVED:
        raise LayoutError(
            f"a task can't be called {name!r}: this word has a meaning of its own in verdicts and figures, as have "
            f"{', '.join(word for word in _RESERVED if word != name)}. Choose another --task name."
        )
    return check_task_name(name)


@dataclass(frozen=True, order=True)
class TaskClass:
    """One class of a task: `index` is its folder's number (0 = real), `name` the generator's (or "real")."""

    index: int
    name: str

    @property
    def is_real(self) -> bool:
        return self.index == 0


@dataclass(frozen=True)
class Sample:
    """One image: `path` is relative to data/ (POSIX), `md5` the digest of its bytes.

    `task` is the one whose class it is of; `path` starts with the name of the one that brought it.
    """

    path: str
    md5: str
    task: str
    class_index: int


@dataclass(frozen=True)
class Task:
    """What one landing brought, as listed in a data revision; no pixel is read to make one.

    `extends` names the task whose classes its classes are, of which it brings more images; None: they are its own.
    """

    name: str
    digest: str
    classes: tuple[TaskClass, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    extends: str | None = None

    @property
    def branch(self) -> str:
        """The task whose branch learns these images, and whose classes theirs are: itself, or what it extends."""
        return self.extends or self.name

    def as_more_of(self, base: Task) -> Task:
        """This task as more images of another: its classes are that one's, by name, and its samples are of them.

        Raises:
            LayoutError: it has a class that the other has not.
        """
        own = {one.index: _class_in(base, one, self.name) for one in self.classes}

        def moved(samples: Iterable[Sample]) -> tuple[Sample, ...]:
            return tuple(replace(s, task=base.name, class_index=own[s.class_index].index) for s in samples)

        classes = tuple(sorted(set(own.values())))
        return replace(self, classes=classes, train=moved(self.train), test=moved(self.test), extends=base.name)


@dataclass(frozen=True)
class PinnedTask:
    """A task and the digest of its data: as it landed, or as it was learned."""

    name: str
    digest: str


@dataclass(frozen=True)
class DataRevision:
    """A state of data/: `digest` as data.dvc has it ('' if nothing landed), `commit` the last that touched data.dvc."""

    digest: str
    commit: str | None


@dataclass(frozen=True)
class ClassEntry:
    """A row of the class table: the head's output `id` stands for class `index` of `task`."""

    id: int
    task: str
    index: int
    name: str

    @property
    def is_real(self) -> bool:
        return self.index == 0

    @property
    def label(self) -> str:
        """What a person reads: the generator's name, with its task where the two differ."""
        return self.name if self.name == self.task else f"{self.task}/{self.name}"


@dataclass(frozen=True)
class ClassTable:
    """All classes seen so far, in the order of the head's outputs."""

    entries: tuple[ClassEntry, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def with_classes_of(self, task: Task) -> ClassTable:
        """The table with what a task adds to it: nothing, if its classes are another's."""
        return self if task.extends else self.with_task(task.name, task.classes)

    def of_task(self, name: str) -> list[int]:
        """The head's outputs for a task's own classes."""
        return [e.id for e in self.entries if e.task == name]

    def with_task(self, task: str, classes: Sequence[TaskClass]) -> ClassTable:
        """The table with `classes` of `task` appended, by folder number."""
        first = len(self.entries)
        new = (ClassEntry(first + i, task, c.index, c.name) for i, c in enumerate(sorted(classes)))
        return ClassTable(self.entries + tuple(new))

    def ids(self, samples: Iterable[Sample]) -> list[int]:
        """The head's output of each sample's class, in order."""
        by_key = {(e.task, e.index): e.id for e in self.entries}
        return [by_key[s.task, s.class_index] for s in samples]

    @property
    def is_real(self) -> tuple[bool, ...]:
        """For each head output, whether it stands for a real class."""
        return tuple(e.is_real for e in self.entries)

    def multi_real(self) -> list[int]:
        """For each head output, the id that scoring treats it as: all real classes share the first real one's id.

        Source: the multi-real rule of LoRAX (arXiv 2504.08149, evaluation protocol): an image counts as right if its
        true and predicted class are the same synthetic class, or are both real.
        """
        first_real = next((e.id for e in self.entries if e.is_real), -1)
        return [first_real if e.is_real else e.id for e in self.entries]


def _class_in(base: Task, wanted: TaskClass, task: str) -> TaskClass:
    """The class of `base` that a class of task `task`, which extends it, stands for."""
    name = base.name if wanted.name == task else wanted.name  # of a folder 1_fake
    found = next((one for one in base.classes if one.name == name), None)
    if found is None:
        known = ", ".join(f"{one.index}_{one.name}" for one in base.classes)
        raise LayoutError(
            f"class {wanted.index}_{name} is none of task {base.name!r}, which has {known}; an extension brings more "
            "images of the same classes. Name its folder after one of these, leave it out, or land it as a task of "
            "its own, without --extend."
        )
    return found
