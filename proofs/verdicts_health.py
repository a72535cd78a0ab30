"""How long /health takes to answer while `lorax serve` unpacks large images of the kinds that are dearest.

Other load on the machine counts here, so how long /health takes at rest is printed first.
"""

from __future__ import annotations

import http.client
import io
import statistics
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from proofs.bench import land_tiny, lorax, new_workspace, versions
from proofs.verdicts_fuzz import as_form, as_json, send
from proofs.verdicts_server import HOME, Running, serving

SIDE = 7000
LIMIT_MS, EVERY_S, REST_S, LONG_S = 200.0, 0.002, 5.0, 120.0
_TURNED = {274: 6}

KINDS: dict[str, Callable[[], bytes]] = {
    "PNG, 16 bit, a transparent colour": lambda: _png(colours=3),
    "PNG, 16 bit grey, a transparent one": lambda: _png(colours=1),
    "PNG, 8 bit, a transparent colour": lambda: _saved(_pattern("RGB"), "png", transparency=(1, 2, 3)),
    "PNG, alpha": lambda: _saved(_pattern("RGBA"), "png"),
    "JPEG, CMYK": lambda: _saved(_pattern("CMYK"), "jpeg"),
    "TIFF, CMYK": lambda: _saved(_pattern("CMYK"), "tiff", compression="tiff_deflate"),
    "TIFF, turned": lambda: _saved(_pattern("RGB"), "tiff", compression="tiff_deflate", tiffinfo=_TURNED),
    "TIFF, floating point, turned": lambda: _saved(_pattern("F"), "tiff", compression="tiff_deflate", tiffinfo=_TURNED),
    "TIFF, CIE Lab": lambda: _saved(_pattern("LAB"), "tiff", compression="tiff_deflate"),
    "WebP, alpha": lambda: _saved(Image.new("RGBA", (SIDE, SIDE), (9, 99, 9, 99)), "webp"),
    "AVIF, alpha": lambda: _saved(Image.new("RGBA", (SIDE, SIDE), (9, 99, 9, 99)), "avif", speed=10),
    "JPEG 2000": lambda: _saved(Image.new("RGB", (SIDE, SIDE)), "jpeg2000"),
    "GIF": lambda: _saved(_pattern("P"), "gif"),
}
"""Of 49 megapixels each, and within the limits as they come."""


def prove_health(root: Path | None = None) -> bool:
    """/health while 49 megapixels are unpacked: at most 200 ms, whatever the format."""
    root = root or _workspace()
    try:
        with serving(root) as running:
            return _watch_all(running)
    finally:
        lorax("down", cwd=root)


def _workspace() -> Path:
    """One whose version learned a task of a few images: what is unpacked is as large all the same."""
    root = HOME / "health"
    if not (root / "params.yaml").is_file() or not versions(root):
        HOME.mkdir(parents=True, exist_ok=True)
        root = new_workspace(HOME, root.name, tiny=True)
        land_tiny(root, "alpha")
        lorax("learn", cwd=root)
    lorax("up", "--no-worker", cwd=root)
    return root


def _watch_all(running: Running) -> bool:
    print(f"{'milliseconds until /health answered':38} {'MB':>5} {'sent as':>7} {'count':>5} {'p50':>6} {'max':>6}")
    with _watched(running) as rest:
        time.sleep(REST_S)
    _print("at rest", 0, "", rest)
    worst, failed = 0.0, 0
    for kind, make in KINDS.items():
        data = make()
        for way, build in (("form", as_form), ("base64", as_json)):
            request = build([data])
            with _watched(running) as waits:
                status = send(running, request, LONG_S)
            _print(kind, len(data), way, waits, "" if status == "200" else f"  status {status}")
            worst, failed = max(worst, *waits), failed + (status != "200")
    print(f"worst {worst:.0f} ms (asked: under {LIMIT_MS:.0f}); images not judged: {failed}")
    return worst < LIMIT_MS and not failed


@contextmanager
def _watched(running: Running) -> Iterator[list[float]]:
    """Ask for /health again and again during the block; yields the milliseconds that the answers took."""
    address, waits, is_over = urlsplit(running.address), [], False

    def ask() -> None:
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=LONG_S)
        while not is_over:
            began = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            waits.append(1000 * (time.perf_counter() - began))
            time.sleep(EVERY_S)
        connection.close()

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield waits
        finally:
            is_over = True
            asking.result()


def _print(kind: str, size: int, way: str, waits: list[float], note: str = "") -> None:
    middle, most = statistics.median(waits), max(waits)
    print(f"{kind:38} {size / 1e6:>5.1f} {way:>7} {len(waits):>5} {middle:>6.1f} {most:>6.1f}{note}", flush=True)


def _pattern(mode: str) -> Image.Image:
    """Something to see that packs well."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.uint16)
    grey = Image.fromarray(((rows + columns) % 70 * 3).astype(np.uint8))
    if mode in {"P", "F"}:
        return grey.convert(mode)
    return Image.merge(mode, [grey] * len(Image.new(mode, (1, 1)).getbands()))


def _png(colours: int) -> bytes:
    """Of 16 bits, with a transparent colour."""
    line = np.random.default_rng(0).integers(0, 256, 2 * colours * SIDE // 70, np.uint8).tobytes() * 70
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2 if colours == 3 else 0, 0, 0, 0)
    chunks = {b"IHDR": head, b"tRNS": line[: 2 * colours], b"IDAT": zlib.compress((b"\0" + line) * SIDE), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
