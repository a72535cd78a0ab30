"""An atlas elsewhere: in another folder, or wherever fsspec reaches, such as s3://BUCKET/NAME.

Segments never change, so one that is there already isn't copied again, and atlas.json comes last: who reads meanwhile,
and a copy that was cut short, see the revision before.
"""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lorax.atlas.record import FILE, Record, read_record
from lorax.atlas.segments import Segment, Segments, remove_leftovers
from lorax.data.images import Progress
from lorax.errors import AtlasError, LoraxError, printable
from lorax.extras import extra, install
from lorax.storage import locked, storage_errors, whole_directory


def export_atlas(
    atlas_dir: Path, address: str, progress: Progress, on_wait: Callable[[], None] = lambda: None
) -> Record:
    """Bring what is there to this atlas's revision; returns that.

    Args:
        atlas_dir: of the atlas.
        address: where to: a folder, or a URL that fsspec knows; what lies there is an older revision, or nothing.
        progress: told after each segment.
        on_wait: called if another writes to the atlas, before waiting for it.

    Raises:
        AtlasError: the atlas is empty or damaged, something else lies there, or it can't be reached.
    """
    told = printable(address)
    with locked(atlas_dir / "atlas.lock", on_wait):
        record = read_record(atlas_dir)
        if not record.segments:
            raise AtlasError(f"the atlas at {atlas_dir} holds nothing yet: 'lorax atlas add PATH'.")
        own = Segments(atlas_dir, record.segments)
        with _reached(address) as (fs, place):
            from fsspec.implementations.local import LocalFileSystem

            _check_grows(_record_at(fs, place, told), record, told, f"{atlas_dir}")
            for number, segment in enumerate(record.segments):
                progress(number, len(record.segments), "copying")
                folder = f"{place}/segments/{segment.name}"
                if isinstance(fs, LocalFileSystem):  # elsewhere there are no folders, and s3fs would make the bucket
                    fs.makedirs(folder, exist_ok=True)
                for file in segment.files:
                    data = own.read(segment, file)
                    if not fs.exists(f"{folder}/{file}") or fs.size(f"{folder}/{file}") != len(data):
                        _put(fs, f"{folder}/{file}", data)
            _put(fs, f"{place}/{FILE}", (atlas_dir / FILE).read_bytes())
            progress(len(record.segments), len(record.segments), "copying")
    return record


def import_atlas(
    address: str, atlas_dir: Path, progress: Progress, on_wait: Callable[[], None] = lambda: None
) -> Record:
    """Bring an atlas, or one's own older revision, to the revision there; returns that.

    Args:
        address: as for `export_atlas`.
        atlas_dir: of the atlas; begun if it isn't there.
        progress: told after each segment.
        on_wait: as for `export_atlas`.

    Raises:
        AtlasError: nothing lies there, it is damaged or can't be reached, or the atlas here is another one.
        StorageError: the disk is full; the atlas is as it was.
    """
    read_record(atlas_dir)  # refuses a folder of something else before anything is written to it
    told = printable(address)
    with _reached(address) as (fs, place):
        record = _record_at(fs, place, told)
        if not record.segments:
            raise AtlasError(f"{told} holds no atlas. Check the address; 'lorax atlas export' brings one there.")
        with locked(atlas_dir / "atlas.lock", on_wait), storage_errors(atlas_dir):
            own = read_record(atlas_dir)
            _check_grows(own, record, str(atlas_dir), told)
            remove_leftovers(atlas_dir, own.segments)
            begun = not (atlas_dir / FILE).exists()
            if begun:
                own.write(atlas_dir)  # before any segment: where there are some and no record, it was lost
            try:
                for number, segment in enumerate(record.segments):
                    progress(number, len(record.segments), "copying")
                    if segment not in own.segments:
                        _fetch(fs, place, segment, atlas_dir, told)
                record.write(atlas_dir)
            except BaseException:
                _undo(atlas_dir, own, begun)
                raise
            progress(len(record.segments), len(record.segments), "copying")
    return record


def _fetch(fs: Any, place: str, segment: Segment, atlas_dir: Path, address: str) -> None:
    with whole_directory(atlas_dir / "segments" / segment.name) as draft:
        for file, expected in segment.files.items():
            try:
                data = fs.cat_file(f"{place}/segments/{segment.name}/{file}")
            except FileNotFoundError:
                data = b""
            if hashlib.sha256(data).hexdigest() != expected:
                raise AtlasError(
                    f"{address}: segments/{segment.name}/{file} is missing or damaged: its sha256 is not what {FILE} "
                    "says. Remove it there and export the atlas again, from where it is whole."
                )
            (draft / file).write_bytes(data)


def _undo(atlas_dir: Path, own: Record, begun: bool) -> None:
    """Leave an atlas as it was before an import; an interruption may come after the import became known."""
    if read_record(atlas_dir) == own:
        remove_leftovers(atlas_dir, own.segments)
        if begun:
            (atlas_dir / FILE).unlink()


def _check_grows(older: Record, newer: Record, there: str, here: str) -> None:
    """Refuse to put one atlas in another's place: entries are only ever added."""
    if newer.segments[: len(older.segments)] != older.segments:
        raise AtlasError(
            f"{there} holds what {here} does not: it is another atlas, or has grown since. Name another place, or "
            "bring its entries here first: 'lorax atlas import' into a new folder."
        )


def _record_at(fs: Any, place: str, address: str) -> Record:
    """The revision there; an empty one where nothing lies."""
    with tempfile.TemporaryDirectory() as folder:
        with suppress(FileNotFoundError):
            Path(folder, FILE).write_bytes(fs.cat_file(f"{place}/{FILE}"))
        if not Path(folder, FILE).exists() and fs.exists(place):
            names = [entry["name"].rstrip("/").rpartition("/")[2] for entry in fs.ls(place, detail=True)]
            if others := sorted(name for name in names if name != "segments" and not name.startswith(".")):
                raise AtlasError(f"{address} is no atlas: it has no {FILE}, but {others[0]!r}. Name a new place.")
        try:
            return read_record(Path(folder))
        except AtlasError as error:
            raise AtlasError(str(error).replace(folder, address)) from error


def _put(fs: Any, path: str, data: bytes) -> None:
    """Whole or not at all, on a disk too."""
    folder, _, name = path.rpartition("/")
    draft = f"{folder}/.{name}-{secrets.token_hex(4)}"
    fs.pipe_file(draft, data)
    fs.mv(draft, path)


@contextmanager
def _reached(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address, and the place there; what goes wrong with it in the block is told as one error."""
    with extra("atlas", "copying an atlas"):
        import fsspec

    told = printable(address)
    try:
        fs, place = fsspec.url_to_fs(address)
        yield fs, str(place).rstrip("/")
    except LoraxError:  # of the disk here, say
        raise
    except ImportError as error:
        raise AtlasError(f"{told} needs a package that is not installed: {error}. For S3: {install('s3')}.") from error
    except Exception as error:  # whatever storage libraries raise
        said = printable(str(error)) or type(error).__name__
        raise AtlasError(f"{told} can't be used: {said}. Check the address, and who may write there.") from error
