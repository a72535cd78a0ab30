"""Whose requests a server on loopback answers."""

from __future__ import annotations

import pytest

from lorax.origins import is_own


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


def test_a_request_that_names_no_host_or_two_is_not_answered() -> None:
    assert not is_own([], [])
    assert not is_own([b"127.0.0.1:4200", b"attacker.example"], [])
