"""Fuzzed uploads: mutated images and mutated requests, thousands of them, from a fixed seed."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from lorax.params import load_params
from proofs.bench import lorax
from proofs.verdicts_server import Running, serving, workspace_of_two

IMAGES, LARGE, REQUESTS, CLIENTS, SEED = 2400, 6, 1200, 8, 0
PATIENCE_S, LONG_S = 5.0, 60.0
"""How long an answer is waited for before the request is taken to be one that breaks off; where large images queue."""

LARGE_SIDE = 6000
"""Of images of a few kB each that nearly fill `serving.memory_mb` while they are decoded: two at once are too many."""

FLAT_MB = 60.0
"""Growth of memory after a warm-up third that counts as none: what allocators keep of the largest image so far."""

_PATH = "/v1/verdicts"
_BOUNDARY = b"lorax-fuzz"
_FORMATS = ("png", "jpeg", "webp", "gif", "bmp", "tiff", "avif", "jpeg2000", "ppm", "ico", "tga", "eps", "pdf")
_ODD = (
    ("L", "png"), ("P", "gif"), ("RGBA", "webp"), ("RGBA", "png"), ("CMYK", "jpeg"), ("1", "tiff"), ("I;16", "tiff"),
    ("I;16", "png"), ("F", "tiff"),
)  # fmt: skip
_NO_ANSWER = "no answer"

Request = bytes
"""A whole HTTP request, as it goes over the wire."""


def prove_fuzz(root: Path | None = None) -> bool:
    """Mutated images and requests: no crash, no 5xx, memory flat."""
    root = workspace_of_two(root)
    try:
        return _fuzz(root)
    finally:
        lorax("down", cwd=root)


def _fuzz(root: Path) -> bool:
    with serving(root) as running:
        print(f"{IMAGES} mutated and {LARGE} large images, {REQUESTS} mutated requests, {CLIENTS} clients, seed {SEED}")
        passed = _send_all("images", running, _mutated_images(IMAGES), may_break_off=False)
        passed &= _send_large(running, load_params(root / "params.yaml").serving.memory_mb)
        passed &= _send_all("requests", running, _mutated_requests(REQUESTS), may_break_off=True)
        health = running.get("/health")["status"]
        refused = [line for line in running.get("/metrics").splitlines() if line.startswith("lorax_refused_total")]
        is_alive = running.process.poll() is None
        traceback = "Traceback" in running.log.read_text()
    print("\n".join(f"  {line}" for line in refused))
    print(f"server alive: {is_alive}, health: {health}, tracebacks in its log: {'yes' if traceback else 'none'}")
    return passed and is_alive and health == "ok" and not traceback


def _send_all(what: str, running: Running, requests: Iterator[Request], *, may_break_off: bool) -> bool:
    """Send them in three thirds; the first warms up.

    Args:
        what: they are called.
        running: the server.
        requests: what to send.
        may_break_off: some may announce more than they send, and have no answer.
    """
    every = list(requests)
    third = -(-len(every) // 3)
    statuses: Counter[str] = Counter()
    memory = [running.rss_mb]
    with ThreadPoolExecutor(CLIENTS) as pool:
        for start in range(0, len(every), third):
            statuses.update(pool.map(lambda request: send(running, request), every[start : start + third]))
            memory.append(running.rss_mb)
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    print(f"{what}: {counts}")
    print(f"{what}: memory {' -> '.join(f'{mb:.0f}' for mb in memory)} MB (at first, then after each third)")
    failed = [status for status in statuses if status.startswith("5")]
    failed += [] if may_break_off else [_NO_ANSWER] * statuses[_NO_ANSWER]
    return not failed and memory[-1] - memory[1] < FLAT_MB


def _send_large(running: Running, allowed_mb: float) -> bool:
    """Send whole images of the modes that are dearest to decode; all are judged, and in turn.

    Args:
        running: the server.
        allowed_mb: megabytes that decoding may take.
    """
    images, before = _large_images(), running.rss_mb
    requests = [as_form([images[number % len(images)]]) for number in range(LARGE)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        statuses = Counter(pool.map(lambda request: send(running, request, LONG_S), requests))
    grown, limit = running.peak_mb - before, allowed_mb * 10**6 / 2**20 + FLAT_MB
    print(f"large images: {dict(statuses)}, memory at most {grown:.0f} MB more meanwhile (< {limit:.0f})")
    return statuses == {"200": LARGE} and grown < limit


def send(running: Running, request: Request, patience_s: float = PATIENCE_S) -> str:
    """The status of the answer. Where none comes, the server is told that no more of the request will."""
    address = urlsplit(running.address)
    try:
        with socket.create_connection((address.hostname, address.port), timeout=patience_s) as connection:
            connection.sendall(request)
            try:
                answer = connection.recv(64)
            except TimeoutError:
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(64)
    except (ConnectionError, TimeoutError):
        return _NO_ANSWER
    return answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else _NO_ANSWER


def _mutated_images(count: int) -> Iterator[Request]:
    """One image a request: in a form, or in base64."""
    draw, seeds = random.Random(SEED), _seeds()
    for number in range(count):
        data = _mutated(draw, seeds)
        yield as_json([data]) if number % 4 == 0 else as_form([data])


def _mutated_requests(count: int) -> Iterator[Request]:
    """Whole requests of one to three good images, damaged anywhere: in the body, in its head, or both."""
    draw, seeds = random.Random(SEED + 1), _seeds()
    for number in range(count):
        build = as_json if number % 2 else as_form
        head, _, body = build(draw.choices(seeds[:5], k=draw.randint(1, 3))).partition(b"\r\n\r\n")
        if number % 3 != 0:
            body = _mutation(draw, body, seeds)
            head = _with_length(head, len(body))
        if number % 3 != 1:
            head = _mutation(draw, head, seeds)
        yield head + b"\r\n\r\n" + body


def _seeds() -> list[bytes]:
    """Small images in every format that Pillow writes here, animations, odd modes, and what is no image."""
    pixels = np.random.default_rng(SEED).integers(0, 256, (48, 56, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = [_saved(image, kind) for kind in _FORMATS]
    found += [_saved(image.convert(mode), kind) for mode, kind in _ODD]
    found.append(_saved(image, "jpeg", progressive=True))
    found.append(_saved(image, "gif", save_all=True, append_images=[image.rotate(90), image.rotate(180)]))
    found.append(_saved(image, "tiff", compression="tiff_lzw"))
    return [*found, b"<html><script>1</script></html>", b"PK\x03\x04" + bytes(99), b"%!PS\n", b"GIF89a", b""]


def _large_images() -> list[bytes]:
    """One with alpha, one of 16 bits, one in floating point."""
    side = LARGE_SIDE
    return [
        _saved(Image.new("RGBA", (side, side), (9, 9, 9, 99)), "png"),
        _saved(Image.new("I;16", (side, side), 999), "png"),
        _saved(Image.new("F", (side, side * 2 // 3), 0.5), "tiff", compression="tiff_deflate"),
    ]


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _mutated(draw: random.Random, seeds: list[bytes]) -> bytes:
    data = draw.choice(seeds)
    for _ in range(draw.randint(1, 4)):
        data = _mutation(draw, data, seeds)
    return data


def _mutation(draw: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """Damage bytes in one way."""
    changed = bytearray(data)
    at, to = sorted((draw.randint(0, len(data)), draw.randint(0, len(data))))
    early = draw.randint(0, min(64, len(data)))
    ways: list[Callable[[], object]] = [
        lambda: changed.__delitem__(slice(at, None)),
        lambda: changed.__delitem__(slice(at, min(to, at + 50))),
        lambda: changed.__setitem__(slice(at, at + 1), draw.randbytes(1)),
        lambda: changed.__setitem__(slice(early, early + 1), draw.randbytes(1)),
        lambda: changed.__setitem__(slice(early, early + 4), draw.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])),
        lambda: changed.__setitem__(slice(at, to), bytes(to - at)),
        lambda: changed.__setitem__(slice(at, at), draw.randbytes(draw.randint(1, 200))),
        lambda: changed.__setitem__(slice(to, to), data[at:to]),
        lambda: changed.extend(draw.choice(seeds)),
        lambda: changed.__setitem__(slice(at, None), draw.choice(seeds)[at:]),
    ]
    draw.choice(ways)()
    return bytes(changed)


def as_form(images: list[bytes]) -> Request:
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="images"; filename="%d.png"\r\n\r\n%b\r\n' % (_BOUNDARY, i, data)
        for i, data in enumerate(images)
    ]
    return _request(b"multipart/form-data; boundary=" + _BOUNDARY, b"".join(parts) + b"--%b--\r\n" % _BOUNDARY)


def as_json(images: list[bytes]) -> Request:
    named = [{"name": f"{i}", "data": base64.b64encode(data).decode()} for i, data in enumerate(images)]
    return _request(b"application/json", json.dumps({"images": named}).encode())


def _request(content_type: bytes, body: bytes) -> Request:
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: %b\r\nContent-Length: %d" % (
        _PATH.encode(), content_type, len(body)
    )  # fmt: skip
    return head + b"\r\n\r\n" + body


def _with_length(head: bytes, length: int) -> bytes:
    return head.rpartition(b" ")[0] + b" %d" % length
