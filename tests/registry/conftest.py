"""Registered models on a real MLflow server, and a stream of three tasks learned once."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from lorax.learning.assessment import Assessment
from lorax.params import GateParams, Params
from lorax.registry import ModelVersion, Registry, figures
from lorax.registry.candidate import open_candidate
from tests.mlflow_server import Server
from tests.tiny_learner import Learned, learn_next, learn_stream, tiny_params

OPEN = GateParams(
    detection_floor=0.0,
    detection_drop=1.0,
    detection_forgetting=1.0,
    attribution_floor=0.0,
    attribution_drop=1.0,
    attribution_forgetting=1.0,
)
"""Tiny learners are no good at anything."""


@pytest.fixture(scope="package", autouse=True)
def _figures_drawn_once() -> Iterator[None]:
    """The same few episodes are registered again and again, and half of that is drawing the same figures."""
    drawn: dict[str, dict[str, bytes]] = {}

    def once(draw: Callable[..., None]) -> Callable[..., None]:
        def save(directory: Path, *data: Any) -> None:
            if (key := repr(data)) not in drawn:
                draw(directory, *data)
                drawn[key] = {path.name: path.read_bytes() for path in directory.iterdir()}
            directory.mkdir(parents=True, exist_ok=True)
            for name, content in drawn[key].items():
                (directory / name).write_bytes(content)

        return save

    with pytest.MonkeyPatch.context() as patch:
        for draw in (figures.save_figures, figures.save_assessment_figures):
            patch.setattr(figures, draw.__name__, once(draw))
        yield


@pytest.fixture(scope="session")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    return tiny_params(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def stream_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stream")


@pytest.fixture(scope="session")
def stream(stream_dir: Path, params: Params) -> list[Learned]:
    """alpha, beta, gamma."""
    return learn_stream(stream_dir, params, ["alpha", "beta", "gamma"])


@pytest.fixture(scope="session")
def other_second(stream_dir: Path, params: Params, stream: list[Learned]) -> Learned:
    """delta, learned on top of alpha: a sibling of beta."""
    return learn_next(stream_dir, params, stream[:1], "delta")


@pytest.fixture
def registry(server: Server) -> Registry:
    """An empty registered model of its own."""
    return Registry(server.uri, f"model-{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="session")
def filled(server: Server, stream: list[Learned]) -> Registry:
    """A registered model with the whole stream in it; tests only read it."""
    registry = Registry(server.uri, f"filled-{uuid.uuid4().hex[:8]}")
    for episode in stream:
        enter(registry, episode, git_commit="c0ffee")
    return registry


def enter(
    registry: Registry,
    episode: Learned,
    *,
    gate: GateParams = OPEN,
    assessment: Assessment | None = None,
    git_commit: str | None = None,
    atlas_dir: Path | None = None,
) -> ModelVersion:
    """Register what an episode left, have the gate judge it, and promote it if it passed."""
    candidate = open_candidate(episode.state_dir, episode.report, assessment, git_commit, atlas_dir)
    registry.register(candidate)
    registry.judge(candidate, gate)
    return registry.promote_passed(candidate, gate)


class LossyServer(ThreadingHTTPServer):
    """A server in front of MLflow's that passes everything on, but loses the first answer to each of some requests."""

    daemon_threads = True

    def __init__(self, behind: str, lost: Sequence[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind, self.lost = behind, set(lost)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Passing(BaseHTTPRequestHandler):
    server: LossyServer

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {key: value for key, value in self.headers.items() if key.lower() != "host"}
        answer = requests.request(self.command, self.server.behind + self.path, data=body, headers=headers, timeout=60)
        lost = {path for path in self.server.lost if self.command == "POST" and self.path.endswith(path)}
        if lost:
            self.server.lost -= lost
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815 (the base class looks for these)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def lossy(server: Server) -> Iterator[Callable[..., LossyServer]]:
    """Start a server that loses the first answer to each POST whose path ends with one of those given."""
    started: list[LossyServer] = []

    def start(*lost: str) -> LossyServer:
        started.append(LossyServer(server.uri, lost))
        Thread(target=started[-1].serve_forever, daemon=True).start()
        return started[-1]

    yield start
    for each in started:
        each.shutdown()
        each.server_close()
