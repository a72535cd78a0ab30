"""Running the server: its socket, its log, its end."""

from __future__ import annotations

import gc
import logging
import math
import resource
import socket
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

import uvicorn
from fastapi import FastAPI

from lorax.errors import ServiceError
from lorax.network.building import import_timm
from lorax.serving.connections import MOST_HEAD_S, Connection
from lorax.serving.unpacking import give_back_what_is_freed

_BACKLOG = 4096
_GRACE_S = 5
_DESCRIPTORS = 10_240
"""That a process may have where none says otherwise: macOS allows no more, though it calls its limit infinite."""


def listen(host: str, port: int) -> socket.socket:
    """A socket of this address, which nobody can connect to yet.

    Raises:
        ServiceError: the address is taken, or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as unless_bound:
            listener = unless_bound.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            unless_bound.pop_all()
    except OSError as error:
        raise ServiceError(
            f"can't listen at {host}:{port}: {error.strerror}. Choose another with --host and --port."
        ) from error
    return listener


def settle() -> None:
    """Import what a model needs, and have the garbage collector pass over all that was imported.

    It would walk half a million objects now and then, and every request would wait for it for half a second. Models are
    opened after this, since they come and go.
    """
    import_timm()
    gc.collect()
    gc.freeze()


class VerdictServer(uvicorn.Server):
    """The HTTP server; finishes what was begun before it ends.

    Args:
        app: the application.
        timeout_s: how long a request may take at most, and, up to `MOST_HEAD_S`, its headers.
        on_ready: called once requests are answered.
    """

    def __init__(self, app: FastAPI, timeout_s: float, on_ready: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            http=partial(Connection, head_s=min(timeout_s, MOST_HEAD_S)),  # type: ignore[arg-type]  # makes one
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=math.ceil(timeout_s) + _GRACE_S,
        )
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


def run(server: VerdictServer, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        server: what answers.
        listener: from `listen`.
    """
    _allow_connections()
    give_back_what_is_freed()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("lorax").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module="PIL")  # of damaged uploads, which their senders are told about
    with suppress(KeyboardInterrupt):  # what Ctrl-C ends in, after all was answered
        server.run(sockets=[listener])


def _allow_connections() -> None:
    """A connection takes a file descriptor; systems often begin with 1024 of them, or 256, and allow more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(OSError, ValueError):  # a system that allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
