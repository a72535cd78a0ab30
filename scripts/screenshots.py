"""Make docs/images' pictures of pages anew from a workspace that a demo filled: python -m scripts.screenshots WORKSPACE

Its servers must run (`lorax up`). Each page is opened as a browser that was never there sees it; `lorax serve` is begun
for its own page, and stopped. Needs Chromium and the extra `dev`.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from lorax import reconcile
from lorax.params import Params, load_params
from lorax.registry import Look, ModelVersion
from lorax.services import servers
from lorax.services.prefect_api import PrefectApi
from lorax.workspace import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

OUT = Path("docs") / "images"
WIDTH = 1280
COLOURS = 128
"""Of a picture: pages have few, and it takes a third of the room."""

PATIENCE_S = 180
KINDS = ("real", "synthetic", "unknown")
_TRIED = 40
"""Images of each kind that are asked about until one has the verdict that is looked for."""


@dataclass(frozen=True)
class Shot:
    """A page, what it shows once it is there, and how much of it is taken."""

    name: str
    address: str
    shows: str
    height: int


def shots(workspace: Workspace, params: Params) -> list[Shot]:
    """The servers' pages."""
    registry = reconcile.look(workspace, params)
    champion = registry.champion()
    if champion is None:
        sys.exit("error: no version was promoted in this workspace: run 'lorax demo' first")
    pages, links = registry.pages(), registry.links(champion)
    experiment, timeline = pages["runs"].partition("/runs")[0], _timeline(registry, champion)
    return [
        Shot("mlflow-experiment", experiment, "matching run", 560),
        Shot("mlflow-timeline", timeline, "task_accuracy.png", 720),
        Shot("mlflow-chart", pages["timeline"], "average_accuracy", 900),
        Shot("mlflow-version", links[f"version {champion.version}"], "lorax.task", 1000),
        Shot("prefect-learn", _learned(workspace, params), "gate", 760),
    ]


def main() -> None:
    """Take all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", nargs="*", default=(), help="names of pictures, or 'page' for those of lorax serve")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    workspace = Workspace.find(given.workspace.resolve())
    params = load_params(workspace.params_path)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for shot in shots(workspace, params) if given.only != ["page"] else ():
            if not given.only or shot.name in given.only:
                page = opened(browser, shot.height, _password(workspace) if "prefect" in shot.name else "")
                page.goto(shot.address)
                page.wait_for_selector(f"text={shot.shows}")
                save(page, given.out / f"{shot.name}.png")
        if not given.only or "page" in given.only:
            with serving(workspace) as address:
                take_cases(browser, workspace, address, given.out)
        browser.close()


def opened(browser: Browser, height: int, password: str = "") -> Page:
    """A page in a browser that was nowhere yet, but that knows Prefect's auth string."""
    page = browser.new_context(viewport={"width": WIDTH, "height": height}, color_scheme="light").new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    if password:
        kept = base64.b64encode(password.encode()).decode()
        page.add_init_script(f"localStorage.setItem('prefect-password', {json.dumps(kept)})")
    return page


def save(page: Page, path: Path, *, whole: bool = False) -> None:
    """A picture of what a page shows now, or of all of it, in few colours."""
    page.wait_for_timeout(3000)  # charts and their legends move at first
    page.screenshot(path=path, full_page=whole)
    Image.open(path).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def take_cases(browser: Browser, workspace: Workspace, address: str, out: Path) -> None:
    """The page of `lorax serve`: empty, then with a verdict of each kind, and with a file that is no image."""
    page = opened(browser, 640)
    page.goto(address)
    page.wait_for_selector("#served:has-text('version')")
    save(page, out / "page-empty.png")
    for name, file in cases(workspace, address).items():
        page = opened(browser, 480 if name == "error" else 900)
        page.goto(address)
        page.wait_for_selector("#served:has-text('version')")
        page.set_input_files("#files", file)
        page.wait_for_selector("#progress:has-text('1 of 1 looked at.')")
        page.wait_for_selector("#case h2")
        save(page, out / f"page-{name}.png")


def cases(workspace: Workspace, address: str) -> dict[str, Any]:
    """An image of each kind of verdict, from the test images, and a file that is none."""
    found = dict[str, Any]()
    for folder in sorted(workspace.root.glob("data/*/val/*")):
        for file in sorted(folder.iterdir())[:_TRIED]:
            if not set(KINDS) <= set(found):
                kind = _verdict(address, file).partition(":")
                found.setdefault(kind[2] if kind[2] == "unknown" else kind[0], str(file))
    found = {kind: found[kind] for kind in KINDS}
    photo = {"name": "photo.heic", "mimeType": "image/heic", "buffer": b"no image that can be read here"}
    return found | {"error": photo}


@contextmanager
def serving(workspace: Workspace) -> Iterator[str]:
    """`lorax serve` of the workspace's champion; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lorax, address = Path(sys.executable).with_name("lorax"), f"http://127.0.0.1:{port}"
    with subprocess.Popen([lorax, "serve", "--port", str(port)], cwd=workspace.root) as server:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not _is_up(address):
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit("error: lorax serve did not come up")
                time.sleep(0.5)
            yield address
        finally:
            server.terminate()


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _verdict(address: str, file: Path) -> str:
    body = json.dumps({"images": [{"name": file.name, "data": base64.b64encode(file.read_bytes()).decode()}]})
    request = urllib.request.Request(f"{address}/v1/verdicts", body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return str(json.load(answer)["results"][0]["verdict"])


def _timeline(registry: Look, champion: ModelVersion) -> str:
    """The page of the figure on the champion's timeline run."""
    from lorax.registry import pages, tracking

    run = tracking.timeline_run(registry.client, champion.experiment, champion.line)
    return f"{registry.uri}/{pages.artifact(champion.experiment, run.info.run_id, pages.TIMELINE_FIGURE)}"


def _learned(workspace: Workspace, params: Params) -> str:
    """Prefect's page of the newest run that learned an episode."""
    api = PrefectApi.of(workspace, params)
    query = {"sort": "START_TIME_DESC", "limit": 1, "flow_runs": {"name": {"like_": "episode"}}}
    newest = api.rows("flow_runs/filter", query)[0]
    return f"{servers.known(params)[0].page}/runs/flow-run/{newest['id']}"


def _password(workspace: Workspace) -> str:
    return (workspace.services_dir / "prefect" / "auth-string").read_text().strip()


if __name__ == "__main__":
    main()
