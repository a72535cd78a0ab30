"""What an episode is, what it measured, where its steps keep their work, and what training and herding leave there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from torch import Tensor

from lorax.errors import StateError
from lorax.learning.metrics import Scores
from lorax.learning.state import Branch, Exemplar
from lorax.learning.state_files import state_digest
from lorax.learning.texture_head import Statistics, parse_statistics, statistics_tensors
from lorax.learning.training import EpochRow
from lorax.network.network import Network
from lorax.params import Params
from lorax.storage import canonical_json, read_record, whole_directory, write_record
from lorax.stream import DataRevision, PinnedTask, Task
from lorax.workspace import Below

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
class Report(Scores):
    """What one episode measured, beside the state it left; times are not part of any digest."""

    episode: int
    task: str
    curves: list[EpochRow]
    seconds: Mapping[str, float]
    trainable_parameters: int
    lora_modules: int
    tested: Mapping[str, str] = field(default_factory=dict)  # each task's data as tested: its digest

    @classmethod
    def read(cls, path: Path) -> Report:
        with damage_told(path):
            return read_record(cls, path)


@dataclass(frozen=True)
class Plan:
    """What an episode is: which task on top of which state, with which parameters, at which data revision."""

    base: str | None  # the state's digest
    task: PinnedTask
    parameters: Mapping[str, Any]  # all sections of params.yaml with the run's preset, so that no step reads them again
    revision: DataRevision
    start: str | None = None  # the base's task whose branch the new one starts from; None: it starts fresh
    base_dir: str | None = None  # where the base state lies
    extends: str | None = None  # the base's task of which this brings more images; None: a generator of its own

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
        write_record(folder.plan_path, plan)
        return folder

    plan_path = Below("plan.json")
    checkpoint_path = Below("training.safetensors")
    trained_dir = Below("trained")
    exemplars_path = Below("exemplars.json")
    report_path = Below("report.json")
    assessment_path = Below("assessment.json")
    state_dir = Below("state")

    @property
    def features_dir(self) -> Path:
        """What frozen branches said of images, kept for all episodes beside this one."""
        return self.root.parent / "features"

    @property
    def is_scored(self) -> bool:
        """Whether the next state is there, and what was measured."""
        return self.state_dir.is_dir() and self.report_path.is_file()

    def plan(self) -> Plan:
        with damage_told(self.plan_path):
            return read_record(Plan, self.plan_path)


@dataclass(frozen=True)
class Herded:
    """An episode's new exemplar memory, as it lies in its folder; and how long herding took."""

    exemplars: tuple[Exemplar, ...]
    seconds: float

    @classmethod
    def read(cls, path: Path) -> Herded:
        """What `write_record` has kept.

        Raises:
            StateError: the file is missing or damaged.
        """
        with damage_told(path):
            return read_record(cls, path)


@dataclass(frozen=True)
class Trained:
    """The newest branch and the head as they were trained."""

    config: Mapping[str, Any]  # the branch's, as PEFT has it
    weights: Mapping[str, Tensor]
    head_weight: Tensor  # (C, K·D)
    head_bias: Tensor  # (C,)
    statistics: Mapping[str, Statistics]  # of each kind of perturbation; none where no head reads the texture
    curves: Sequence[EpochRow]
    seconds: Mapping[str, float]  # what training took, by part
    lora_modules: int  # how many modules carry the branch
    views: NDArray[np.int64]  # (n, 2) the corner of each training image's first view, which herding looks at

    @classmethod
    def of(
        cls,
        network: Network,
        statistics: Mapping[str, Statistics],
        curves: Sequence[EpochRow],
        seconds: Mapping[str, float],
        views: NDArray[np.int64],
    ) -> Trained:
        """The newest branch of a network, and its head."""
        branch, head = network.backbone.branch(network.branches - 1), network.head
        tensors = head.weight.detach().cpu(), head.bias.detach().cpu()
        return cls(branch.config, branch.weights, *tensors, statistics, curves, seconds, len(branch.layers), views)

    @property
    def trainable_parameters(self) -> int:
        """Of the branch."""
        return sum(weight.numel() for weight in self.weights.values())

    def save(self, directory: Path) -> None:
        """Write it whole or not at all."""
        record = {
            "curves": [asdict(row) for row in self.curves],
            "lora_modules": self.lora_modules,
            "trainable_parameters": self.trainable_parameters,
            "seconds": dict(self.seconds),
            "views": self.views.tolist(),
        }
        files = Branch("", self.config, self.weights, seed=0).files()
        files["head.safetensors"] = safetensors.torch.save({"weight": self.head_weight, "bias": self.head_bias})
        if self.statistics:
            files["statistics.safetensors"] = safetensors.torch.save(statistics_tensors(self.statistics))
        with whole_directory(directory) as draft:
            for name, data in files.items():
                (draft / name).write_bytes(data)
            (draft / "training.json").write_text(canonical_json(record))

    @classmethod
    def load(cls, directory: Path, kinds: Sequence[str]) -> Trained:
        """Read it; `kinds` are those of its statistics, () where there are none.

        Raises:
            StateError: a file is missing or damaged.
        """
        head, weights = (_tensors(directory / f"{name}.safetensors") for name in ("head", "adapter_model"))
        with damage_told(directory / "adapter_config.json"):
            config = json.loads((directory / "adapter_config.json").read_text())
        statistics: Mapping[str, Statistics] = {}
        if kinds:
            sums = _tensors(directory / "statistics.safetensors")
            with damage_told(directory / "statistics.safetensors"):
                statistics = parse_statistics(sums, kinds)
        with damage_told(directory / "training.json"):
            record = json.loads((directory / "training.json").read_bytes())
            curves = [EpochRow(**row) for row in record["curves"]]
            views = np.array(record["views"], np.int64).reshape(-1, 2)
            told = (curves, record["seconds"], record["lora_modules"], views)
            return cls(config, weights, head["weight"], head["bias"], statistics, *told)


def _tensors(path: Path) -> dict[str, Tensor]:
    with damage_told(path):
        return dict(safetensors.torch.load_file(path))
