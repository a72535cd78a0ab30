"""A real server on a free port, over learners that were really learned; a shelf of them stands in for the registry."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from lorax.errors import RegistryError
from lorax.params import ServingParams
from lorax.registry import ModelVersion
from lorax.serving.app import create_app
from lorax.serving.model import Served, Source, open_served
from lorax.serving.requests import VERDICTS
from lorax.serving.server import VerdictServer, listen
from lorax.stream import PinnedTask
from lorax.verdicts.predictor import Judged, Predictor
from tests.tiny_learner import Learned, learn_stream, tiny_params

SMALL = ServingParams(
    max_images=4, max_image_mb=0.02, max_request_mb=0.05, max_pixels=10_000, timeout_s=20, queue=8, poll_s=0.05
)
"""Limits that a test can reach."""


class Gate(Predictor):
    """A learner whose answers wait until the gate is open."""

    def __init__(self, inner: Predictor) -> None:
        super().__init__(inner.network, inner.state, inner.batch_size)
        self.is_open, self.began = threading.Event(), threading.Semaphore(0)
        self.batches: list[int] = []

    def look(self, crops: Sequence[Any], sources: Sequence[str]) -> list[Judged]:
        self.batches.append(len(crops))
        self.began.release()
        assert self.is_open.wait(30)
        return super().look(crops, sources)


@dataclass
class Shelf:
    """Model versions in a folder each, and an alias."""

    states: Mapping[int, Path]
    now: int = 1
    name: str = "tiny"
    is_away: bool = False
    asked: list[int] = field(default_factory=list)

    def line(self, number: int) -> list[ModelVersion]:
        return [self.aliased("") if n == self.now else version(n) for n in range(number, 0, -1)]

    def card(self, number: int) -> str:
        return f"# Model card {number}\n\n| a |  |\n|---|---|\n| b | `c` |\n\n- <script>window.ran = 1</script>\n"

    def aliased(self, alias: str) -> ModelVersion:
        if self.is_away:
            raise RegistryError("no MLflow server answers.")
        return version(self.now)

    def download_state(self, number: int, into: Path) -> Path:
        self.asked.append(number)
        return self.states[number]


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    http: httpx.Client
    server: VerdictServer
    app: Any

    def post(self, *images: bytes) -> httpx.Response:
        """Ask for verdicts by multipart."""
        return self.http.post(VERDICTS, files=[("images", (f"{i}.png", data)) for i, data in enumerate(images)])

    def metric(self, name: str) -> float:
        """One number of /metrics."""
        lines = self.http.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


Start = Callable[..., Running]


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> list[Learned]:
    folder = tmp_path_factory.mktemp("served")
    return learn_stream(folder, tiny_params(folder), ["alpha", "beta"])


@pytest.fixture(scope="session")
def model(learned: list[Learned]) -> Served:
    return opened(learned, 1)


@pytest.fixture
def shelf(learned: list[Learned], tmp_path: Path) -> Shelf:
    """Versions 1 and 2; the folder of version 3 is empty."""
    return Shelf({1: learned[0].state_dir, 2: learned[1].state_dir, 3: tmp_path})


@pytest.fixture
def gated(model: Served) -> tuple[Served, Gate]:
    """A version behind a gate; closed at first."""
    gate = Gate(model.predictor)
    return Served(model.name, model.version, model.state_digest, gate), gate


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a server; it is stopped after the test."""
    with running() as begin:
        yield begin


@pytest.fixture(scope="module")
def served(model: Served) -> Iterator[Running]:
    """Version 1 within small limits, for tests that leave it as it is."""
    with running() as begin:
        yield begin(model)


@contextmanager
def running() -> Iterator[Start]:
    ends: list[Callable[[], None]] = []

    def begin(
        model: Served,
        params: ServingParams = SMALL,
        shelf: Shelf | None = None,
        threads: int = 1,
        token: str = "",
        log: Callable[[bytes], None] | None = None,
    ) -> Running:
        source = Source(shelf, "champion", Path("unused"), "cpu") if shelf else None
        app = create_app(model, params, source, threads, token=token, log=log)
        listener, is_ready = listen("127.0.0.1", 0), threading.Event()
        server = VerdictServer(app, params, is_ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert is_ready.wait(30)
        client = httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=120)

        def end() -> None:
            client.close()
            server.should_exit = True
            thread.join()

        ends.append(end)
        return Running(client, server, app)

    yield begin
    for end in ends:
        end()


def opened(learned: list[Learned], number: int) -> Served:
    return open_served("tiny", version(number), learned[number - 1].state_dir, "cpu")


def version(number: int) -> ModelVersion:
    known = PinnedTask("alpha", "0" * 64)
    return ModelVersion(
        number, "run", f"{number}" * 64, None, "", 0, "alpha", (known,), "0" * 32, None, {}, datetime.now(UTC)
    )


def image(seed: int = 0, kind: str = "png", size: tuple[int, int] = (24, 20), **options: Any) -> bytes:
    """An encoded image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()
