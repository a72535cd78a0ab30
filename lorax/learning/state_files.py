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
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import safetensors.torch
import torch

from lorax.errors import StateError
from lorax.learning.calibration import Calibration
from lorax.learning.record import (
    RESTORE,
    AdapterRecord,
    CalibrationRecord,
    LearnerRecord,
    check_calibration,
    check_fit,
    check_textures,
    parsed,
    parsed_object,
    parsed_rows,
)
from lorax.learning.state import Branch, Exemplar, LearnerState, tensor_file
from lorax.learning.texture_head import parse_statistics, statistics_tensors
from lorax.network.backbone import BackboneIdentity
from lorax.network.network import TextureHead
from lorax.storage import canonical_json, whole_directory
from lorax.stream import ClassTable, Sample, check_task_name

FORMAT = 6
"""1 had no calibration; before 3 branches had no common start; before 4 no head read textures, no verdict was a set;
before 5 textures had one head, that of images as they are; before 6 no task extended another."""

_WITHOUT_EXTENSIONS = 5
"""The format of a state in which no task extends another, so that its digest stays what it was."""


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
    if not 1 <= found <= FORMAT:
        raise StateError(
            f"{path} has format {found}; this version of lorax reads 1 to {FORMAT}. Update lorax to read it."
        )
    try:
        return _state(directory, parsed(LearnerRecord, text, path), has_calibration=found >= 2)
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
        files["statistics.safetensors"] = tensor_file(statistics_tensors(state.statistics))
    files["head.safetensors"] = tensor_file(head)
    files["exemplars.csv"] = _exemplar_table(state.exemplars)
    files["calibration.csv"] = _exemplar_table(state.calibration_memory)
    fitted = state.calibration
    files["calibration.json"] = canonical_json(fitted.record() if fitted else {}).encode()
    files["calibration.safetensors"] = tensor_file(fitted.tensors() if fitted else {})
    record = {
        "format": FORMAT if state.extensions else _WITHOUT_EXTENSIONS,
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


def _folders(state: LearnerState) -> list[tuple[str, Branch]]:
    return [(f"branches/{k:02d}-{b.task}", b) for k, b in enumerate(state.branches)]


def _state(directory: Path, record: LearnerRecord, *, has_calibration: bool) -> LearnerState:
    """What the files hold, each held to its sha256 and all to each other; what a format lacks has no file."""
    classes, head = ClassTable(record.classes), _tensors(_read(directory, "head.safetensors", record.files))
    memory = _exemplars(directory, "calibration.csv", record, classes)
    path = directory / "calibration.json"
    text, fitted = _read(directory, path.name, record.files), None
    if has_calibration and parsed_object(text, path):
        fitted = parsed(CalibrationRecord, text, path)
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
    check_fit(directory, state)
    if has_calibration:
        tensors = _tensors(_read(directory, "calibration.safetensors", record.files))
        if fitted:
            check_calibration(directory, fitted, tensors, classes)
            state = replace(state, calibration=Calibration.parse(fitted.model_dump(), tensors))
    if "statistics.safetensors" in record.files:
        sums = _tensors(_read(directory, "statistics.safetensors", record.files))
        state = replace(state, texture_head=TextureHead.parse(head), statistics=parse_statistics(sums, record.kinds))
        check_textures(directory, state)
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


def _tensors(data: bytes) -> dict[str, torch.Tensor]:
    try:
        return dict(safetensors.torch.load(data))
    except safetensors.SafetensorError as error:
        raise StateError(f"a safetensors file can't be read: {error}. {RESTORE}") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
