"""One list of formats for whichever way an image comes: nothing else reaches its reader, whatever a file is called."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from PIL import Image

import flows
import lorax
from lorax.data.examine import examine
from lorax.data.images import FORMATS, decode_bytes, opened
from lorax.data.reading import metadata_of, read_image
from lorax.data.walk import Found
from lorax.errors import ImageError

FOREIGN = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n",
    "PPM": b"P6 1 1 255\n\1\2\3",
    "TGA": bytes([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 24, 0, 1, 2, 3]),
}


def decoded(path: Path) -> str:
    try:
        decode_bytes(path.read_bytes(), path.name)
    except ImageError as error:
        return str(error)
    return ""


DOORS: dict[str, Callable[[Path], str]] = {
    "an episode's images, and MLflow's model": decoded,
    "predict and watch-verdicts": lambda path: read_image(Found(path), 8, with_container=True).error,
    "landing": lambda path: examine(path, path.name).problem,
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_on_the_list_never_reaches_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, door: str
) -> None:
    def reached(*_: object) -> NoReturn:
        raise AssertionError(f"{kind}'s reader was asked")

    Image.init()
    monkeypatch.setitem(Image.OPEN, kind, (reached, reached))
    path = tmp_path / "x.png"
    path.write_bytes(FOREIGN[kind])
    assert "x.png can't be decoded: it is none of JPEG, PNG" in DOORS[door](path)
    assert metadata_of(path.read_bytes()).format == ""


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_on_it_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    Image.new("RGB", (9, 8), "red").save(path, kind)
    with opened(path.read_bytes(), "x") as image:
        assert (image.format, image.size) == (kind, (9, 8))


def test_every_image_is_opened_as_one_of_the_formats_that_are_named() -> None:
    packages = [Path(package.__file__ or "").parent for package in (lorax, flows)]
    calls = [
        (path.name, node)
        for package in packages
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open"
    ]
    assert calls
    assert [name for name, call in calls if "formats" not in {keyword.arg for keyword in call.keywords}] == []
