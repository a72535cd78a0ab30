"""What decoding an upload takes is what its header was charged for; measured in processes of their own."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorax.params import ServingParams
from lorax.serving.decoding import Room, decode

SIDE = 1600
SLACK = 3_000_000
"""Bytes that a process takes for other things meanwhile."""

_MEASURE = """
import os, sys
from contextlib import contextmanager
from pathlib import Path
from PIL import Image
from lorax.params import ServingParams
from lorax.serving.decoding import Room, decode

class Noted(Room):
    def taken(self, size):
        self.size = size
        return super().taken(size)

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

Image.init()
for path in sys.argv[1:]:
    if not os.fork():
        data, room, before = Path(path).read_bytes(), Noted(1), memory("VmRSS")
        decode(data, 64, ServingParams(), room)
        print(room.size, memory("VmHWM") - before, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""

GREY = np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1))
TURNED = {"compression": "tiff_deflate", "tiffinfo": {274: 6, 278: SIDE}}


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def late_transparency() -> bytes:
    """A PNG that names its transparent colour behind its pixels, where no header tells of it."""
    plain, body = encoded(np.dstack([GREY] * 3), "png"), b"tRNS" + bytes(6)
    chunk = struct.pack(">I", 6) + body + struct.pack(">I", zlib.crc32(body))
    return plain[:-12] + chunk + plain[-12:]


def tiff(fields: dict[int, int], data: bytes, *, at: int = 8, head: bytes = b"") -> bytes:
    """A grey TIFF whose directory lies at `at`, with `data` behind it and `head` between."""
    directory = struct.pack("<H", len(fields))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    return (struct.pack("<4sI", b"II*\0", at) + head).ljust(at, b"\0") + directory + bytes(4) + data


def one_tile() -> bytes:
    data = zlib.compress(bytes(SIDE**2))
    fields = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: SIDE, 323: SIDE, 324: 0, 325: len(data)}
    return tiff(fields | {324: len(tiff(fields, b""))}, data)


KINDS: dict[str, Callable[[], bytes]] = {
    "grey PNG": lambda: encoded(GREY, "png"),
    "RGB JPEG": lambda: encoded(np.dstack([GREY] * 3), "jpeg"),
    "RGBA PNG": lambda: encoded(np.dstack([GREY] * 4), "png"),
    "RGB PNG, transparent colour at the end": late_transparency,
    "I;16 PNG": lambda: encoded(GREY.astype(np.uint16), "png"),
    "I TIFF, turned": lambda: encoded(GREY.astype(np.int32), "tiff", **TURNED),
    "F TIFF, turned": lambda: encoded(GREY.astype(np.float32), "tiff", **TURNED),
    "RGB TIFF, turned": lambda: encoded(np.dstack([GREY] * 3), "tiff", **TURNED),
    "RGBA WebP": lambda: encoded(np.dstack([GREY] * 4), "webp", lossless=True, method=0),
    "RGB AVIF": lambda: encoded(np.dstack([GREY] * 3), "avif", speed=10, subsampling="4:4:4"),
    "a TIFF in one tile of which it is a corner": one_tile,
    "one long row": lambda: encoded(GREY.reshape(1, -1), "tiff"),
}


def test_decoding_takes_no_more_than_it_is_charged(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(len(KINDS))]
    for path, make in zip(paths, KINDS.values(), strict=True):
        path.write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, paths)], check=True, capture_output=True, text=True
    )
    found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    per_pixel = {
        kind: (charged / SIDE**2, grown / SIDE**2) for kind, (charged, grown) in zip(KINDS, found, strict=True)
    }
    assert {kind: two for kind, two in per_pixel.items() if two[1] > two[0] + SLACK / SIDE**2} == {}


_KEEP = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from lorax.params import ServingParams
from lorax.serving.decoding import Room, decode
from lorax.serving.unpacking import give_back_what_is_freed

def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

give_back_what_is_freed()
images, room = [Path(path).read_bytes() for path in sys.argv[1:]], Room(1)
for image in images:  # what is imported on the way
    decode(image, 64, ServingParams(), room)
before = memory()
for _ in range(3):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda image: decode(image, 64, ServingParams(), room), images))
print(memory() - before)
"""


def test_memory_of_decoded_images_is_given_back(tmp_path: Path) -> None:
    paths = [tmp_path / f"{side}.png" for side in (1600, 1800, 2000, 2200)]
    for path, side in zip(paths, (1600, 1800, 2000, 2200), strict=True):
        Image.new("RGBA", (side, side), (9, 9, 9, 99)).save(path)
    done = subprocess.run([sys.executable, "-c", _KEEP, *map(str, paths)], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 2 * SLACK


def test_a_file_is_decoded_as_the_format_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TIFF of 2 x 2 pixels that Pillow, free to choose, takes for an animation of 6000 x 6000."""
    at = 0x1AF11
    Image.init()
    monkeypatch.setattr(Image, "ID", sorted(Image.ID, key=lambda kind: kind != "FLI"))  # else as they were imported
    fields = {256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 273: 256, 277: 1, 278: 2, 279: 4}
    data = tiff(fields, b"", at=at, head=struct.pack("<HH", 6000, 6000).ljust(248, b"\0") + b"\x07" * 4)
    with Image.open(io.BytesIO(data)) as chosen:
        assert (chosen.format, chosen.size) == ("FLI", (6000, 6000))
    assert np.unique(decode(data, 8, ServingParams(), Room(10**9))).tolist() == [7]
