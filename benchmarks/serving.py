"""`lorax serve` under load on loopback against the fastest way of calling the network on images decoded before.

    python -m benchmarks.serving [--backbone residual] [--tasks 5] [--side 256] [--clients 1 8 64] [--rounds 3]

A learner of so many tasks of the demo is made (one epoch each), unless --state names one. The images are PNG and JPEG
in turn; each client sends one, waits for its verdict, and sends the next. Directly, the same images are judged again
and again by `Predictor.judge`, in batches of several sizes, all threads on one batch or a batch for each: the best
counts. Server, clients and direct calls are processes of their own, in turns.

Three ratios are told: of images a second, which only a quiet machine gives rightly (the clients share the server's
cores); of processor time an image, the server's against the cheapest direct way's; and the same against direct calls in
batches as large as the server's were, which is what serving itself costs: few clients can't fill a batch. What decoding
takes, which direct calls are spared, is told beside them. Results: benchmarks/results/serving-BACKBONE-SIDE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Row, report

IMAGES = 32
BATCHES = (1, 4, 16, 32)
_FORM = "serving-benchmark"


def write_images(folder: Path, side: int) -> list[Path]:
    """Smooth colour noise as PNG and JPEG in turn; it compresses about as photographs do."""
    rng, paths = np.random.default_rng(0), []
    for number in range(IMAGES):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
        noise = rng.integers(-6, 7, smooth.shape, dtype=np.int16)
        paths.append(folder / f"{number}.{('png', 'jpg')[number % 2]}")
        Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def learn(folder: Path, tasks: int, backbone: str) -> Path:
    """The state of a learner of the demo's first tasks; how well it knows them is of no matter here."""
    from benchmarks.demo_streams import demo_files, learned
    from lorax.data.simulate import DEMO_TASKS
    from lorax.params import load_params

    crop = [] if backbone.startswith("residual") else ["backbone.crop=64"]
    quick = ["training.epochs=1", "robustness.per_class=0", f"backbone.name={backbone}", *crop]
    params = load_params(Path("params.yaml"), overrides=quick)
    files = demo_files(folder)
    return learned(files, [one for one in files.tasks if one.name in DEMO_TASKS[:tasks]], params, folder)[-1].state_dir


def serve(state: Path, threads: int) -> None:
    """What the server's process does: `lorax serve` without a registry."""
    import torch

    from lorax.params import ServingParams
    from lorax.serving import server
    from lorax.serving.app import create_app
    from lorax.serving.model import Served
    from lorax.verdicts.predictor import Predictor

    listener = server.listen("127.0.0.1", 0)
    server.settle()
    torch.set_num_threads(threads)
    predictor, params = Predictor.open(state, "cpu"), ServingParams()
    side, count = predictor.network.crop, predictor.batch_size
    predictor.look([np.zeros((1, side, side, 3), np.uint8)] * count, [""] * count)
    app = create_app(Served("benchmark", 1, "0" * 64, predictor), params, None, threads)
    port = listener.getsockname()[1]
    server.run(server.VerdictServer(app, params, lambda: print(port, flush=True)), listener)


@contextmanager
def serving(state: Path, threads: int) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The port of a server that answers, and its process."""
    command = [sys.executable, "-m", "benchmarks.serving", "--inside", "serve", str(state), str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process
    finally:
        process.terminate()
        process.wait()


@dataclass
class _Client:
    """A connection that asks again as soon as it was answered."""

    connection: socket.socket
    asked: int
    began: float = 0.0
    answer: bytes = b""
    unsent: bytes | memoryview = b""

    def send(self) -> None:
        self.unsent = memoryview(self.unsent)[self.connection.send(self.unsent) :]

    def is_answered(self) -> bool:
        self.answer += self.connection.recv(65536)
        head, found, body = self.answer.partition(b"\r\n\r\n")
        if not found:
            return False
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(body) < length:
            return False
        assert head.startswith(b"HTTP/1.1 200"), self.answer
        return True


def ask(port: int, clients: int, seconds: float, files: Sequence[Path]) -> dict[str, Any]:
    """Load by so many clients, from one thread; answers of the first fifth are not counted.

    What was asked is waited for, so that all that the server did is for `answered` images.

    Returns:
        Images a second, milliseconds from a request's first byte to the answer's last, the clients' processor seconds.
    """
    requests, chosen, latencies = [_request(file) for file in files], selectors.DefaultSelector(), list[float]()
    for number in range(clients):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setblocking(False)
        chosen.register(connection, selectors.EVENT_WRITE, _Client(connection, number))
    before, answered = time.process_time(), 0
    counted_from, end = time.perf_counter() + seconds / 5, time.perf_counter() + seconds
    while chosen.get_map():
        for key, event in chosen.select(1):
            client: _Client = key.data
            if event & selectors.EVENT_WRITE:
                if not client.unsent:
                    client.unsent = requests[client.asked % len(requests)]
                    client.began, client.answer = time.perf_counter(), b""
                client.send()
                if not client.unsent:
                    chosen.modify(client.connection, selectors.EVENT_READ, client)
            elif client.is_answered():
                now = time.perf_counter()
                if counted_from < now < end:
                    latencies.append(now - client.began)
                answered += 1
                client.asked += clients
                if now < end:
                    chosen.modify(client.connection, selectors.EVENT_WRITE, client)
                else:
                    chosen.unregister(client.connection)
                    client.connection.close()
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    took = time.process_time() - before
    rate = len(latencies) / (end - counted_from)
    return {"rate": rate, "p50_ms": p50, "p99_ms": p99, "answered": answered, "processor_s": took}


def _request(file: Path) -> bytes:
    part = f'--{_FORM}\r\nContent-Disposition: form-data; name="images"; filename="{file.name}"\r\n\r\n'
    body = part.encode() + file.read_bytes() + f"\r\n--{_FORM}--\r\n".encode()
    head = f"POST /v1/verdicts HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: multipart/form-data; boundary={_FORM}\r\n\r\n".encode() + body


def call(state: Path, threads: int, seconds: float, files: Sequence[Path]) -> dict[str, Any]:
    """Images a second and processor milliseconds an image by each direct way, and by decoding alone on one thread."""
    import torch

    from lorax.data.images import decode
    from lorax.verdicts.predictor import Predictor

    torch.set_num_threads(threads)
    predictor = Predictor.open(state, "cpu")
    every = [decode(file) for file in files]
    ways: dict[str, tuple[float, float]] = {}
    each_s = seconds / (2 * len(BATCHES))
    for batch in BATCHES:
        ways[f"one batch of {batch}"] = _timed(partial(_judged, predictor, every[:batch]), each_s, [None], map)
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for batch in BATCHES:
            work = partial(_judged, predictor, every[:batch])
            ways[f"{threads} batches of {batch}"] = _timed(work, each_s, [None] * threads, pool.map)
    began = time.process_time()
    for file in files:
        decode(file)
    decode_ms = (time.process_time() - began) / len(files) * 1e3
    way = max(ways, key=lambda name: ways[name][0])
    return {
        "rate": ways[way][0],
        "way": way,
        "ms": min(ms for _, ms in ways.values()),
        "decode_ms": decode_ms,
        "ways": ways,
        "of_batches_ms": [ways[f"{threads} batches of {batch}"][1] for batch in BATCHES],
    }


def _timed(
    work: Callable[[float], int], seconds: float, threads: list[None], over: Callable[..., Iterable[int]]
) -> tuple[float, float]:
    """Images a second of `work` in all threads, and processor milliseconds an image."""
    began, before = time.perf_counter(), time.process_time()
    images = sum(over(lambda _: work(seconds), threads))
    return images / (time.perf_counter() - began), (time.process_time() - before) / images * 1e3


def _judged(predictor: Any, pixels: list[Any], seconds: float) -> int:
    images, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        predictor.judge(pixels, [""] * len(pixels))
        images += len(pixels)
    return images


def _processor_s(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _batches(port: int) -> tuple[float, float]:
    """How many images the server has judged, and in how many batches."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
    return float(lines["lorax_batch_images_sum"]), float(lines["lorax_batch_images_count"])


def child(what: str, *arguments: object) -> dict[str, Any]:
    """What a process of its own finds."""
    command = [sys.executable, "-m", "benchmarks.serving", "--inside", what, *map(str, arguments)]
    return dict(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))


def compared(state: Path, files: Sequence[Path], given: argparse.Namespace) -> list[Row]:
    """A row for each number of clients; in every round each is measured right after direct calls."""
    found = {clients: list[Row]() for clients in given.clients}
    with serving(state, given.threads) as (port, process):
        child("ask", port, 4, 2, *files)  # warm
        for _ in range(given.rounds):
            for clients in given.clients:
                load = os.getloadavg()[0]
                direct = child("call", state, given.threads, given.seconds, *files)
                before, judged = _processor_s(process.pid), _batches(port)
                served = child("ask", port, clients, given.seconds, *files)
                took_ms = (_processor_s(process.pid) - before) / served["answered"] * 1e3
                images, batches = (now - then for now, then in zip(_batches(port), judged, strict=True))
                as_large_ms = float(np.interp(images / batches, BATCHES, direct["of_batches_ms"]))
                found[clients].append({
                    "direct_per_s": direct["rate"], "served_per_s": served["rate"],
                    "ratio": served["rate"] / direct["rate"],
                    "direct_ms": direct["ms"], "served_ms": took_ms, "processor_ratio": direct["ms"] / took_ms,
                    "batch": images / batches, "as_large_ms": as_large_ms, "as_large_ratio": as_large_ms / took_ms,
                    "decode_ms": direct["decode_ms"], "client_ms": served["processor_s"] / served["answered"] * 1e3,
                    "p50_ms": served["p50_ms"], "p99_ms": served["p99_ms"], "load": load,
                })  # fmt: skip
                print(clients, found[clients][-1], direct["ways"], flush=True)
    return [
        {"clients": clients, **{key: statistics.median(r[key] for r in rounds) for key in rounds[0]}}  # type: ignore[type-var]
        for clients, rounds in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, help="of a learner; default: one is made")
    parser.add_argument("--backbone", default="residual", help="of the one that is made")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        what, *more = given.inside
        if what == "serve":
            serve(Path(more[0]), int(more[1]))
        elif what == "ask":
            print(json.dumps(ask(int(more[0]), int(more[1]), float(more[2]), [Path(one) for one in more[3:]])))
        else:
            print(json.dumps(call(Path(more[0]), int(more[1]), float(more[2]), [Path(one) for one in more[3:]])))
        return
    from lorax.learning.state_files import load_state

    with tempfile.TemporaryDirectory() as folder:
        state = given.state or learn(Path(folder), given.tasks, given.backbone)
        learned = load_state(state)
        rows = compared(state, write_images(Path(folder), given.side), given)
    name = learned.backbone.name.removeprefix("lorax_")
    facts = {"backbone": name, "tasks": len(learned.tasks), "side": given.side}
    report(f"serving-{name}-{given.side}", [facts | row for row in rows])


if __name__ == "__main__":
    main()
