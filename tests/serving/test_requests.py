"""Tokens, ids, the access log, and the way to the end of a server."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorax.cli import app
from lorax.params import ServingParams
from lorax.serving.model import Served
from lorax.serving.requests import HEALTH, VERDICTS, to_standard_output
from tests.serving.conftest import Gate, Start, image


def test_a_token_is_asked_for_but_of_probes_and_of_who_opens_the_page(start: Start, model: Served) -> None:
    http = start(model, token="secret").http
    assert [http.get(path).status_code for path in (HEALTH, "/docs", "/openapi.json")] == [200] * 3
    asset = http.get("/docs").text.partition('<script src="')[2].partition('"')[0]
    assert http.get(asset).status_code == 200
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}):
        refused = http.post(VERDICTS, files={"image": image()}, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert [http.get(path, headers=headers).status_code for path in ("/metrics", "/version")] == [401] * 2
    asked = http.post(VERDICTS, files={"image": image()}, headers={"Authorization": "Bearer secret"})
    assert asked.status_code == 200


def test_where_other_machines_may_ask_a_token_has_to_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    assert CliRunner().invoke(app, ["init", str(tmp_path / "here")]).exit_code == 0
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("LORAX_TOKEN", raising=False)
    told = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--port", "0"])
    assert (told.exit_code, "LORAX_TOKEN is not set" in told.output.replace("\n", " ")) == (1, True)


def test_ids_come_back_and_are_in_the_log(start: Start, model: Served) -> None:
    lines: list[bytes] = []
    running = start(model, log=lines.append)
    names = {"X-Request-ID": "case-17"}
    judged = running.http.post(VERDICTS, files=[("i", image()), ("i", b"none")], headers=names)
    assert judged.headers["x-request-id"] == "case-17"
    made = running.http.get(HEALTH, headers={"X-Request-ID": "x" * 129}).headers["x-request-id"]
    assert len(made) == 32
    first, second = (json.loads(line) for line in lines)
    assert first.pop("seconds") > 0 and first.pop("time") < second.pop("time")
    at = {"client": "127.0.0.1", "method": "POST", "path": VERDICTS}
    assert first == {**at, "request_id": "case-17", "status": 200, "images": 2, "version": 1}
    assert (second["request_id"], second["path"], "images" in second) == (made, HEALTH, False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_log_on_a_full_disk_is_lost_and_ends_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", encoding="ascii") as full:
        monkeypatch.setattr(sys, "stdout", full)
        to_standard_output(b"{}\n")


def test_at_sigterm_it_is_not_ready_answers_for_a_while_and_ends(start: Start, model: Served) -> None:
    running = start(model, ServingParams(drain_s=1.0))
    running.server.handle_exit(signal.SIGTERM, None)
    told = running.http.get(HEALTH)
    assert (told.status_code, told.json()["status"], told.json()["ready"]) == (503, "draining", False)
    judged = running.post(image())
    assert (judged.status_code, judged.headers["connection"]) == (200, "close")
    assert not running.server.should_exit
    began = time.monotonic()
    while not running.server.should_exit:
        assert time.monotonic() < began + 10
        time.sleep(0.02)


def test_a_second_signal_does_not_wait_but_what_was_begun_is_answered(start: Start, gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    running = start(model, ServingParams(drain_s=3600))
    answers: list[int] = []
    asking = threading.Thread(target=lambda: answers.append(running.post(image()).status_code))
    asking.start()
    assert gate.began.acquire(timeout=30)
    running.server.handle_exit(signal.SIGTERM, None)
    assert not running.server.should_exit
    running.server.handle_exit(signal.SIGTERM, None)
    assert running.server.should_exit
    gate.is_open.set()
    asking.join()
    assert answers == [200]
