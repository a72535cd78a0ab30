"""atlas.json: which segments an atlas consists of, and how their rows were made. What it doesn't name isn't there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorax.atlas.segments import Segment
from lorax.errors import AtlasError
from lorax.storage import canonical_json, write_whole

FORMAT = 1

_FILE = "atlas.json"
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
        write_whole(atlas_dir / _FILE, canonical_json({"format": FORMAT, **asdict(self)}))


def read_record(atlas_dir: Path) -> Record:
    """The atlas's revision; an empty one where there is no atlas yet.

    Raises:
        AtlasError: atlas.json is damaged or of an unknown format, or the folder holds something else.
    """
    path = atlas_dir / _FILE
    try:
        raw = json.loads(path.read_bytes())
        found = raw["format"]
        if found == FORMAT:
            segments = tuple(Segment(**segment) for segment in raw["segments"])
            return Record(raw["describer"], raw["base"], segments, raw["revision"])
    except FileNotFoundError:
        _check_free(atlas_dir)
        return Record()
    except NotADirectoryError:
        raise AtlasError(f"{atlas_dir} is a file; expected the folder of an atlas. Name another one.") from None
    except (ValueError, TypeError, KeyError) as error:
        raise AtlasError(
            f"{path} is damaged ({error}); expected an atlas's record. Bring it back from a copy, or make it anew."
        ) from error
    raise AtlasError(f"{path} is of format {found}; this version of lorax reads {FORMAT}. Use a newer lorax.")


def _check_free(atlas_dir: Path) -> None:
    """An atlas is made in a new or empty folder, or where the first add was killed."""
    others = sorted({path.name for path in atlas_dir.iterdir()} - _OURS) if atlas_dir.is_dir() else []
    if others:
        raise AtlasError(
            f"{atlas_dir} is no atlas: it has no atlas.json, but {others[0]!r}. Name an atlas's folder, or a new one."
        )
