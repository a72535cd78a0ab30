"""Entries leave an atlas: the segments that hold them are written anew without them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lorax.atlas.entry import AtlasEntry
from lorax.atlas.record import read_record
from lorax.atlas.segments import Segment, Segments, remove_leftovers, write_segment
from lorax.storage import locked

_BASES = "bases"


def remove(atlas_dir: Path, is_gone: Callable[[AtlasEntry], bool]) -> list[str]:
    """Remove entries and all that was derived of them; returns their names. Nothing happens where there is no atlas.

    Args:
        atlas_dir: the atlas's folder.
        is_gone: which entries.

    Raises:
        AtlasError: it is damaged.
        StorageError: the disk is full; the atlas is as it was.
    """
    if not atlas_dir.is_dir():
        return []
    with locked(atlas_dir / "atlas.lock"):
        record = read_record(atlas_dir)
        names = [entry.name for entry in Segments(atlas_dir, record.segments).entries() if is_gone(entry)]
        if names:
            number, kept = len(record.segments), list[Segment]()
            for segment in record.segments:
                number += 1
                kept += _without(atlas_dir, segment, number, is_gone)
            changed = {"segments": tuple(kept), "revision": record.revision + 1}
            record.model_copy(update=changed if kept else changed | {"describer": None, "base": ""}).write(atlas_dir)
        remove_leftovers(atlas_dir, read_record(atlas_dir).segments)
        shutil.rmtree(atlas_dir / _BASES, ignore_errors=True)  # principal components of all
    return names


def _without(atlas_dir: Path, segment: Segment, number: int, is_gone: Callable[[AtlasEntry], bool]) -> list[Segment]:
    """The segment itself if none of its entries goes, else one with the others; [] if none is left."""
    read = Segments(atlas_dir, [segment])
    entries = read.entries()
    stays = np.array([not is_gone(entry) for entry in entries])
    if stays.all() or not stays.any():
        return [segment] if stays.all() else []
    kinds = [name.removesuffix(".safetensors") for name in segment.files if name.endswith(".safetensors")]
    rows = {kind: np.ascontiguousarray(next(read.blocks(kind))[stays]) for kind in kinds}
    return [write_segment(atlas_dir, number, [e for e, stay in zip(entries, stays, strict=True) if stay], rows)]
