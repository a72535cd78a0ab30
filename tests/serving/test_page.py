"""The page for people, in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lorax.data.crops import crops_of
from lorax.data.images import decode_bytes
from lorax.serving.model import Served, open_served
from tests.serving.conftest import SMALL, Running, Shelf, image, running, version
from tests.tiny_learner import Learned, calibrated

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HOSTILE = '"><img src=x onerror="window.ran=1">.png'
LOUD = SMALL.model_copy(update={"max_images": 64, "queue": 999})

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def address(learned: list[Learned], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server whose version is calibrated, follows an alias, and asks for a token."""
    state_dir = calibrated(learned[0].state_dir, tmp_path_factory.mktemp("states") / "calibrated")
    model = open_served("tiny", version(1), state_dir, "cpu")
    with running() as begin:
        yield str(begin(model, LOUD, Shelf({1: state_dir}), token="secret").http.base_url)


@pytest.fixture(scope="module")
def open_page(address: str) -> Iterator[Open]:
    """Open the page in a context of its own, with the token given."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])

        def begin(at: str = address, **options: Any) -> Any:
            page = browser.new_context(**options).new_page()
            page.goto(at)
            if page.locator("#token").is_visible() or at == address:
                page.fill("#token-text", "secret")
                page.press("#token-text", "Enter")
            page.wait_for_selector("#served:has-text('version 1')")
            return page

        yield begin
        browser.close()


def upload(page: Any, *images: tuple[str, bytes]) -> None:
    page.set_input_files("#files", [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in images])
    page.wait_for_selector(f"#progress:has-text('{len(images)} of {len(images)} looked at.')")


def serious(page: Any) -> list[str]:
    """What axe calls serious or worse."""
    page.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_can_be_read_and_used_by_everybody(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": 375, "height": 800})
    assert serious(page) == []
    upload(page, ("a.png", image(size=(40, 36))), ("b.heic", b"no image"), ("c.png", image(2)))
    page.wait_for_selector("text=Show the map")
    assert serious(page) == []
    page.click("text=HEIC images can't be read")
    assert "Ask for the photo as JPEG" in page.inner_text("#case")
    assert serious(page) == []
    page.press("#tab-images", "ArrowRight")
    assert "Model card 1" in page.inner_text("#model")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate("window.ran") is None


def test_a_case_is_told_and_saved_and_no_name_becomes_markup(open_page: Open, tmp_path: Path) -> None:
    notes, file = PngImagePlugin.PngInfo(), io.BytesIO()
    notes.add_text("<b>prompt", "x")
    pixels = np.random.default_rng(1).integers(0, 128, (40, 57, 3), np.uint8)
    Image.fromarray(pixels).save(file, "png", pnginfo=notes)
    page = open_page()
    upload(page, (HOSTILE, file.getvalue()))
    page.wait_for_selector("text=<b>prompt")
    assert HOSTILE in page.inner_text("#case")
    page.fill("#note", "<i>seen")
    saved = []
    for button in ("JSON", "HTML"):
        with page.expect_download() as waiting:
            page.click(f"button:has-text('{button}')")
        waiting.value.save_as(tmp_path / button)
        saved.append((tmp_path / button).read_text())
    record = json.loads(saved[0])
    assert (record["image"]["name"], record["note"]) == (HOSTILE, "<i>seen")
    assert record["words"] == page.inner_text("#case h2")
    assert "[object" not in page.inner_text("body") + saved[1]
    page.set_content(saved[1])
    assert "The map" in page.inner_text("body")
    assert HOSTILE in page.inner_text("body")
    assert record["image"]["sha256"] in page.inner_text("body")
    assert page.locator("body img").count() == 1  # the picture
    assert page.locator("body i, body b, body script").count() == 0
    assert page.evaluate("window.ran") is None


def test_the_map_shows_where_the_verdict_looked(open_page: Open, model: Served) -> None:
    page, data = open_page(), image(3, size=(41, 38))
    upload(page, ("a.png", data))
    page.wait_for_selector("text=Show the map")
    pixels = decode_bytes(data, "a")
    places = page.eval_on_selector_all(".map .crop", "all => all.map(one => [one.y, one.x].map(v => v.baseVal.value))")
    side = model.crop
    found = [pixels[int(y) : int(y) + side, int(x) : int(x) + side] for y, x in places]
    assert np.array_equal(np.stack(found), crops_of(pixels, side))


def test_a_turned_photo_is_shown_under_its_map_as_it_is_stored(open_page: Open, tmp_path: Path) -> None:
    pixels, file, exif = np.zeros((48, 64, 3), np.uint8), io.BytesIO(), Image.Exif()
    pixels[:, :32, 0] = pixels[:, 32:, 2] = 255  # left red, right blue
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file, "jpeg", exif=exif)
    page = open_page()
    upload(page, ("a.jpg", file.getvalue()))
    page.uncheck("#fields")
    with page.expect_download() as waiting:
        page.click("button:has-text('HTML')")
    waiting.value.save_as(tmp_path / "report")
    encoded = re.findall(r"data:image/jpeg;base64,([^\"]+)", (tmp_path / "report").read_text())[0]
    for shown in (page.locator(".map").screenshot(), base64.b64decode(encoded)):
        seen = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB")).astype(int)
        assert seen.shape[0] < seen.shape[1]
        left, right = seen[:, :28].mean((0, 1)), seen[:, 36:].mean((0, 1))
        assert left[0] - left[2] > right[0] - right[2] + 50


VERDICT = {"calibrated": True, "generator": None, "one_of": [], "strangeness": 1.0, "threshold": 2.0, "real": 0.05}
WORDS = [
    ({"verdict": "real", "real": 0.995}, "Almost certainly real"),
    ({"verdict": "synthetic:a", "generator": "a"}, "Very likely synthetic, most like a"),
    ({"verdict": "synthetic", "real": 0.3, "one_of": ["a", "b"]}, "Likely synthetic, by a or b"),
    ({"verdict": "synthetic", "real": 0.45}, "More likely than not synthetic, by no generator for sure"),
    (
        {"verdict": "synthetic:unknown", "strangeness": 3.0},
        "Like nothing the model was shown: synthetic rather than real",
    ),
    ({"verdict": "undecided", "strangeness": 3.0}, "Like nothing the model was shown: undecided"),
    ({"verdict": "undecided"}, "Undecided: neither real nor synthetic is likely enough"),
    ({"verdict": "undecided: too little to see", "strangeness": 3.0}, "Too little to see: no verdict"),
    ({"verdict": "real", "calibrated": False, "strangeness": None}, "Called real; how sure that is can't be said"),
]


def test_every_verdict_has_its_words(open_page: Open) -> None:
    say = "async all => { const {words} = await import('/page/words.js'); return all.map(words); }"
    assert open_page().evaluate(say, [VERDICT | one for one, _ in WORDS]) == [said for _, said in WORDS]


def test_the_documentation_has_the_bands_of_the_page() -> None:
    written = (ROOT / "docs/how-to/page.md").read_text()
    code = (files("lorax.serving") / "page_files/words.js").read_text()
    bands = re.findall(r'\[([\d.]+), "(.+)"\]', code)
    assert len(bands) == 4
    for least, words in bands:
        assert f"| {words.lower()} | {float(least):g} |" in written


def test_a_wheel_carries_every_file_of_the_page() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["lorax"]
    carried = {path for pattern in patterns for path in (ROOT / "lorax").glob(pattern)}
    assert carried >= {path for path in (ROOT / "lorax/serving/page_files").iterdir() if path.is_file()}


def test_the_page_runs_its_own_files_alone(served: Running) -> None:
    page = served.http.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "//" not in page.text
    assert served.http.get("/page/page.js").status_code == 200
    assert served.http.get("/page/..%2Fapp.py").status_code == 404
