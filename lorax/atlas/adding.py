"""How adapters come into an atlas: each is judged, described and written; the atlas knows of them all, or of none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from lorax.atlas.adapter import Adapter, Factors, digest_of
from lorax.atlas.descriptor import Describer, pooled_spectrum
from lorax.atlas.known import AlreadyThereError, Known
from lorax.atlas.record import Record, read_record
from lorax.atlas.segments import (
    ADAPTER,
    BRANCH,
    DERIVED,
    AtlasEntry,
    Segment,
    Segments,
    now,
    remove_leftovers,
    write_segment,
)
from lorax.atlas.space import Rows
from lorax.atlas.view import POOLED
from lorax.environment import keep_freed_memory
from lorax.errors import AdapterError, AtlasError, printable

MARKS = "marks"
"""The kind of rows that `Known` tells duplicates by."""

_SEGMENT_ENTRIES = 256
_SEGMENT_BYTES = 2**26


class Newcomers:
    """One call's additions. Memory is bounded: what is described goes to disk in segments that nothing names yet."""

    def __init__(
        self, atlas_dir: Path, record: Record, entries: Sequence[AtlasEntry], descriptors: Sequence[str]
    ) -> None:
        keep_freed_memory()  # each adapter takes megabytes, one after the other
        self._dir, self._record, self._descriptors = atlas_dir, record, descriptors
        held = Segments(atlas_dir, record.segments)
        self._known, self._held = Known(entries, held.blocks(MARKS), self._product), len(entries)
        self._describer = Describer.from_record(record.describer) if record.describer else None
        held.check_widths(self._describer.widths if self._describer else {})
        lacking = set(descriptors) - set(self._describer.descriptors if self._describer else descriptors)
        if lacking:
            raise AtlasError(
                f"the atlas at {atlas_dir} keeps no {', '.join(lacking)}: that was settled by its first add. "
                "Make a new atlas with 'lorax atlas add PATH --with-factors'."
            )
        self._waiting: list[AtlasEntry] = []
        self._rows: dict[str, Rows] = {}  # of those that wait, and room for more
        self._written: list[Segment] = []
        self.added: list[AtlasEntry] = []
        self.refused: list[str] = []

    def offer(self, adapter: Adapter, label: str | None = None) -> AtlasEntry:
        """Take an adapter in.

        Args:
            adapter: its factors are read now.
            label: what it is known to have learned; its own, if not given.

        Raises:
            AdapterError: it is damaged, has other layers or another base model, or is in the atlas already.
            StorageError: the disk is full.
        """
        describer = self._describer or Describer(adapter.layers, self._descriptors)
        describer.check(adapter)
        check_base(self._record.base, adapter)
        factors, lost = adapter.read()  # whether they are finite, their rows tell
        digest = digest_of(adapter.layers, factors)
        self._known.check(digest, adapter.source)  # to describe it takes far longer
        rows = rows_of(adapter, describer, describer.descriptors, factors)
        if not rows["product"].any():
            raise untrained(adapter)
        rows[POOLED] = pooled_spectrum(adapter.layers, rows["spectrum"])
        length = math.sqrt(np.square(rows["product"].astype(np.float64)).sum())  # norm would start BLAS's threads
        entry, rows[MARKS] = self._known.take(_entry(adapter, digest, length, label, lost), rows["product"])
        base = self._record.base or adapter.base or ""
        self._describer, self._record = describer, self._record.model_copy(update={"base": base})
        room = min(_SEGMENT_ENTRIES, 1 + _SEGMENT_BYTES // sum(row.nbytes for row in rows.values()))
        for kind, row in rows.items():  # kept one by one they would cut up the memory in which adapters are read
            self._rows.setdefault(kind, np.empty((room, len(row)), np.float32))[len(self._waiting)] = row
        self._waiting.append(entry)
        self.added.append(entry)
        if len(self._waiting) >= room:
            self._flush()
        return entry

    def offer_all(
        self, adapters: Iterable[Adapter], labels: Mapping[str, str] | None = None, *, missing_only: bool = False
    ) -> None:
        """Take adapters in, and note those that are refused.

        Args:
            adapters: read one after the other.
            labels: by an adapter's name, where they are not its own.
            missing_only: pass over those that are there already.

        Raises:
            StorageError: the disk is full.
        """
        for adapter in adapters:
            with self.judging(), suppress(*([AlreadyThereError] if missing_only else [])):
                self.offer(adapter, (labels or {}).get(adapter.name))

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Note an AdapterError of the block among the refused, and go on."""
        try:
            yield
        except AdapterError as error:
            self.refused.append(printable(str(error)))

    def finish(self, *, keep_going: bool = False) -> Record:
        """Make all that was added known to the atlas.

        Args:
            keep_going: also if some were refused.

        Returns:
            The atlas's revision with them.

        Raises:
            AdapterError: some were refused; each is named, and the atlas is as it was.
            StorageError: the disk is full; the atlas is as it was.
        """
        if self.refused and not keep_going:
            raise AdapterError(refusal(self.refused, len(self.added)))
        if not self.added:
            return self._record
        self._flush()
        assert self._describer is not None
        record = Record(
            describer=self._describer.record(),
            base=self._record.base,
            segments=(*self._record.segments, *self._written),
            revision=self._record.revision + 1,
        )
        record.write(self._dir)
        return record

    def discard(self) -> None:
        """Remove what was written and did not become known; an interruption may come after it did."""
        if self._written:
            remove_leftovers(self._dir, read_record(self._dir).segments)

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = {kind: matrix[: len(self._waiting)] for kind, matrix in self._rows.items()}
        number = len(self._record.segments) + len(self._written) + 1
        self._written.append(write_segment(self._dir, number, self._waiting, rows))
        self._waiting.clear()

    def _product(self, number: int) -> Rows:
        """The product row (F,) of an entry of the atlas, or of this add."""
        waiting = number - self._held - len(self.added) + len(self._waiting)
        if waiting >= 0:
            return np.asarray(self._rows["product"][waiting])
        return Segments(self._dir, (*self._record.segments, *self._written)).row("product", number)


def refusal(refused: Sequence[str], others: int) -> str:
    """What is said of an add of which nothing comes.

    Args:
        refused: why, a message each; one at least.
    """
    if len(refused) == 1 and not others:
        return refused[0]
    lines = "\n".join(f"- {reason}" for reason in refused)
    were = f"{len(refused)} {'was' if len(refused) == 1 else 'were'} refused, so nothing was added"
    return f"{were} ('--keep-going' adds the other {others}):\n{lines}" if others else f"{were}:\n{lines}"


def check_base(expected: str, adapter: Adapter) -> None:
    """Refuse an adapter that states another base model than the atlas's adapters; what states none may pass.

    Raises:
        AdapterError: it does.
    """
    if expected and adapter.base and adapter.base != expected:
        raise AdapterError(
            f"{adapter.source} states the base model {adapter.base!r}, the atlas's adapters {expected!r}. If both "
            "names are one model's, say '--base NAME'. Else it belongs in an atlas of its own (--atlas DIR), or is "
            "compared through its spectrum: 'lorax atlas search PATH --descriptor spectrum'."
        )


def _entry(adapter: Adapter, digest: str, length: float, label: str | None, lost: float) -> AtlasEntry:
    return AtlasEntry(
        digest=digest,
        name=printable(adapter.name),
        label=printable(adapter.label if label is None else label),
        kind=DERIVED if adapter.start else BRANCH if adapter.format == BRANCH else ADAPTER,
        source=printable(adapter.source),
        format=adapter.format,
        base=adapter.base or (f"{adapter.guess} (by its layers)" if adapter.guess else ""),
        rank=max(layer.rank for layer in adapter.layers),
        length=length,
        added=now(),
        algorithm=adapter.algorithm,
        lost=lost,
    )


def rows_of(
    adapter: Adapter, describer: Describer, descriptors: Sequence[str], factors: Sequence[Factors] | None = None
) -> dict[str, Rows]:
    """An adapter's rows (F,) by descriptor, as an atlas keeps them.

    Args:
        factors: the adapter's, where they have been read.

    Raises:
        AdapterError: its file is damaged, a number is not finite, or so large that rows are not.
    """
    factors = factors or adapter.read().factors
    with finite_numbers(adapter):
        tensors = describer.describe(factors, descriptors)
    rows = {kind: row.float().numpy() for kind, row in tensors.items()}
    if not all(np.isfinite(row).all() for row in rows.values()):
        adapter.check(factors)
        raise too_large(adapter)
    return rows


@contextmanager
def finite_numbers(adapter: Adapter) -> Iterator[None]:
    """Refuse an adapter of finite numbers whose products, computed in the block, are not."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except np.linalg.LinAlgError as error:
        raise too_large(adapter) from error


def too_large(adapter: Adapter) -> AdapterError:
    """What is said of it."""
    return AdapterError(f"{adapter.source}: its numbers are too large to be compared. Leave this adapter out.")


def untrained(adapter: Adapter) -> AdapterError:
    """What is said of it."""
    return AdapterError(
        f"{adapter.source}: its product B A is zero in every layer, as before training; expected a trained LoRA."
    )
