"""atlas.json: which segments an atlas consists of, and how their rows were made. What it doesn't name isn't there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from lorax.atlas.adapter import Layer
from lorax.atlas.names import outdated
from lorax.atlas.segments import Segment, has_segments
from lorax.errors import AtlasError
from lorax.storage import canonical_json, fault, write_whole

FORMAT = 1
FILE = "atlas.json"

_OURS = {"segments", "bases", "atlas.lock"}


class DescriberRecord(BaseModel):
    """All that makes a `Describer`; of each layer part, name, outputs, inputs and rank."""

    model_config = ConfigDict(frozen=True, strict=True)

    layers: list[tuple[str, str, int, int, int]]
    descriptors: list[Literal["product", "spectrum", "factors"]] = Field(min_length=2)
    side: PositiveInt
    seed: int


class Record(BaseModel):
    """One revision of an atlas.

    Args:
        describer: None while the atlas is empty.
        base: the base model that its adapters state, or "" while none did.
        segments: in the order of adding.
        revision: how many adds there were.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    describer: DescriberRecord | None
    base: str
    segments: tuple[Segment, ...]
    revision: int

    @property
    def entries(self) -> int:
        """How many there are."""
        return sum(segment.count for segment in self.segments)

    def write(self, atlas_dir: Path) -> None:
        """Make this the atlas's revision; a reader sees this one or the one before.

        Raises:
            StorageError: the disk is full; the atlas is as it was.
        """
        write_whole(atlas_dir / FILE, canonical_json({"format": FORMAT, **self.model_dump()}))


def read_record(atlas_dir: Path) -> Record:
    """The atlas's revision; an empty one where there is no atlas yet.

    Raises:
        AtlasError: atlas.json is missing, damaged or of an unknown format, or the folder holds something else.
    """
    path = atlas_dir / FILE
    try:
        text = path.read_bytes()
        form = json.loads(text)["format"]
        if form == FORMAT:
            return _with_names_of_today(Record.model_validate_json(text), path)
    except FileNotFoundError:
        _check_free(atlas_dir)
        return Record(describer=None, base="", segments=(), revision=0)
    except NotADirectoryError:
        raise AtlasError(f"{atlas_dir} is a file; expected the folder of an atlas. Name another one.") from None
    except OSError as error:
        raise AtlasError(f"{path} can't be read: {error.strerror}. Check the path and its permissions.") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AtlasError(
            f"{path} is damaged ({_reason(error)}); expected an atlas's record. Bring it back from a copy, or make it "
            "anew."
        ) from error
    raise AtlasError(f"{path} is of format {form!r}; this version of lorax reads {FORMAT}. Use a newer lorax.")


def _with_names_of_today(record: Record, path: Path) -> Record:
    layers = [Layer(*entry) for entry in record.describer.layers] if record.describer else []
    if strange := outdated(layers):
        raise AtlasError(
            f"{path} was made by an older lorax, which called layers as their files do: {strange.part}.{strange.name}; "
            "today they have diffusers' names. Add its adapters to a new atlas: 'lorax atlas add PATH --atlas NEW'; "
            f"where they were read from is told in {path.parent / 'segments'}, in every entries.csv."
        )
    return record


def _reason(error: Exception) -> str:
    return fault(error) if isinstance(error, ValidationError) else str(error)


def _check_free(atlas_dir: Path) -> None:
    """An atlas is begun in a new or empty folder, or where the first add was killed. Hidden files don't count."""
    names = {path.name for path in atlas_dir.iterdir()} if atlas_dir.is_dir() else set()
    others = sorted(name for name in names - _OURS if not name.startswith("."))
    lost = has_segments(atlas_dir)
    if (atlas_dir / FILE).exists():  # the first add has just begun
        return
    if others:
        raise AtlasError(
            f"{atlas_dir} is no atlas: it has no {FILE}, but {others[0]!r}. Name an atlas's folder, or a new one."
        )
    if lost:
        raise AtlasError(
            f"{atlas_dir} is a damaged atlas: it has segments, but no {FILE}, which names them. Bring {FILE} back from "
            "a copy, or name a new folder and add its adapters anew."
        )
