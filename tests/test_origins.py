"""Whose requests a server on loopback answers."""

from __future__ import annotations

import asyncio

import pytest

from lorax.origins import OwnOriginsOnly, is_own


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:4200", None),  # a program, or a page's own address typed by hand
        ("localhost", None),
        ("LocalHost:4200", "http://localhost:4200"),
        ("127.0.0.1:4200", "http://localhost:4200"),  # one server under two names
        ("[::1]:4200", "http://[::1]:4200"),
        ("localhost:15000", "http://localhost:15000"),  # through a tunnel
    ],
)
def test_programs_and_a_servers_own_pages_are_answered(host: str, origin: str | None) -> None:
    assert is_own([host.encode()], [] if origin is None else [origin.encode()])


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:4200", "http://attacker.example"),
        ("127.0.0.1:4200", "http://attacker.example:4200"),
        ("127.0.0.1:4200", "http://127.0.0.1:8000"),  # another program's page on this machine
        ("127.0.0.1:4200", "http://127.0.0.1:4200.attacker.example"),
        ("127.0.0.1:4200", "null"),  # a page in a sandboxed frame, or a file
        ("127.0.0.1:4200", ""),
        ("attacker.example:4200", None),  # a name that was made to lead here
        ("10.attacker.example:4200", "http://10.attacker.example:4200"),
        ("127.0.0.1.attacker.example", None),
        ("", None),
    ],
)
def test_other_peoples_pages_and_names_are_not(host: str, origin: str | None) -> None:
    assert not is_own([host.encode()], [] if origin is None else [origin.encode()])


@pytest.mark.parametrize(("address", "host"), [("192.0.2.7", b"192.0.2.7:80"), ("2001:db8::7", b"[2001:db8::7]:80")])
def test_the_address_that_a_connection_came_to_is_a_name_of_ours(address: str, host: bytes) -> None:
    said: list[object] = []

    async def answer(*_: object) -> None:
        said.append("answered")

    async def send(message: object) -> None:
        said.append(message)

    scope = {"type": "http", "server": (address, 80), "headers": [(b"host", host)]}
    asyncio.run(OwnOriginsOnly(answer)(scope, answer, send))  # type: ignore[arg-type]
    assert said == ["answered"]


def test_a_request_that_names_no_host_or_two_is_not_answered() -> None:
    assert not is_own([], [])
    assert not is_own([b"127.0.0.1:4200", b"attacker.example"], [])
