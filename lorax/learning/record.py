"""What a learner state's files may hold, with bounds: they may come from strangers.

A value beyond a bound is damage or malice; the bounds lie far above what any stream of tasks needs.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from lorax.params import MAX_CROP, MAX_RANK
from lorax.stream import ClassEntry, DataRevision, PinnedTask

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


class StudentRecord(_Part):
    """When the student's answer is given."""

    ahead: float = Field(ge=0, le=1)


class CalibrationRecord(_Part):
    """calibration.json, where something was fitted; `relatives` since format 4, `student` since 7."""

    temperature: float = Field(gt=0)
    unit: float = Field(gt=0)
    false_alarms: float = Field(gt=0, lt=1)
    distance_base: float | None = Field(None, ge=0)  # none where scores give the OOD score
    relatives: RelativesRecord | None = None
    student: StudentRecord | None = None


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
