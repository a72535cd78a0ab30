"""What is told of one image beside its verdict, and of the version that gave it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from lorax.data.crops import grid_of
from lorax.data.images import decode_bytes
from lorax.params import ServingParams
from lorax.serving import answers
from lorax.serving.model import Served
from lorax.serving.requests import MODEL, TILES
from tests.serving.conftest import SMALL, Gate, Running, Shelf, Start, image, running


@pytest.fixture(scope="module")
def roomy(model: Served) -> Iterator[Running]:
    with running() as begin:
        yield begin(model, SMALL.model_copy(update={"queue": 99}))


def test_each_tile_has_the_verdict_that_it_would_have_as_an_image(roomy: Running, model: Served) -> None:
    data = image(size=(40, 36))
    answer = roomy.http.post(TILES, files={"image": ("a.png", data)})
    found = answers.TiledVerdict.model_validate(answer.json())
    pixels, side = decode_bytes(data, "x"), model.crop
    assert (found.width, found.height, found.side, found.columns) == (40, 36, side, 3)
    assert found.probabilities == pytest.approx(roomy.post(data).json()["results"][0]["probabilities"], abs=1e-5)
    assert [(tile.top, tile.left) for tile in found.tiles] == grid_of(36, 40, side)
    for tile in found.tiles:
        square = np.ascontiguousarray(pixels[tile.top : tile.top + side, tile.left : tile.left + side])
        [expected] = model.predictor.judge([square], ["x"])
        assert (tile.verdict, tile.real) == (expected.verdict, pytest.approx(expected.real, abs=1e-5))


def test_what_the_file_holds_beside_pixels_is_named(roomy: Running) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x010F] = "maker"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "jpeg", exif=exif)
    notes = roomy.http.post(TILES, files={"image": file.getvalue()}).json()["notes"]
    assert notes == {"format": "JPEG", "exif": ["Make"], "text": [], "xmp": False, "c2pa": False}


@pytest.mark.parametrize(("images", "code"), [([b"no image"], "not_an_image"), ([image()] * 2, "too_many_images")])
def test_what_has_no_tiles_is_refused_with_its_reason(roomy: Running, images: list[bytes], code: str) -> None:
    answer = roomy.http.post(TILES, files=[("image", one) for one in images])
    assert 400 <= answer.status_code < 500
    assert answers.Refused.model_validate(answer.json()).error.code == code


def test_tiles_count_as_images_that_wait(start: Start, gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    gate.is_open.set()
    answer = start(model, ServingParams(queue=40)).http.post(TILES, files={"image": image()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")


def test_the_version_is_described_by_itself_and_by_the_registry(start: Start, model: Served, shelf: Shelf) -> None:
    found = answers.Description.model_validate(start(model, shelf=shelf).http.get(MODEL).json())
    assert (found.version, found.alias, found.problem) == (1, "champion", "")
    assert found.card is not None
    assert found.made_at is not None
    [task] = found.tasks
    assert (task.name, task.generators, task.version) == ("alpha", ["alpha"], 1)
    assert task.accuracy == [row[0] for row in model.predictor.state.accuracy]


def test_a_registry_that_does_not_answer_is_told_of_and_not_what_it_said(
    start: Start, model: Served, shelf: Shelf
) -> None:
    shelf.is_away = True
    found = answers.Description.model_validate(start(model, shelf=shelf).http.get(MODEL).json())
    assert (found.card, found.made_at, [task.name for task in found.tasks]) == (None, None, ["alpha"])
    assert "did not tell all" in found.problem
    assert "MLflow" not in found.problem


def test_without_a_registry_the_version_is_described_by_itself(roomy: Running) -> None:
    found = answers.Description.model_validate(roomy.http.get(MODEL).json())
    assert (found.card, found.made_at, found.problem) == (None, None, "no registry is at hand")
    assert [task.name for task in found.tasks] == ["alpha"]
