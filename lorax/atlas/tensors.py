"""A safetensors file from a stranger: its header is read and checked at once, its tensors when they are asked for.

The safetensors library would map the file into memory, where one that is cut short kills the process; it takes a name
that stands twice, its errors don't say what to do, and it copies each tensor for itself. So it isn't asked.

Source: the format's own description (huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorax.errors import AdapterError

MOST_BYTES = 8 * 2**30
"""Of a whole file: more is no LoRA, and would have to fit into memory."""

_MOST_HEADER = 16 * 2**20
_MOST_NAME = 400
_MOST_CONFIG = 2**20
_METADATA = "__metadata__"
_METADATA_FIRST = '{"__metadata__":{'
_LENGTH = 8  # bytes at the start that say how long the header is

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

_OTHER_FILES = {
    b"PK\x03\x04": "a zip archive, as torch.save writes them: pickles, which are never opened",
    **{bytes((0x80, protocol)): "a pickle, which is never opened" for protocol in (2, 3, 4, 5)},
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a NumPy file",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a pointer of git-lfs, not the file itself (fetch it with 'git lfs pull')",
    b"<": "a web page, not the file itself",
}
"""How files begin that are often found under this name -> what they are."""

_AGAIN = "Fetch it again, or leave this adapter out."


class Stored(NamedTuple):  # made by the hundred for each file, in a third of a dataclass's time
    """What a header says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class Run(NamedTuple):
    """Tensors of one type that lie behind each other in a file."""

    dtype: torch.dtype
    start: int  # behind the header, in bytes
    names: list[str]
    shapes: list[tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Header:
    """What a file's header says, but for metadata at its beginning; one object for all files that say the same."""

    tensors: Mapping[str, Stored]  # by name, in the header's order
    runs: Sequence[Run]  # all of them, in the file's order
    size: int  # of all tensors, in bytes
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class TensorFile:
    """A file whose header was read and found good."""

    path: Path  # of the file
    header: Header
    beginning: bytes  # of the file, up to its tensors
    metadata: Mapping[str, str]  # free text by key

    def read(self) -> dict[str, Tensor]:
        """All tensors by name; floating-point numbers have at least float32.

        Raises:
            AdapterError: the file can't be read, or was changed since it was opened.
        """
        whole = torch.empty(self.header.size + 1, dtype=torch.uint8)
        with adapter_errors(self.path), self.path.open("rb") as file:
            beginning, there = file.read(len(self.beginning)), file.readinto(whole.numpy().data)
        if beginning != self.beginning or there != self.header.size:
            raise AdapterError(f"{self.path} was changed while it was read. Run again when it is whole.")
        tensors: dict[str, Tensor] = {}
        for run in self.header.runs:  # turned into float32 in one go
            sizes = [prod(shape) for shape in run.shapes]
            numbers = whole[run.start : run.start + sum(sizes) * run.dtype.itemsize]
            aligned = numbers.clone() if run.start % run.dtype.itemsize else numbers
            parts = at_least_float32(aligned.view(run.dtype)).split(sizes)
            tensors |= {n: part.view(shape) for n, part, shape in zip(run.names, parts, run.shapes, strict=True)}
        return tensors


def at_least_float32(numbers: Tensor) -> Tensor:
    """The same numbers; integers as they are."""
    return numbers.float() if numbers.is_floating_point() and numbers.dtype.itemsize < 4 else numbers


def open_tensors(path: Path) -> TensorFile:
    """Read a safetensors file's header, and check it against the file's size.

    Raises:
        AdapterError: it can't be read, is no safetensors file, or is damaged.
    """
    with adapter_errors(path):
        if not path.is_file():  # a pipe or a device would never end
            raise AdapterError(f"{path} is no file. Expected a safetensors file.")
        file = path.open("rb")
    with adapter_errors(path), file:
        size, first = os.fstat(file.fileno()).st_size, file.read(64)
        length = int.from_bytes(first[:_LENGTH], "little")
        if size > MOST_BYTES:
            raise AdapterError(
                f"{path} has {size / 2**30:.1f} GiB; a LoRA has less than {MOST_BYTES // 2**30} GiB. "
                "A whole model can't be compared: name a LoRA's file."
            )
        if len(first) <= _LENGTH or length > min(size - _LENGTH, _MOST_HEADER) or first[_LENGTH : _LENGTH + 1] != b"{":
            raise AdapterError(_no_safetensors(path, size, first, length))
        file.seek(0)
        beginning = file.read(_LENGTH + length)
    with said_of(f"{path}"):
        metadata, rest = _parted(beginning[_LENGTH:])
        header = _header(rest)
        if metadata and header.metadata:
            raise _damaged("its metadata stands there twice")
        metadata |= header.metadata
        if not all(isinstance(value, str) for value in metadata.values()):
            raise _damaged("its metadata is not a table of texts")
        if header.size != (there := size - _LENGTH - length):
            raise _damaged(f"its tensors take {header.size} bytes, and {there} are there")
    return TensorFile(path, header, beginning, metadata)


def _parted(text: bytes) -> tuple[dict[str, Any], str]:
    """A header's metadata, where it begins with them as most do, and all else."""
    with _json_errors(", its header,"):
        header = text.decode()
        if not header.startswith(_METADATA_FIRST):
            return {}, header
        metadata, end = _STRICT.raw_decode(header, len(_METADATA_FIRST) - 1)
    return metadata, "{" + header[end:].lstrip().removeprefix(",")


@lru_cache(maxsize=8)  # most of a collection have the same, but for metadata; few, since a stranger's may be large
def _header(text: str) -> Header:
    header = parse_json(text, ", its header,")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict):
        raise _damaged("its metadata is not a table of texts")
    tensors, starts = {}, {}
    for name, entry in header.items():
        tensors[name], starts[name] = _stored(name, entry)
    runs, end = list[Run](), 0
    for name in sorted(tensors, key=lambda name: (starts[name], prod(tensors[name].shape))):
        dtype, shape = tensors[name]
        if starts[name] != end:
            raise _damaged(f"tensor {shown(name)} begins at byte {starts[name]}, the one before it ends at {end}")
        if not runs or runs[-1].dtype != dtype:
            runs.append(Run(dtype, end, [], []))
        runs[-1].names.append(name)
        runs[-1].shapes.append(shape)
        end += prod(shape) * dtype.itemsize
    return Header(tensors, runs, end, metadata)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file that holds one object.

    Raises:
        AdapterError: it can't be read, is too large, or is something else.
    """
    with adapter_errors(path), path.open("rb") as file:
        text = file.read(_MOST_CONFIG + 1)
    if len(text) > _MOST_CONFIG:
        raise AdapterError(f"{path} has more than {_MOST_CONFIG // 2**20} MiB; expected a LoRA's settings. {_AGAIN}")
    with said_of(f"{path}"):
        return parse_json(text)


def parse_json(text: str | bytes, what: str = "") -> dict[str, Any]:
    """One JSON object, strictly: no key twice, no NaN.

    Args:
        what: it is, for the message.

    Raises:
        AdapterError: it is something else. See `said_of`.
    """
    with _json_errors(what):
        value = _STRICT.decode(text if isinstance(text, str) else text.decode())
    if not isinstance(value, dict):
        raise AdapterError(f"{what} is damaged: JSON, but not an object. {_AGAIN}")
    return value


@contextmanager
def _json_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{what} is damaged: no JSON ({shown(str(error))}). {_AGAIN}") from error


@contextmanager
def said_of(source: str) -> Iterator[None]:
    """Put what an AdapterError from inside the block is said of before it: what is said may be so of many files."""
    try:
        yield
    except AdapterError as error:
        raise AdapterError(f"{source}{error}") from error


def shown(text: str) -> str:
    """A stranger's text as it may stand in a message: on one line, and short."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")


@contextmanager
def adapter_errors(path: Path) -> Iterator[None]:
    """Turn what the disk raises inside the block into an AdapterError that names `path`."""
    try:
        yield
    except OSError as error:
        raise AdapterError(f"{path} can't be read: {error.strerror}. Check the path and its permissions.") from error


def _no_safetensors(path: Path, size: int, first: bytes, length: int) -> str:
    other = next((what for magic, what in _OTHER_FILES.items() if first.startswith(magic)), None)
    if not size:
        what = "is empty"
    elif other:
        what = f"is {other}"
    elif len(first) < _LENGTH:
        what = f"has only {size} bytes"
    elif length > min(size - _LENGTH, _MOST_HEADER):
        what = f"claims a header of {length} bytes, but has {size} bytes, and no LoRA's header exceeds {_MOST_HEADER}"
    else:
        what = "begins with something else than a header"
    return (
        f"{path} {what}: no whole safetensors file, whatever its name says. Fetch it again, or ask its author for one."
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0][:40]} stands there twice")
    return table


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


_STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)


def _stored(name: str, entry: Any) -> tuple[Stored, int]:
    """What a header says of a tensor, and where it begins."""
    if isinstance(entry, dict) and isinstance(dtype := entry.get("dtype"), str) and dtype not in _TYPES:
        raise AdapterError(
            f": tensor {shown(name)} is of type {shown(dtype)}; expected one of {', '.join(_TYPES)}. Ask its "
            "author for a LoRA of floating-point numbers, or leave it out."
        )
    try:
        dtype, shape, (start, end) = _TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        numbers = [*shape, start, end]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(f"the entry of tensor {shown(name)} can't be understood") from error
    if {*map(type, numbers)} != {int} or min(numbers) < 0 or len(name) > _MOST_NAME or len(shape) > 8:
        raise _damaged(f"tensor {shown(name)} has an impossible name, shape or place")
    needed = prod(shape) * dtype.itemsize
    if end - start != needed:
        raise _damaged(f"tensor {shown(name)} of shape {list(shape)} needs {needed} bytes, has {end - start}")
    return Stored(dtype, tuple(shape)), start


def _damaged(why: str) -> AdapterError:
    return AdapterError(f" is damaged, or was cut short: {why}. {_AGAIN}")
