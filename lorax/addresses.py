"""Addresses of servers as people give them: understood before they are used, shown without their passwords, and asked
without a proxy in between where they are on this machine.
"""

from __future__ import annotations

import base64
import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from lorax.errors import ServiceError, printable

if TYPE_CHECKING:
    import httpx

_DATABASE = re.compile(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?://")
_UNFIT = re.compile(r"[^!-~]|[\"'<>\\^`{|}]")
"""What no address holds: RFC 3986 has it written as %XX."""

_UNPROXIED = ("127.0.0.1", "localhost")


def check_server(variable: str, address: str, example: str) -> None:
    """Make sure that `address` can be one of an HTTP server.

    Raises:
        ServiceError: it can't be.
    """
    if not _is_server(address):
        raise ServiceError(
            f"{variable} is no address of a server: expected as in {example}, found "
            f"{printable(without_password(address))!r}. Correct it, or unset it to use the workspace's own server."
        )


def is_database(address: str) -> bool:
    """Whether `address` names a database, as far as its first word tells."""
    return bool(_DATABASE.match(address))


def without_password(address: str) -> str:
    """The address as it may be shown: without user and password, and without what follows a '?'."""
    if address.startswith("sqlite"):  # its path may hold an '@', and no password
        return address
    scheme = re.match(r"[\w+.-]*://", address)
    return ((scheme.group() if scheme else "") + re.sub(r".*@|^[\w+.-]*://", "", address)).partition("?")[0]


def without_password_of(address: str, text: str) -> str:
    """`text`, such as a library's error, without the user and password that `address` may hold."""
    _, separator, rest = address.rpartition("@")[0].partition("://")
    return text.replace(f"{rest}@", "") if separator and rest else text


def parted(address: str) -> tuple[str, str]:
    """An HTTP server's address without user and password, and the Authorization header that says them ('' for none)."""
    parts = urlsplit(address)
    if parts.username is None:
        return address, ""
    secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return bare, f"Basic {base64.b64encode(secret.encode()).decode()}"


def ask(method: str, address: str, patience_s: float, authorization: str = "", body: Any = None) -> httpx.Response:
    """What a server answers, whatever that is.

    Args:
        method, address: of the request; a user and password in the address are sent, too.
        patience_s: how long it may take to connect, and to say the next word.
        authorization: the header's value; '' for none.
        body: a JSON value; None for none.

    Raises:
        httpx.HTTPError: it does not answer, or not in HTTP.
    """
    import httpx  # takes a quarter of a second

    headers = {"Authorization": authorization} if authorization else {}
    is_secret = address.startswith("https:")  # else no certificates are read, which takes longer than most answers
    return httpx.request(method, address, json=body, headers=headers, timeout=patience_s, verify=is_secret)


def unproxied() -> dict[str, str]:
    """The variables that keep every HTTP client from asking a proxy for addresses on this machine."""
    given = ",".join(os.environ.get(name, "") for name in ("NO_PROXY", "no_proxy"))
    names = dict.fromkeys(name for name in (*given.replace(" ", ",").split(","), *_UNPROXIED) if name)
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(names))


def _is_server(address: str) -> bool:
    try:
        parts = urlsplit(address)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:  # a port that is no number, a bracket that is not closed, a label that is too long
        return False
    return parts.scheme in ("http", "https") and bool(host) and not _UNFIT.search(address)
