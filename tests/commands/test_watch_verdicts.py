from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from lorax.cli import app
from lorax.commands import access
from lorax.data.walk import Found
from lorax.errors import StateError
from lorax.learning.state_files import load_state, save_state
from lorax.verdicts import watched
from lorax.verdicts.watched import Inbox, followed, from_lines
from lorax.workspace import Workspace
from tests.tiny_learner import Learned, calibrated

runner = CliRunner()


@pytest.fixture(scope="module")
def state_dir(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibrated(learned.state_dir, tmp_path_factory.mktemp("states") / "calibrated")


@pytest.fixture
def prefect() -> Iterator[list[dict[str, Any]]]:
    """The events that a server got."""
    events: list[dict[str, Any]] = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            events.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{server.server_port}/api"
    yield events
    server.shutdown()
    server.server_close()


@pytest.fixture
def watch(workspace: Workspace, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in a workspace whose version 7 is the calibrated learner."""
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(access, "fetched", lambda *_: (SimpleNamespace(version=7, state_digest="d"), state_dir))
    return lambda *arguments, **options: runner.invoke(app, ["watch-verdicts", *map(str, arguments)], **options)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Forty images of known kinds, then thirty nearly red ones, as they arrived; and one that is none."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    random = np.random.default_rng(5)
    for i in range(70):
        pixels = random.integers(0, 128, (16, 16, 3)) + 120 * (i % 2)
        if i >= 40:
            pixels = np.array([235, 0, 0]) + random.integers(0, 20, (16, 16, 3))
        write(folder / f"{99 - i}.png", pixels.astype(np.uint8), i)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def write(path: Path, pixels: np.ndarray, at: int) -> None:
    Image.fromarray(pixels).save(path)
    os.utime(path, (1e9 + at, 1e9 + at))


def test_a_new_kind_of_image_in_a_folder_is_told_with_its_cluster(
    watch: Callable[..., Result], inbox: Path, workspace: Workspace, prefect: list[dict[str, Any]]
) -> None:
    done = watch(inbox, "--once", "--rate", "0.2", "--json")
    assert done.exit_code == 3, done.output
    rise, end = (json.loads(line) for line in done.stdout.splitlines())
    assert (rise["change"], rise["version"], rise["rate"], rise["announced"]) == ("rising", 7, 0.2, True)
    assert rise["interval"][0] > 0.2
    [cluster] = rise["clusters"]
    assert cluster["branch"] in ("alpha", "beta")
    assert (end["change"], end["images"], end["window"]) == ("end", 70, 70)
    assert "broken.png" in done.stderr
    [event] = prefect
    assert (event["event"], event["resource"]["prefect.resource.name"]) == ("lorax.unknown.rising", "lorax")
    assert event["payload"]["clusters"] == rise["clusters"]
    report = json.loads(Path(rise["report"]).read_text())
    members = {Path(member["file"]).name for member in report["clusters"][0]["members"]}
    assert len(members) == cluster["size"] > len(cluster["members"]) == 5
    assert len(members & {f"{99 - i}.png" for i in range(40, 70)}) > 0.7 * len(members)
    with Image.open(Path(rise["report"]).parent / "cluster-0.png") as sheet:
        assert sheet.getpixel((10, 10))[0] > 200 > 100 > sheet.getpixel((10, 10))[1]
    assert Path(rise["report"]).is_relative_to(workspace.work_dir / "watch")


def test_lines_of_predict_are_watched_the_same_and_no_server_loses_only_the_event(
    watch: Callable[..., Result], inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    in_order = sorted(inbox.iterdir(), key=lambda path: path.stat().st_mtime)
    told = runner.invoke(app, ["predict", *map(str, in_order), "--json"], env={})
    assert len(told.stdout.splitlines()) == 71  # one for broken.png, too
    lines = tmp_path / "verdicts.jsonl"
    lines.write_text(told.stdout + "what?\n")
    for arguments, options in (([lines, "--once"], {}), (["-"], {"input": told.stdout + "what?\n"})):
        done = watch(*arguments, "--rate", "0.2", **options)
        assert done.exit_code == (3 if arguments[0] is lines else 0)
        assert "rising: " in done.stdout
        assert "cluster 0: " in done.stdout
        assert "lorax land NAME --task NAME" in done.stdout
        assert "not announced: Prefect's server at http://127.0.0.1:9/api does not answer" in done.stderr
        assert "line 72 is left out" in done.stderr


def test_known_images_are_no_rise_and_end_with_0(watch: Callable[..., Result], inbox: Path) -> None:
    for path in sorted(inbox.iterdir(), key=lambda path: path.stat().st_mtime)[40:]:
        path.unlink()
    done = watch(inbox, "--once")
    assert done.exit_code == 0
    assert done.stdout.startswith("40 images: ")
    assert "rate 15.0 %" in done.stdout  # three times the false alarms that the version states


def test_in_lines_of_two_versions_by_turns_each_has_a_window_of_its_own(
    watch: Callable[..., Result], state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def fetched(_: Workspace, __: object, wanted: str) -> tuple[SimpleNamespace, Path]:
        opened.append(int(wanted))
        return SimpleNamespace(version=int(wanted)), state_dir

    monkeypatch.setattr(access, "fetched", fetched)
    usual = {"file": "gone.png", "verdict": "undecided", "calibrated": True, "threshold": 0.5}
    lines = tmp_path / "verdicts.jsonl"
    with lines.open("w") as file:
        for i in range(120):  # the last forty of version 8 are strange
            strangeness = 0.9 if i % 2 and i >= 40 else 0.1
            line = usual | {"sha256": f"{i:064x}", "version": 7 + i % 2, "strangeness": strangeness}
            file.write(json.dumps(line) + "\n")
    done = watch(lines, "--once", "--rate", "0.3", "--json")
    assert done.exit_code == 3, done.output
    rise, *ends = (json.loads(line) for line in done.stdout.splitlines())
    assert (rise["change"], rise["version"]) == ("rising", 8)
    assert [(end["version"], end["images"], end["window"]) for end in ends] == [(7, 60, 60), (8, 60, 60)]
    assert [round(end["share"], 2) for end in ends] == [0.0, 0.67]
    assert opened == [7, 8]
    assert "by version 7:\n60 images: 0.0 %" in watch(lines, "--once", "--rate", "0.3").stdout


def test_a_version_that_is_not_calibrated_can_t_be_watched_by(
    watch: Callable[..., Result], learned: Learned, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(replace(load_state(learned.state_dir), calibration=None), tmp_path / "plain")
    monkeypatch.setattr(access, "fetched", lambda *_: (SimpleNamespace(version=2), tmp_path / "plain"))
    done = watch(inbox, "--once")
    assert done.exit_code == 1
    assert "version 2 is not calibrated" in done.stderr
    with pytest.raises(StateError, match="version 3 is not calibrated"):
        list(from_lines([b'{"version": 3, "calibrated": false}'], print))


def test_what_does_not_exist_or_does_not_fit_is_a_mistake_in_the_command_line(
    watch: Callable[..., Result], tmp_path: Path
) -> None:
    assert watch(tmp_path / "none").exit_code == 2
    assert watch("-", "--version", "3").exit_code == 2


def test_an_inbox_takes_a_file_once_when_it_is_whole_and_again_when_it_changes(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    assert inbox.new() == []
    path = tmp_path / "a.png"
    path.write_bytes(b"half")
    assert inbox.new() == []  # it may still be written
    path.write_bytes(b"all of it")
    assert inbox.new() == []
    assert [found.path for found in inbox.new()] == [path]
    assert inbox.new() == []
    path.write_bytes(b"another one")
    assert inbox.new() == []
    assert [found.path for found in inbox.new()] == [path]
    assert Inbox(tmp_path).new(settled=True) == [Found(path)]


def test_a_link_in_an_inbox_that_can_t_be_followed_is_one_bad_file(tmp_path: Path) -> None:
    for name, to in (("self", "self"), ("x", "x" * 300)):
        (tmp_path / name).symlink_to(to)
    (tmp_path / "z.png").write_bytes(b"")
    inbox = Inbox(tmp_path)
    assert {found.path.name for found in inbox.new(settled=True)} == {"self", "x", "z.png"}
    assert inbox.new(settled=True) == []


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_a_file_is_followed_as_it_grows_and_when_another_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"1\n2")
    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: append(path, b"2\n3\n"),
            lambda: path.write_bytes(b"new\n"),
            lambda: (path.unlink(), path.write_bytes(b"another file\n")),
        ]
    )
    monkeypatch.setattr(watched.time, "sleep", lambda _: next(steps)())
    lines = followed(path, once=False)
    found = [next(lines) for _ in range(9)]
    assert found == [b"1\n", None, b"22\n", b"3\n", None, b"new\n", None, b"another file\n", None]
    assert list(followed(path, once=True)) == [b"another file\n"]
    path.write_bytes(b"no end")
    assert list(followed(path, once=True)) == [b"no end"]
