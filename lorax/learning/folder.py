"""What an episode is, what it measured, and where its steps keep their work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors

from lorax.errors import StateError
from lorax.learning.evaluation import Paired
from lorax.learning.state_files import state_digest
from lorax.learning.training import EpochRow
from lorax.params import Params
from lorax.storage import canonical_json, write_whole
from lorax.stream import DataRevision, PinnedTask, Task

_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Turn what the block raises where `path`, of an episode's folder, holds something else into a StateError."""
    try:
        yield
    except (*_DAMAGE, safetensors.SafetensorError, FileNotFoundError) as error:
        raise StateError(
            f"{path} is damaged ({type(error).__name__}: {error}). Remove {path.parent}, and run again: the "
            "work that it kept is done anew."
        ) from error


@dataclass(frozen=True)
class Report:
    """What one episode measured, beside the state it left; times are not part of any digest.

    `against_base` compares with the base state's own answers on the same test images, for every task whose classes it
    knew, which an extension's are;
    `detection_against_base` does of real or synthetic alone, as `binary_accuracy`.
    `tested` has the digest of each task's data as it was tested on, which may have been replaced since it was learned.
    """

    episode: int
    task: str
    accuracy: Mapping[str, float]
    binary_accuracy: Mapping[str, float]
    pooled_accuracy: float
    confusion: list[list[int]]
    curves: list[EpochRow]
    seconds: Mapping[str, float]
    trainable_parameters: int
    lora_modules: int
    against_base: Mapping[str, Paired]
    detection_against_base: Mapping[str, Paired]
    tested: Mapping[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        write_whole(path, canonical_json(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Report:
        with damage_told(path):
            record = json.loads(path.read_bytes())
            record["curves"] = [EpochRow(**row) for row in record["curves"]]
            for pairs in ("against_base", "detection_against_base"):
                record[pairs] = {task: Paired(**counts) for task, counts in record[pairs].items()}
            return cls(**record)


@dataclass(frozen=True)
class Plan:
    """What an episode is: which task on top of which state, with which parameters, at which data revision.

    `parameters` are all sections of params.yaml with the run's preset, so that no step reads them again. `base_dir` is
    where the base state lies. `start` names the base's task whose branch the new branch starts from; None: it starts
    fresh. `extends` names the base's task of which the task brings more images; None: it is a generator of its own.
    """

    base: str | None
    task: PinnedTask
    parameters: Mapping[str, Any]
    revision: DataRevision
    start: str | None = None
    base_dir: str | None = None
    extends: str | None = None

    @classmethod
    def of(
        cls, base_dir: Path | None, task: Task, params: Params, revision: DataRevision, start: str | None = None
    ) -> Plan:
        """The plan to learn `task` on top of the state in a directory, or of none."""
        digest, place = (state_digest(base_dir), str(base_dir)) if base_dir else (None, None)
        learned = PinnedTask(task.name, task.digest)
        return cls(digest, learned, params.model_dump(mode="json"), revision, start, place, task.extends)

    @property
    def params(self) -> Params:
        return Params.model_validate(self.parameters)

    @property
    def key(self) -> str:
        """Equal for equal work: a later data revision that holds the same task is the same episode."""
        content = {"base": self.base, "task": asdict(self.task), "parameters": self.params.learning()}
        content |= {name: text for name, text in (("start", self.start), ("extends", self.extends)) if text}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class EpisodeFolder:
    """The home of one episode's steps on disk, named by the plan's key."""

    root: Path

    @classmethod
    def open(cls, parent: Path, plan: Plan) -> EpisodeFolder:
        """The plan's folder below `parent`; an interrupted episode's keeps the revision it was begun at."""
        folder = cls(parent / plan.key)
        if folder.plan_path.is_file():
            plan = replace(plan, revision=folder.plan().revision)
        write_whole(folder.plan_path, canonical_json(asdict(plan)))
        return folder

    @property
    def plan_path(self) -> Path:
        return self.root / "plan.json"

    @property
    def features_dir(self) -> Path:
        """What frozen branches said of images, kept for all episodes beside this one."""
        return self.root.parent / "features"

    @property
    def checkpoint_path(self) -> Path:
        return self.root / "training.safetensors"

    @property
    def trained_dir(self) -> Path:
        return self.root / "trained"

    @property
    def exemplars_path(self) -> Path:
        return self.root / "exemplars.json"

    @property
    def report_path(self) -> Path:
        return self.root / "report.json"

    @property
    def assessment_path(self) -> Path:
        return self.root / "assessment.json"

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    @property
    def is_scored(self) -> bool:
        """Whether the next state is there, and what was measured."""
        return self.state_dir.is_dir() and self.report_path.is_file()

    def plan(self) -> Plan:
        with damage_told(self.plan_path):
            record = json.loads(self.plan_path.read_bytes())
            task, revision = PinnedTask(**record["task"]), DataRevision(**record["revision"])
            told = (record.get("start"), record.get("base_dir"), record.get("extends"))
            return Plan(record["base"], task, record["parameters"], revision, *told)
