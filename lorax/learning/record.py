"""What a learner state's files may hold, with bounds: they may come from strangers; and whether they belong together.

A value beyond a bound is damage or malice; the bounds lie far above what any stream of tasks needs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, field_validator
from torch import Tensor

from lorax.errors import StateError
from lorax.learning.state import LearnerState
from lorax.params import MAX_CROP, MAX_RANK
from lorax.storage import fault
from lorax.stream import ClassEntry, ClassTable, DataRevision, PinnedTask

RESTORE = "Fetch the model version again, or restore the directory from a copy."

_LONGEST = 64 * 2**20
"""Bytes of a text file; a memory of 100,000 images needs 10 MB."""

_Count = Annotated[int, Field(ge=0, le=10**9)]
_Text = Annotated[str, Field(max_length=4096)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class BackboneRecord(_Part):
    name: _Text
    arguments: dict[str, JsonValue]
    source: _Text
    sha256: _Text
    crop: int = Field(ge=1, le=MAX_CROP)
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class BranchRecord(_Part):
    task: _Text
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    start: _Text | None = ""


class LearnerRecord(_Part):
    """learner.json; what newer formats add is left alone."""

    backbone: BackboneRecord
    branches: tuple[BranchRecord, ...]
    classes: tuple[ClassEntry, ...]
    tasks: tuple[PinnedTask, ...]
    accuracy: tuple[tuple[_Share, ...], ...]
    data: DataRevision
    parameters: dict[str, dict[str, JsonValue]]
    parent: _Text | None
    files: dict[str, _Text]
    kinds: tuple[_Text, ...] = ()
    cut: tuple[PinnedTask, ...] = ()
    extensions: dict[_Text, _Text] = {}  # since format 6


class RelativesRecord(_Part):
    """Which generators are confused."""

    error: float = Field(gt=0, lt=1)
    groups: tuple[tuple[_Count, ...], ...]


class CalibrationRecord(_Part):
    """calibration.json, where something was fitted; `relatives` since format 4."""

    temperature: float = Field(gt=0)
    unit: float = Field(gt=0)
    false_alarms: float = Field(gt=0, lt=1)
    distance_base: float | None = Field(None, ge=0)  # none where scores give the OOD score
    relatives: RelativesRecord | None = None


class AdapterRecord(BaseModel):
    """What of PEFT's adapter_config.json is read here."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    r: int = Field(ge=1, le=MAX_RANK)
    lora_alpha: float = Field(gt=0)
    target_modules: str = Field(max_length=10**6)


class ExemplarRow(_Part):
    """A line of exemplars.csv or calibration.csv; the md5 becomes part of a path."""

    model_config = ConfigDict(strict=False, extra="forbid")

    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    path: _Text
    class_id: _Count
    rank: _Count

    @field_validator("path")
    @classmethod
    def _is_inside(cls, path: str) -> str:
        place = PurePosixPath(path)
        if place.is_absolute() or ".." in place.parts or "\0" in path:
            raise ValueError("leads out of data/")
        return path


_Record = TypeVar("_Record", bound=BaseModel)

_OBJECT = TypeAdapter(dict[str, JsonValue])
_ROWS = TypeAdapter(tuple[ExemplarRow, ...])


def parsed_object(text: bytes, where: Path) -> dict[str, Any]:
    """JSON text as an object of whatever values.

    Raises:
        StateError: it is no such text, too long, or nested too deep.
    """
    with _refusing(where):
        return dict(_OBJECT.validate_json(_bounded(text)))


def parsed(model: type[_Record], text: bytes, where: Path) -> _Record:
    """JSON text as a record.

    Raises:
        StateError: as `parsed_object`, or a value is missing, of another type or beyond its bound.
    """
    with _refusing(where):
        return model.model_validate_json(_bounded(text))


def parsed_rows(text: bytes, where: Path) -> tuple[ExemplarRow, ...]:
    """A table of references to images.

    Raises:
        StateError: a column is missing, or a value is of another type or beyond its bound.
    """
    with _refusing(where):
        return _ROWS.validate_python(list(csv.DictReader(io.StringIO(_bounded(text).decode()))))


def _bounded(text: bytes) -> bytes:
    if len(text) > _LONGEST:
        raise ValueError(f"{len(text)} bytes long, more than {_LONGEST}")
    return text


@contextmanager
def _refusing(where: Path) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise StateError(f"{where} is damaged ({fault(error)}). {RESTORE}") from error
    except (ValueError, csv.Error) as error:
        raise StateError(f"{where} is damaged ({error}). {RESTORE}") from error


def check_fit(directory: Path, state: LearnerState) -> None:
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
            + RESTORE
        )


def check_textures(directory: Path, state: LearnerState) -> None:
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


def check_calibration(
    directory: Path, fitted: CalibrationRecord, tensors: Mapping[str, Tensor], classes: ClassTable
) -> None:
    """Refuse a calibration whose parts belong to different states."""
    fits = (
        tensors["bias"].shape == (len(classes),)
        and tensors["scores"].ndim == 1
        and len(tensors["scores"]) > 0
        and (_is_distance(tensors) if fitted.distance_base is not None else _is_residual(tensors))
        and _are_relatives(fitted, tensors, classes)
    )
    if not fits:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise StateError(f"{directory}: the calibration's tensors {shapes} don't belong together. {RESTORE}")


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


def _are_relatives(fitted: CalibrationRecord, tensors: Mapping[str, Tensor], classes: ClassTable) -> bool:
    """Whether the groups of relatives, if there are any, are of synthetic classes, and each has its level."""
    if fitted.relatives is None:
        return True
    synthetic = {entry.id for entry in classes.entries if not entry.is_real}
    return tensors["levels"].shape == (len(classes),) and all(synthetic.issuperset(g) for g in fitted.relatives.groups)
