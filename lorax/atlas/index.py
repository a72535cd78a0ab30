"""The atlas on disk: adapters of one base model and one set of layers, described, to be searched and compared.

    atlas.json                     format, describer, base model, ordered segments with the sha256 of their files
    segments/000001-<hash8>/       what one add brought: entries.csv, product, spectrum, ... .safetensors
    bases/                         derived: principal components, fitted when they are needed first
    atlas.lock                     held by the one add at work

Entries are only ever added, an add is whole or not at all, and readers never wait.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lorax.atlas.adapter import Adapter
from lorax.atlas.adding import Newcomers
from lorax.atlas.descriptor import Describer
from lorax.atlas.groups import ALL
from lorax.atlas.record import FILE, Record, read_record
from lorax.atlas.segments import COLUMNS, AtlasEntry, Segment, Segments, counted, remove_leftovers, write_segment
from lorax.atlas.space import LEAST_FITTED, Rows
from lorax.atlas.view import DIMS, POOLED, POOLED_WIDTH, Lens, View, fit_view, open_view
from lorax.errors import AtlasError
from lorax.storage import locked

if TYPE_CHECKING:
    import pandas as pd


KEPT = ("product", "spectrum")
"""The descriptors that every atlas keeps."""


class Atlas:
    """An atlas at one revision. An add by this object brings it to the next; adds by others show when it is reopened.

    A folder that doesn't exist yet, or is empty, is an empty atlas; its first adapter settles its layers. What reads
    raises AtlasError where it is damaged; an add that is refused, or finds the disk full, leaves it as it was.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._load(read_record(folder))

    @classmethod
    def open(cls, folder: Path) -> Atlas:
        """Read an atlas's record and entries; rows are read when they are needed.

        Raises:
            AtlasError: it is damaged or of an unknown format, or the folder holds something else.
        """
        return cls(folder)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def base(self) -> str:
        """The base model that its adapters state, or ""."""
        return self._record.base

    @cached_property
    def describer(self) -> Describer:
        """What is computed of every adapter.

        Raises:
            AtlasError: the atlas is empty, or its rows are of another describer.
        """
        if self._record.describer is None:
            raise AtlasError(f"the atlas at {self.folder} holds nothing yet: 'lorax atlas add PATH'.")
        describer = Describer.from_record(self._record.describer)
        self._segments.check_widths(describer.widths)
        return describer

    def entry(self, name: str) -> AtlasEntry:
        """The entry of this name.

        Raises:
            AtlasError: there is none.
        """
        if name not in self._numbers:
            near = difflib.get_close_matches(name, self._numbers, n=3)
            hint = f" Near it: {', '.join(near)}." if near else " 'lorax atlas list' has all."
            raise AtlasError(f"the atlas at {self.folder} has no entry {name!r} among its {len(self)}.{hint}")
        return self.entries[self._numbers[name]]

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    @contextmanager
    def adding(
        self, *, with_factors: bool = False, keep_going: bool = False, on_wait: Callable[[], None] = lambda: None
    ) -> Iterator[Newcomers]:
        """Add in a block: what is offered in it becomes known at its end, all of it or nothing.

        Args:
            with_factors: keep the factors, too; settled by the first add.
            keep_going: add the rest if some are refused.
            on_wait: called if another add is at work, before waiting for it.

        Raises:
            AdapterError: some were refused.
            AtlasError: it keeps no factors.
        """
        wanted = (*KEPT, *(("factors",) if with_factors else ()))
        read_record(self.folder)  # refuses a folder of something else before anything is written to it
        with locked(self.folder / "atlas.lock", on_wait):
            record = read_record(self.folder)
            if record != self._record:
                self._load(record)
            if not (self.folder / FILE).exists():
                record.write(self.folder)  # before any segment: where there are some and no record, it was lost
            remove_leftovers(self.folder, record.segments)
            newcomers = Newcomers(self.folder, record, self.entries, wanted)
            try:
                yield newcomers
                record = newcomers.finish(keep_going=keep_going)
            except BaseException:
                newcomers.discard()
                raise
            self._load(record, [*self.entries, *newcomers.added])

    def add(
        self, adapters: Iterable[Adapter], labels: Mapping[str, str] | None = None, *, missing_only: bool = False
    ) -> list[AtlasEntry]:
        """Add adapters, all or none.

        Args:
            adapters: read one after the other.
            labels: by an adapter's name: what it is known to have learned, where that is not its own label.
            missing_only: pass over those that are there already.

        Raises:
            AdapterError: some are refused.
        """
        with self.adding() as newcomers:
            newcomers.offer_all(adapters, labels, missing_only=missing_only)
        return newcomers.added

    def table(self) -> pd.DataFrame:
        """One row per entry, in the order of adding."""
        import pandas as pd

        return pd.DataFrame([asdict(entry) for entry in self.entries], columns=list(COLUMNS))

    def frame(self, descriptor: str = "product", group: str = "all") -> pd.DataFrame:
        """Every entry's descriptor as it is stored: one row per name."""
        import pandas as pd

        lens = self._lens(descriptor, group)
        rows = np.concatenate([block[:, lens.columns] for block in self._segments.blocks(lens.kind)])
        return pd.DataFrame(rows, index=pd.Index([entry.name for entry in self.entries], name="name"))

    def row(self, name: str, descriptor: str = "product") -> Rows:
        """One entry's descriptor (F,), over all layers."""
        self.entry(name)
        return self._segments.row(self._lens(descriptor, "all").kind, self._numbers[name])

    def rows(self) -> Iterator[Rows]:
        """All entries' products (n, F) in the order of adding, block by block."""
        yield from self._segments.blocks(self._lens("product", ALL).kind)

    def view(self, descriptor: str = "product", group: str = "all") -> View:
        """Its entries as vectors.

        Args:
            descriptor: one of those kept, or "pooled": spectra in the form that all base models have in common.
            group: of modules; see `lorax.atlas.groups`.

        Raises:
            AtlasError: the atlas is empty, or doesn't keep this descriptor.
            AdapterError: there is no such group.
        """
        if (descriptor, group) not in self._views:
            lens = self._lens(descriptor, group)
            self._views[descriptor, group] = open_view(self.folder, lens, self._record.segments)
        return self._views[descriptor, group]

    def fit(self, descriptor: str = "product", group: str = "all", dims: int = DIMS) -> View:
        """Fit the view's principal components over all entries anew.

        Raises:
            AtlasError: there are too few entries for principal components.
        """
        lens = self._lens(descriptor, group)
        if len(self) < LEAST_FITTED:
            held = counted(len(self), "entry", "entries")
            raise AtlasError(
                f"the atlas at {self.folder} holds {held}; a basis needs {LEAST_FITTED}. Until then they are compared "
                "by the plain cosine of their descriptors, and nothing has to be fitted."
            )
        self._views[descriptor, group] = view = fit_view(self.folder, lens, self._record.segments, dims)
        return view

    def number(self, name: str) -> int:
        """Of the entry of this name, in the order of adding."""
        return self._numbers[self.entry(name).name]

    def _load(self, record: Record, entries: list[AtlasEntry] | None = None) -> None:
        self._record, self._segments = record, Segments(self.folder, record.segments)
        self.entries = self._segments.entries() if entries is None else entries
        self._numbers = {entry.name: number for number, entry in enumerate(self.entries)}
        self._views: dict[tuple[str, str], View] = {}
        self.__dict__.pop("describer", None)

    def _lens(self, descriptor: str, group: str) -> Lens:
        describer = self.describer
        if descriptor == POOLED:
            if group != ALL:
                raise AtlasError(
                    "pooled spectra, the only thing that base models have in common, are of all layers, not of "
                    f"{group}. Leave --group out."
                )
            return Lens(POOLED, group, np.arange(POOLED_WIDTH))
        if descriptor not in describer.descriptors:
            raise AtlasError(
                f"the atlas at {self.folder} keeps no {descriptor!r}, but {', '.join(describer.descriptors)}. "
                "What it keeps was settled by its first add: 'factors' needs 'lorax atlas add PATH --with-factors'."
            )
        return Lens(descriptor, group, describer.columns(descriptor, group))


_BASES = "bases"


def remove(atlas_dir: Path, is_gone: Callable[[AtlasEntry], bool]) -> list[str]:
    """Remove entries and all that was derived of them; returns their names. Nothing happens where there is no atlas.

    Args:
        atlas_dir: the atlas's folder.
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
