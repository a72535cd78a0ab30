"""A folder of verdicts: what is being judged by whom, the listing of its images, and the partitions that are finished.

The listing is made once and kept, a row group a partition: partitions stay what they are, whatever the source becomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lorax import drafts
from lorax.errors import ScoringError
from lorax.scoring.images import Entry
from lorax.storage import locked, read_record, storage_errors, write_record, write_whole

if TYPE_CHECKING:
    import pyarrow as pa

_MANIFEST, _LISTING = "_manifest.json", "_listing.parquet"
"""Readers of Parquet folders pass over names that begin so."""


@dataclass(frozen=True)
class Asked:
    """What a folder's verdicts are the verdicts of; the same for as long as it grows.

    Args:
        source: an absolute path, or an address.
        column: that holds a table's images, where it was named.
        size: of a partition, images.
        version: the model version's number.
        state: its learner state's digest.
        exact: whether all branches were asked, whatever the student says.
        classes: labels, in order.
    """

    source: str
    column: str | None
    size: int
    version: int
    state: str
    exact: bool
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Manifest(Asked):
    """The same, and how many images were listed."""

    images: int = 0
    format: int = 1


class Output:
    """A folder of verdicts that is being filled; held by one process."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @property
    def partitions(self) -> int:
        """How many there will be."""
        return -(-self.manifest.images // self.manifest.size)

    def path(self, number: int) -> Path:
        """Of a partition's file."""
        return self.folder / f"part-{number:06d}.parquet"

    def rows(self, number: int) -> int:
        """How many images a partition has."""
        return min(self.manifest.size, self.manifest.images - number * self.manifest.size)

    def entries(self, numbers: Iterable[int]) -> Iterator[list[Entry]]:
        """The images of partitions."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.folder / _LISTING) as listing:
            for number in numbers:
                yield [Entry(**row) for row in listing.read_row_group(number).to_pylist()]

    def finished(self) -> dict[int, Counter[str | None]]:
        """Partitions that are there and whole -> how often each verdict was given; None: that of bad images."""
        import pyarrow.parquet as pq

        found: dict[int, Counter[str | None]] = {}
        for number in range(self.partitions):
            try:
                verdicts = (
                    pq.read_table(self.path(number), columns=["verdict"], partitioning=None).column(0).to_pylist()
                )
            except (OSError, ValueError):  # not there yet, or damaged (Arrow's errors are ValueErrors)
                continue
            if len(verdicts) == self.rows(number):
                found[number] = Counter(verdicts)
        return found

    def write(self, number: int, data: bytes) -> None:
        """Write a partition, whole or not at all."""
        write_whole(self.path(number), data)


@contextmanager
def output(folder: Path, asked: Asked) -> Iterator[Output | None]:
    """A folder of verdicts as it was left, held for the block; None where it is new, and `begin` makes it.

    Raises:
        ScoringError: it holds other verdicts, or something else; or another process is filling it.
    """

    def taken() -> None:
        raise ScoringError(f"another 'lorax score' is filling {folder}. Wait for it, or name another --out.")

    with locked(folder / ".lock", taken):
        drafts.sweep(folder)
        if (folder / _MANIFEST).exists():
            yield Output(folder, _checked(folder, asked))
            return
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith((".", "_")))
        if others:
            raise ScoringError(f"{folder} holds other files, such as {others[0]}. Name a new folder as --out.")
        yield None


def begin(folder: Path, asked: Asked, entries: Iterable[Entry]) -> Output:
    """Write down what is judged: first the listing, then the manifest, with which the folder counts as begun.

    Raises:
        ScoringError: there are no images.
    """
    draft = folder / f".{_LISTING}"
    with storage_errors(folder):
        images = _write_listing(draft, entries, asked.size)
        if not images:
            draft.unlink()
            raise ScoringError(f"{asked.source} holds no images.")
        draft.replace(folder / _LISTING)
    manifest = Manifest(**{field.name: getattr(asked, field.name) for field in fields(Asked)}, images=images)
    write_record(folder / _MANIFEST, manifest)
    return Output(folder, manifest)


def _write_listing(path: Path, entries: Iterable[Entry], size: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _listing_schema()
    left, count = iter(entries), 0
    with pq.ParquetWriter(path, columns, compression="zstd") as writer:
        while part := list(islice(left, size)):
            arrays = {name: [getattr(entry, name) for entry in part] for name in columns.names}
            writer.write_table(pa.Table.from_pydict(arrays, columns), row_group_size=size)
            count += len(part)
    return count


def _listing_schema() -> pa.Schema:
    import pyarrow as pa

    types = {"name": pa.string(), "file": pa.binary(), "offset": pa.int64(), "size": pa.int64(), "problem": pa.string()}
    return pa.schema(list(types.items()))


def _checked(folder: Path, asked: Asked) -> Manifest:
    """What a folder was begun with, if that is what is asked for now."""
    try:
        manifest = read_record(Manifest, folder / _MANIFEST)
    except ValueError as error:
        raise ScoringError(f"{folder / _MANIFEST} is damaged ({error}). Name another --out.") from error
    told: dict[str, tuple[str, str, str]] = {
        "source": (manifest.source, asked.source, "go on with that one"),
        "state": (
            f"version {manifest.version}",
            f"version {asked.version}",
            f"go on with --version {manifest.version}",
        ),
        "size": (f"--partition {manifest.size}", f"{asked.size}", f"go on with --partition {manifest.size}"),
        "column": (f"image column {manifest.column}", f"{asked.column}", "go on with that one"),
        "exact": (f"serving.exact {manifest.exact}", f"{asked.exact}", "set it as it was"),
    }
    for name, (was, now, cure) in told.items():
        if getattr(manifest, name) != getattr(asked, name):
            raise ScoringError(f"{folder} was begun with {was}, not {now}: {cure}, or name another --out.")
    return manifest
