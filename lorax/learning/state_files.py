"""The learner state as a checksummed directory.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import safetensors.torch
from pydantic import JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from lorax.errors import StateError
from lorax.learning.calibration import Calibration
from lorax.learning.record import AdapterRecord, CalibrationRecord, ExemplarRow, LearnerRecord
from lorax.learning.state import Branch, Exemplar, LearnerState, tensor_file
from lorax.learning.texture_head import parse_statistics, statistics_tensors
from lorax.network.backbone import BackboneIdentity
from lorax.network.network import TextureHead
from lorax.storage import canonical_json, fault, whole_directory
from lorax.stream import ClassTable, Sample, check_task_name

FORMAT = 7
"""1 had no calibration; before 3 branches had no common start; before 4 no head read textures, no verdict was a set;
before 5 textures had one head, that of images as they are; before 6 no task extended another; before 7 no student
answered in the branches' place."""

_WITHOUT_STUDENT, _WITHOUT_EXTENSIONS = 6, 5
"""The formats of a state that has no student, or in which no task extends another either: its digest stays the same."""

_RESTORE = "Fetch the model version again, or restore the directory from a copy."

_LONGEST = 64 * 2**20
"""Bytes of a text file; a memory of 100,000 images needs 10 MB."""

_Object = dict[str, JsonValue]
_Kind = TypeVar("_Kind")


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
    found = _parsed(_Object, text, path).get("format")
    if type(found) is not int:
        raise StateError(f"{path} is damaged: it names no format. {_RESTORE}")
    if not 1 <= found <= FORMAT:
        raise StateError(
            f"{path} has format {found}; this version of lorax reads 1 to {FORMAT}. Update lorax to read it."
        )
    try:
        return _state(directory, _parsed(LearnerRecord, text, path), has_calibration=found >= 2)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"{directory} can't be understood ({type(error).__name__}: {error}). {_RESTORE}") from error


def state_digest(directory: Path) -> str:
    """The digest of the state in `directory` (sha256 of learner.json, hex); the other files are not read."""
    return _sha256(_read(directory, "learner.json"))


def _state_files(state: LearnerState) -> dict[str, bytes]:
    """Every file of the state by name, learner.json last: it holds the others' sha256."""
    files = {f"{folder}/{name}": data for folder, b in _folders(state) for name, data in b.files().items()}
    head = {"weight": state.head_weight, "bias": state.head_bias}
    if state.texture_head:
        head |= state.texture_head.tensors()
        files["statistics.safetensors"] = tensor_file(statistics_tensors(state.statistics))
    files["head.safetensors"] = tensor_file(head)
    files["exemplars.csv"] = _exemplar_table(state.exemplars)
    files["calibration.csv"] = _exemplar_table(state.calibration_memory)
    fitted = state.calibration
    files["calibration.json"] = canonical_json(fitted.record() if fitted else {}).encode()
    files["calibration.safetensors"] = tensor_file(fitted.tensors() if fitted else {})
    record = {
        "format": _format_of(state),
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
    record |= {"cut": [asdict(t) for t in state.cut]} if state.cut else {}
    record |= {"extensions": dict(state.extensions)} if state.extensions else {}
    return files | {"learner.json": canonical_json(record).encode()}


def _format_of(state: LearnerState) -> int:
    if state.calibration and state.calibration.student:
        return FORMAT
    return _WITHOUT_STUDENT if state.extensions else _WITHOUT_EXTENSIONS


def _folders(state: LearnerState) -> list[tuple[str, Branch]]:
    return [(f"branches/{k:02d}-{b.task}", b) for k, b in enumerate(state.branches)]


def _state(directory: Path, record: LearnerRecord, *, has_calibration: bool) -> LearnerState:
    """What the files hold, each held to its sha256 and all to each other; what a format lacks has no file."""
    classes, head = ClassTable(record.classes), _tensors(_read(directory, "head.safetensors", record.files))
    memory = _exemplars(directory, "calibration.csv", record, classes)
    path = directory / "calibration.json"
    text, fitted = _read(directory, path.name, record.files), None
    if has_calibration and _parsed(_Object, text, path):
        fitted = _parsed(CalibrationRecord, text, path)
    state = LearnerState(
        backbone=BackboneIdentity(**record.backbone.model_dump()),
        branches=tuple(_branch(directory, k, record) for k in range(len(record.branches))),
        classes=classes,
        head_weight=head["weight"],
        head_bias=head["bias"],
        exemplars=_exemplars(directory, "exemplars.csv", record, classes),
        calibration_memory=memory if has_calibration else (),
        tasks=record.tasks,
        extensions=record.extensions,
        accuracy=record.accuracy,
        revision=record.data,
        parameters=record.parameters,
        parent=record.parent,
        cut=record.cut,
    )
    _check_fit(directory, state)
    if has_calibration:
        tensors = _tensors(_read(directory, "calibration.safetensors", record.files))
        if fitted:
            _check_calibration(directory, fitted, tensors, classes)
            state = replace(state, calibration=Calibration.parse(fitted.model_dump(), tensors))
    if "statistics.safetensors" in record.files:
        sums = _tensors(_read(directory, "statistics.safetensors", record.files))
        state = replace(state, texture_head=TextureHead.parse(head), statistics=parse_statistics(sums, record.kinds))
        _check_textures(directory, state)
    return state


def _branch(directory: Path, k: int, record: LearnerRecord) -> Branch:
    entry = record.branches[k]
    folder = f"branches/{k:02d}-{check_task_name(entry.task)}"
    text = _read(directory, f"{folder}/adapter_config.json", record.files)
    path = directory / folder / "adapter_config.json"
    _parsed(AdapterRecord, text, path)
    weights = _tensors(_read(directory, f"{folder}/adapter_model.safetensors", record.files))
    return Branch(entry.task, _parsed(_Object, text, path), weights, entry.seed, entry.start)


def _exemplars(directory: Path, name: str, record: LearnerRecord, classes: ClassTable) -> tuple[Exemplar, ...]:
    exemplars = []
    for row in _rows(_read(directory, name, record.files), directory / name):
        entry = classes.entries[row.class_id]
        exemplars.append(Exemplar(Sample(row.path, row.md5, entry.task, entry.index), entry.id, row.rank))
    return tuple(exemplars)


def _read(directory: Path, name: str, sha256: Mapping[str, str] | None = None) -> bytes:
    path = directory / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StateError(f"{path} can't be read ({error.strerror}): not a whole learner state. {_RESTORE}") from error
    if sha256 is not None and _sha256(data) != sha256[name]:
        raise StateError(f"{path} is damaged: its sha256 is not the one in learner.json. {_RESTORE}")
    return data


def _parsed(kind: type[_Kind], text: bytes, where: Path) -> _Kind:
    """JSON text as a record, or as an object of whatever values.

    Raises:
        StateError: it is no such text, too long, or nested too deep; or a value is missing or beyond its bound.
    """
    with _refusing(text, where):
        return TypeAdapter(kind).validate_json(text)


def _rows(text: bytes, where: Path) -> tuple[ExemplarRow, ...]:
    """A table of references to images.

    Raises:
        StateError: a column is missing, or a value is of another type or beyond its bound.
    """
    with _refusing(text, where):
        table = list(csv.DictReader(io.StringIO(text.decode())))
        return TypeAdapter(tuple[ExemplarRow, ...]).validate_python(table)


@contextmanager
def _refusing(text: bytes, where: Path) -> Iterator[None]:
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"{len(text)} bytes long, more than {_LONGEST}")
        yield
    except (ValueError, csv.Error) as error:
        why = fault(error) if isinstance(error, ValidationError) else error
        raise StateError(f"{where} is damaged ({why}). {_RESTORE}") from error


def _exemplar_table(exemplars: tuple[Exemplar, ...]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["md5", "path", "class_id", "rank"])
    table.writerows([e.sample.md5, e.sample.path, e.class_id, e.rank] for e in exemplars)
    return text.getvalue().encode()


def _tensors(data: bytes) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load(data))
    except safetensors.SafetensorError as error:
        raise StateError(f"a safetensors file can't be read: {error}. {_RESTORE}") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_fit(directory: Path, state: LearnerState) -> None:
    """Refuse parts that belong to different states though each file is whole."""
    episodes, branches, classes = len(state.tasks), len(state.branches), len(state.classes)
    learned = {branch.task for branch in state.branches}
    fits = (
        episodes == branches + len(state.extensions)
        and {task.name for task in state.tasks} == learned | state.extensions.keys()
        and learned.issuperset(state.extensions.values())
        and learned.issuperset(entry.task for entry in state.classes.entries)
        and [len(row) for row in state.accuracy] == list(range(1, episodes + 1))
        and state.head_weight.ndim == 2
        and state.head_bias.ndim == 1
        and state.head_weight.shape[0] == state.head_bias.shape[0] == classes
        and [e.id for e in state.classes.entries] == list(range(classes))
        and (branches == 0 or state.head_weight.shape[1] % branches == 0)
    )
    if not fits:
        raise StateError(
            f"{directory}: {branches} branches, {episodes} tasks, {classes} classes, an accuracy matrix of "
            f"{len(state.accuracy)} rows and a head of shape {tuple(state.head_weight.shape)} don't belong together. "
            + _RESTORE
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
            f"the texture of {found} don't belong together. {_RESTORE}"
        )


def _check_calibration(
    directory: Path, fitted: CalibrationRecord, tensors: Mapping[str, Tensor], classes: ClassTable
) -> None:
    """Refuse a calibration whose parts belong to different states."""
    fits = (
        tensors["bias"].shape == (len(classes),)
        and tensors["scores"].ndim == 1
        and len(tensors["scores"]) > 0
        and (_is_distance(tensors) if fitted.distance_base is not None else _is_residual(tensors))
        and _are_relatives(fitted, tensors, classes)
        and _is_student(fitted, tensors, classes)
    )
    if not fits:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise StateError(f"{directory}: the calibration's tensors {shapes} don't belong together. {_RESTORE}")


def _is_distance(tensors: Mapping[str, Tensor]) -> bool:
    means, axes = tensors["means"], tensors["axes"]
    matrices = means.ndim == axes.ndim == 2 and len(means) > 0
    return matrices and means.shape[1] == axes.shape[1] and tensors["gains"].shape == axes.shape[:1]


def _is_residual(tensors: Mapping[str, Tensor]) -> bool:
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


def _is_student(fitted: CalibrationRecord, tensors: Mapping[str, Tensor], classes: ClassTable) -> bool:
    """Whether a student, if there is one, reads the textures that the rest reads, and knows the classes."""
    if fitted.student is None:
        return True
    width = tensors["score_weight" if fitted.distance_base is None else "means"].shape[-1]
    return (tensors["student_weight"].shape, tensors["student_bias"].shape) == ((len(classes), width), (len(classes),))


def _are_relatives(fitted: CalibrationRecord, tensors: Mapping[str, Tensor], classes: ClassTable) -> bool:
    """Whether the groups of relatives, if there are any, are of synthetic classes, and each has its level."""
    if fitted.relatives is None:
        return True
    synthetic = {entry.id for entry in classes.entries if not entry.is_real}
    return tensors["levels"].shape == (len(classes),) and all(synthetic.issuperset(g) for g in fitted.relatives.groups)
