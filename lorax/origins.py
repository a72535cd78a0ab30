"""Who may ask a server on loopback: pages that it serves itself, and programs; no page of anybody else's.

A browser lets every page send requests to 127.0.0.1, and lets a page read the answers once the page's own host name is
made to lead there. The first gives itself away by its Origin, the second by its Host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""How a browser names this machine; a Host or Origin has a port behind it, or none."""

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def is_own(hosts: Iterable[bytes], origins: Iterable[bytes], names: Iterable[str] = LOOPBACK) -> bool:
    """Whether a request was sent to one of our names, and by a page that came from there, if by a page at all.

    Our names are one: a page from localhost may ask 127.0.0.1, at the same port.

    Args:
        hosts, origins: the values of the request's Host and Origin headers.
        names: what this server may be called.
    """
    said = [host.decode("latin-1").lower() for host in hosts]
    if len(said) != 1:
        return False
    name, port = _parted(said[0])
    asking = [_parted(origin.decode("latin-1").lower().partition("://")[2]) for origin in origins]
    return name in names and all(other in names and its_port == port for other, its_port in asking)


class OwnOriginsOnly:
    """An ASGI application that answers 403 to other people's pages, and passes on the rest.

    The address that a connection came to counts as a name, too: nobody can make another page's name of it.

    Args:
        names: what this server may be called, as in a Host header without its port.
    """

    def __init__(self, app: _App, names: Iterable[str] = LOOPBACK) -> None:
        self._app, self._names = app, tuple(names)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] == "lifespan" or is_own(_values(scope, b"host"), _values(scope, b"origin"), self._own(scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: the server answers 403
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            said = f"This server answers its own pages only, at {', '.join(self._names)}.\n"
            await send({"type": "http.response.body", "body": said.encode()})

    def _own(self, scope: _Scope) -> tuple[str, ...]:
        address, _ = scope.get("server") or ("", None)
        return (*self._names, as_host(address))


def as_host(address: str) -> str:
    """A name or address as it stands in a Host header, without a port."""
    return f"[{address}]" if ":" in address else address


def _values(scope: _Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _parted(address: str) -> tuple[str, str]:
    """A Host header's name and port ('' where it names none)."""
    name, colon, port = address.rpartition(":")
    return (name, port) if colon and port.isdigit() else (address, "")
