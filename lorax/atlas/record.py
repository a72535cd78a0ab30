"""atlas.json: which segments an atlas consists of, and how their rows were made. What it doesn't name isn't there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorax.atlas.descriptor import DESCRIPTORS
from lorax.atlas.segments import Segment, has_segments
from lorax.errors import AtlasError
from lorax.storage import canonical_json, write_whole

FORMAT = 1
FILE = "atlas.json"

_OURS = {"segments", "bases", "atlas.lock"}


@dataclass(frozen=True)
class Record:
    """One revision of an atlas.

    Args:
        describer: what `Describer.record` gives, or None while the atlas is empty.
        base: the base model that its adapters state, or "" while none did.
        segments: in the order of adding.
        revision: how many adds there were.
    """

    describer: Mapping[str, Any] | None = None
    base: str = ""
    segments: tuple[Segment, ...] = ()
    revision: int = 0

    def write(self, atlas_dir: Path) -> None:
        """Make this the atlas's revision; a reader sees this one or the one before.

        Raises:
            StorageError: the disk is full; the atlas is as it was.
        """
        write_whole(atlas_dir / FILE, canonical_json({"format": FORMAT, **asdict(self)}))


def read_record(atlas_dir: Path) -> Record:
    """The atlas's revision; an empty one where there is no atlas yet.

    Raises:
        AtlasError: atlas.json is missing, damaged or of an unknown format, or the folder holds something else.
    """
    path = atlas_dir / FILE
    try:
        raw = json.loads(path.read_bytes())
        found = raw["format"]
        if found == FORMAT:
            return _parsed(raw)
    except FileNotFoundError:
        _check_free(atlas_dir)
        return Record()
    except NotADirectoryError:
        raise AtlasError(f"{atlas_dir} is a file; expected the folder of an atlas. Name another one.") from None
    except OSError as error:
        raise AtlasError(f"{path} can't be read: {error.strerror}. Check the path and its permissions.") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AtlasError(
            f"{path} is damaged ({error}); expected an atlas's record. Bring it back from a copy, or make it anew."
        ) from error
    raise AtlasError(f"{path} is of format {found!r}; this version of lorax reads {FORMAT}. Use a newer lorax.")


def _parsed(raw: Mapping[str, Any]) -> Record:
    segments = tuple(Segment(**segment) for segment in raw["segments"])
    for segment in segments:
        _expect("a segment's name", segment.name, str)
        _expect("a segment's count", segment.count, int)
        _expect("a segment's files", segment.files, dict)
    record = Record(raw["describer"], raw["base"], segments, raw["revision"])
    _expect("base", record.base, str)
    _expect("revision", record.revision, int)
    if record.segments or record.describer is not None:
        _check_describer(record.describer)
    return record


def _check_describer(describer: Any) -> None:
    _expect("describer", describer, dict)
    for key in ("side", "seed"):
        _expect(key, describer[key], int)
    layers, descriptors = describer["layers"], describer["descriptors"]
    _expect("descriptors", descriptors, list)
    if not {"product", "spectrum"} <= set(descriptors) <= set(DESCRIPTORS) or describer["side"] < 1:
        raise ValueError("its describer is none")
    _expect("layers", layers, list)
    for layer in layers:
        if [type(value) for value in layer] != [str, str, int, int, int]:
            raise ValueError("a layer is none")


def _expect(what: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{what} is no {kind.__name__}")


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
