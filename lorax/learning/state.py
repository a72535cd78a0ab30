"""The learner state: all that the next episode needs, as a checksummed directory.

    learner.json                  everything that is not a tensor or a table, and the sha256 of every other file
    branches/00-<task>/           adapter_config.json and adapter_model.safetensors, in PEFT's own format
    head.safetensors              weight (C, K·D) and bias (C,); where the texture counts, too, a head of it for each
                                  of M kinds of perturbation: texture_weight (M, C, F), texture_bias (M, C), and what
                                  tells the kinds: kind_weight (M, F), kind_bias (M,)
    statistics.safetensors        of the textures of all images learned from, for each kind; only where they count
    exemplars.csv                 md5, path, class_id, rank
    calibration.csv               held-out images: md5, path, class_id, rank; may be empty
    calibration.json, .safetensors  what was fitted on them; may be empty

A state's digest is the sha256 of learner.json, so it covers every byte. The backbone is named and hashed, not stored.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from lorax.errors import StateError
from lorax.learning.calibration import Calibration
from lorax.learning.record import (
    RESTORE,
    AdapterRecord,
    CalibrationRecord,
    LearnerRecord,
    parsed,
    parsed_object,
    parsed_rows,
)
from lorax.learning.statistics import Statistics
from lorax.learning.texture_head import TextureWeights, parse_statistics, statistics_tensors
from lorax.network.backbone import BackboneIdentity
from lorax.storage import canonical_json, whole_directory
from lorax.stream import ClassEntry, ClassTable, Sample, check_task_name

FORMAT = 5
"""1 had no calibration; before 3 branches had no common start; before 4 no head read textures, no verdict was a set;
before 5 textures had one head, that of images as they are."""


@dataclass(frozen=True)
class Branch:
    """One generator's LoRA: PEFT's configuration and weights, and what its training started from.

    `seed` is that of the A factors it started from. `start` names the task whose branch it started from instead; None
    where it started fresh, "" where that was before format 3: then the head started otherwise in every episode, so that
    its weights can't be compared with others'.
    """

    task: str
    config: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]
    seed: int
    start: str | None = None

    def files(self) -> dict[str, bytes]:
        """The branch in PEFT's format, the same bytes every time (PEFT's own writer orders a set by hash)."""
        return {
            "adapter_config.json": canonical_json(dict(self.config)).encode(),
            "adapter_model.safetensors": _tensor_file(self.weights),
        }


@dataclass(frozen=True)
class LearnedTask:
    """A task in the state, with the digest of the data it was learned from."""

    name: str
    digest: str


@dataclass(frozen=True)
class Exemplar:
    """A reference to one image of the exemplar memory, or of the calibration memory; `rank` 0 was chosen first."""

    sample: Sample
    class_id: int
    rank: int


@dataclass(frozen=True)
class Revision:
    """Which data revision a state was learned at: data.dvc's root digest and the git commit that pinned it."""

    digest: str
    commit: str | None


@dataclass(frozen=True)
class LearnerState:
    """What was learned so far; immutable.

    `accuracy[j][i]` is the accuracy on task i after episode j. `statistics` are those of each kind of perturbation, of
    which CLEAN is the first; there are none where no head reads the texture.
    """

    backbone: BackboneIdentity
    branches: tuple[Branch, ...] = ()
    classes: ClassTable = field(default_factory=ClassTable)
    head_weight: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    head_bias: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    texture_head: TextureWeights | None = None
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    exemplars: tuple[Exemplar, ...] = ()
    calibration_memory: tuple[Exemplar, ...] = ()
    calibration: Calibration | None = None
    tasks: tuple[LearnedTask, ...] = ()
    accuracy: tuple[tuple[float, ...], ...] = ()
    revision: Revision = field(default_factory=lambda: Revision("", None))
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None

    @property
    def undecided_below(self) -> float:
        """How likely an answer must be to be given."""
        return float(self.parameters.get("calibration", {}).get("undecided_below", 0.5))

    def branch_of(self, task: str) -> Branch:
        """The branch of a task, for another to start from.

        Raises:
            StateError: there is none.
        """
        for branch in self.branches:
            if branch.task == task:
                return branch
        known = ", ".join(branch.task for branch in self.branches) or "none"
        raise StateError(
            f"a branch can't start from that of task {task!r}: the learner state has {known}. Plan it anew."
        )


def save_state(state: LearnerState, directory: Path) -> str:
    """Write `state` whole or not at all, and return its digest. An equal state that is there already is left alone.

    Raises:
        StateError: `directory` holds another state, or something else.
        StorageError: the disk is full; nothing appears under `directory`.
    """
    files = _state_files(state)
    digest = _sha256(files["learner.json"])
    if directory.exists():
        if state_digest(directory) != digest:
            raise StateError(f"{directory} holds another learner state. Choose a new directory, or remove it.")
        return digest
    with whole_directory(directory) as draft:
        for name, data in files.items():
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return digest


def load_state(directory: Path) -> LearnerState:
    """Read a learner state, refusing one that is damaged or of an unknown format.

    Raises:
        StateError: a file is missing or changed, learner.json can't be understood, or its parts don't fit together.
    """
    path, text = directory / "learner.json", _read(directory, "learner.json")
    found = parsed_object(text, path).get("format")
    if type(found) is not int:
        raise StateError(f"{path} is damaged: it names no format. {RESTORE}")
    reader = _READERS.get(found)
    if reader is None:
        raise StateError(
            f"{path} has format {found}; this version of lorax reads {sorted(_READERS)}. Update lorax to read it."
        )
    try:
        return reader(directory, parsed(LearnerRecord, text, path))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"{directory} can't be understood ({type(error).__name__}: {error}). {RESTORE}") from error


def state_digest(directory: Path) -> str:
    """The digest of the state in `directory` (sha256 of learner.json, hex); the other files are not read."""
    return _sha256(_read(directory, "learner.json"))


def _state_files(state: LearnerState) -> dict[str, bytes]:
    """Every file of the state by name, learner.json last: it holds the others' sha256."""
    files = {f"{folder}/{name}": data for folder, b in _folders(state) for name, data in b.files().items()}
    head = {"weight": state.head_weight, "bias": state.head_bias}
    if state.texture_head:
        head |= state.texture_head.tensors()
        files["statistics.safetensors"] = _tensor_file(statistics_tensors(state.statistics))
    files["head.safetensors"] = _tensor_file(head)
    files["exemplars.csv"] = _exemplar_table(state.exemplars)
    files["calibration.csv"] = _exemplar_table(state.calibration_memory)
    fitted = state.calibration
    files["calibration.json"] = canonical_json(fitted.record() if fitted else {}).encode()
    files["calibration.safetensors"] = _tensor_file(fitted.tensors() if fitted else {})
    record = {
        "format": FORMAT,
        "backbone": asdict(state.backbone),
        "branches": [{"task": b.task, "seed": b.seed, "start": b.start, "folder": f} for f, b in _folders(state)],
        "classes": [asdict(e) | {"kind": "real" if e.is_real else "synthetic"} for e in state.classes.entries],
        "tasks": [asdict(t) for t in state.tasks],
        "accuracy": [list(row) for row in state.accuracy],
        "data": asdict(state.revision),
        "parameters": dict(state.parameters),
        "parent": state.parent,
        "kinds": list(state.statistics),
        "files": {name: _sha256(data) for name, data in files.items()},
    }
    return files | {"learner.json": canonical_json(record).encode()}


def _folders(state: LearnerState) -> list[tuple[str, Branch]]:
    return [(f"branches/{k:02d}-{b.task}", b) for k, b in enumerate(state.branches)]


def _read_format_2(directory: Path, record: LearnerRecord) -> LearnerState:
    state, path = _read_format_1(directory, record), directory / "calibration.json"
    text = _read(directory, path.name, record.files)
    tensors = _tensors(_read(directory, "calibration.safetensors", record.files))
    fitted = parsed(CalibrationRecord, text, path) if parsed_object(text, path) else None
    return replace(
        state,
        calibration_memory=_exemplars(directory, "calibration.csv", record, state.classes),
        calibration=_calibration(directory, fitted, tensors, state) if fitted else None,
    )


def _read_format_1(directory: Path, record: LearnerRecord) -> LearnerState:
    classes = ClassTable(tuple(ClassEntry(e.id, e.task, e.index, e.name) for e in record.classes))
    head = _tensors(_read(directory, "head.safetensors", record.files))
    for name in ("calibration.csv", "calibration.json"):
        _read(directory, name, record.files)
    state = LearnerState(
        backbone=BackboneIdentity(**record.backbone.model_dump()),
        branches=tuple(_branch(directory, k, record) for k in range(len(record.branches))),
        classes=classes,
        head_weight=head["weight"],
        head_bias=head["bias"],
        exemplars=_exemplars(directory, "exemplars.csv", record, classes),
        tasks=tuple(LearnedTask(t.name, t.digest) for t in record.tasks),
        accuracy=record.accuracy,
        revision=Revision(record.data.digest, record.data.commit),
        parameters=record.parameters,
        parent=record.parent,
    )
    _check_fit(directory, state)
    return state


def _branch(directory: Path, k: int, record: LearnerRecord) -> Branch:
    entry = record.branches[k]
    folder = f"branches/{k:02d}-{check_task_name(entry.task)}"
    text = _read(directory, f"{folder}/adapter_config.json", record.files)
    path = directory / folder / "adapter_config.json"
    parsed(AdapterRecord, text, path)
    weights = _tensors(_read(directory, f"{folder}/adapter_model.safetensors", record.files))
    return Branch(entry.task, parsed_object(text, path), weights, entry.seed, entry.start)


def _exemplars(directory: Path, name: str, record: LearnerRecord, classes: ClassTable) -> tuple[Exemplar, ...]:
    exemplars = []
    for row in parsed_rows(_read(directory, name, record.files), directory / name):
        entry = classes.entries[row.class_id]
        exemplars.append(Exemplar(Sample(row.path, row.md5, entry.task, entry.index), entry.id, row.rank))
    return tuple(exemplars)


def _calibration(
    directory: Path, fitted: CalibrationRecord, tensors: Mapping[str, torch.Tensor], state: LearnerState
) -> Calibration:
    fits = (
        tensors["bias"].shape == (len(state.classes),)
        and tensors["scores"].ndim == 1
        and len(tensors["scores"]) > 0
        and (_is_distance(tensors) if fitted.distance_base is not None else _is_residual(tensors))
        and _are_relatives(fitted, tensors, state.classes)
    )
    if not fits:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise StateError(f"{directory}: the calibration's tensors {shapes} don't belong together. {RESTORE}")
    return Calibration.parse(fitted.model_dump(), tensors)


def _is_distance(tensors: Mapping[str, torch.Tensor]) -> bool:
    means, axes = tensors["means"], tensors["axes"]
    matrices = means.ndim == axes.ndim == 2 and len(means) > 0
    return matrices and means.shape[1] == axes.shape[1] and tensors["gains"].shape == axes.shape[:1]


def _is_residual(tensors: Mapping[str, torch.Tensor]) -> bool:
    weight, bias = tensors["score_weight"], tensors["score_bias"]
    shapes = [weight.shape[:-1] == bias.shape and bias.numel() > 0 and weight.ndim == 2]
    if "score_answers" in tensors:  # not in the first states of format 4
        answers = tensors["score_answers"].shape
        shapes.append(len(answers) == weight.ndim and answers[:-2] == bias.shape[:-1] and answers[-1] == bias.shape[-1])
    if "score_unit" in tensors:  # there are kinds of perturbation
        kinds = tensors["score_unit"].shape
        scores = (tensors["score_kind_weight"].shape, tensors["score_kind_bias"].shape)
        shapes[0] = weight.ndim == 3 and weight.shape[:-1] == bias.shape and bias.numel() > 0
        shapes.append(bias.shape[:1] == kinds and scores == ((*kinds, weight.shape[-1]), kinds))
    return all(shapes)


def _are_relatives(fitted: CalibrationRecord, tensors: Mapping[str, torch.Tensor], classes: ClassTable) -> bool:
    """Whether the groups of relatives, if there are any, are of synthetic classes, and each has its level."""
    if fitted.relatives is None:
        return True
    synthetic = {entry.id for entry in classes.entries if not entry.is_real}
    return tensors["levels"].shape == (len(classes),) and all(synthetic.issuperset(g) for g in fitted.relatives.groups)


def _read_format_4(directory: Path, record: LearnerRecord) -> LearnerState:
    state, name = _read_format_2(directory, record), "statistics.safetensors"
    if name not in record.files:
        return state
    head = _tensors(_read(directory, "head.safetensors", record.files))
    state = replace(
        state,
        texture_head=TextureWeights.parse(head),
        statistics=parse_statistics(_tensors(_read(directory, name, record.files)), record.kinds),
    )
    _check_textures(directory, state)
    return state


_READERS = {1: _read_format_1, 2: _read_format_2, 3: _read_format_2, 4: _read_format_4, 5: _read_format_4}


def _check_fit(directory: Path, state: LearnerState) -> None:
    """Refuse parts that belong to different states though each file is whole."""
    episodes, classes = len(state.branches), len(state.classes)
    fits = (
        len(state.tasks) == episodes
        and [len(row) for row in state.accuracy] == list(range(1, episodes + 1))
        and state.head_weight.ndim == 2
        and state.head_bias.ndim == 1
        and state.head_weight.shape[0] == state.head_bias.shape[0] == classes
        and [e.id for e in state.classes.entries] == list(range(classes))
        and (episodes == 0 or state.head_weight.shape[1] % episodes == 0)
    )
    if not fits:
        raise StateError(
            f"{directory}: {episodes} branches, {len(state.tasks)} tasks, {classes} classes, an accuracy matrix of "
            f"{len(state.accuracy)} rows and a head of shape {tuple(state.head_weight.shape)} don't belong together. "
            + RESTORE
        )


def _check_textures(directory: Path, state: LearnerState) -> None:
    """Refuse statistics and a head of the texture that belong to different states."""
    assert state.texture_head
    kinds, classes = len(state.statistics), len(state.classes)
    sizes = {tuple(sums.means.shape) for sums in state.statistics.values()}
    width = state.texture_head.weight.shape[-1]
    expected = [(kinds, classes, width), (kinds, classes), (kinds, width), (kinds,)]
    found = [tuple(part.shape) for part in state.texture_head.tensors().values()]
    if found != expected or sizes != {(classes, width)}:
        raise StateError(
            f"{directory}: statistics of {sorted(sizes)} numbers for {kinds} kinds, {classes} classes and a head of "
            f"the texture of {found} don't belong together. {RESTORE}"
        )


def _read(directory: Path, name: str, sha256: Mapping[str, str] | None = None) -> bytes:
    path = directory / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StateError(f"{path} can't be read ({error.strerror}): not a whole learner state. {RESTORE}") from error
    if sha256 is not None and _sha256(data) != sha256[name]:
        raise StateError(f"{path} is damaged: its sha256 is not the one in learner.json. {RESTORE}")
    return data


def _exemplar_table(exemplars: tuple[Exemplar, ...]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["md5", "path", "class_id", "rank"])
    table.writerows([e.sample.md5, e.sample.path, e.class_id, e.rank] for e in exemplars)
    return text.getvalue().encode()


def _tensor_file(tensors: Mapping[str, torch.Tensor]) -> bytes:
    ready = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return bytes(safetensors.torch.save(ready, metadata={"format": "pt"}))


def _tensors(data: bytes) -> dict[str, torch.Tensor]:
    try:
        return dict(safetensors.torch.load(data))
    except safetensors.SafetensorError as error:
        raise StateError(f"a safetensors file can't be read: {error}. {RESTORE}") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
