"""What storing an image leaves in its pixels, and nothing else, tells one container from another."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorax.data.container import Container
from lorax.data.examine import Examined, examine

SHOWN = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((48, 40))
)
IMAGE = Image.fromarray(SHOWN)
GREY = IMAGE.convert("L")
OPAQUE = Image.fromarray(np.dstack([SHOWN, np.full((40, 48), 255, np.uint8)]))
CLEAR = Image.fromarray(np.dstack([SHOWN, np.arange(40 * 48, dtype=np.uint32).reshape(40, 48).astype(np.uint8)]))
PREVIEW = IMAGE.resize((12, 10))


@pytest.fixture
def look(tmp_path: Path) -> Any:
    def look(image: Image.Image, kind: str, **options: Any) -> Examined:
        data = io.BytesIO()
        image.copy().save(data, kind, **options)
        (tmp_path / "x").write_bytes(data.getvalue())
        found = examine(tmp_path / "x", "x")
        assert not found.problem
        return found

    return look


def test_what_keeps_every_pixel_is_one_kind(look: Any) -> None:
    ways: list[tuple[str, dict[str, Any]]] = [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"})]
    animated = {"lossless": True, "save_all": True, "append_images": [PREVIEW.resize(IMAGE.size)]}
    ways += [("WEBP", {"lossless": True}), ("WEBP", animated), ("PNG", {"compress_level": 1})]
    found = [look(IMAGE, kind, **options) for kind, options in ways]
    found.append(look(OPAQUE, "PNG"))
    assert {one.container for one in found} == {Container("lossless", "colour", 48, 40)}
    assert len({one.pixels for one in found}) == len({one.fingerprint for one in found}) == 1


def test_a_phones_photograph_is_a_jpeg_with_something_behind_it(look: Any) -> None:
    plain = look(IMAGE, "JPEG", quality=90)
    phone = look(IMAGE, "MPO", quality=90, save_all=True, append_images=[PREVIEW])
    assert phone.container is plain.container  # equal ones are held once
    assert (phone.container.codec, len(phone.container.tables)) == ("JPEG 4:2:0", 128)


def test_grey_is_grey_however_it_is_stored(look: Any) -> None:
    for kind, options in (("PNG", {}), ("JPEG", {"quality": 80})):
        assert look(GREY, kind, **options).container.look == "grey"
    assert look(GREY, "PNG").container == look(GREY.convert("RGB"), "PNG").container
    one, three = (look(image, "JPEG", quality=80).container for image in (GREY, GREY.convert("RGB")))
    assert one == three


def test_what_remains_visible_tells_them_apart(look: Any) -> None:
    ways: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (IMAGE, "PNG", {}), (IMAGE, "JPEG", {}), (IMAGE, "JPEG", {"quality": 90}), (IMAGE, "JPEG", {"subsampling": 0}),
        (IMAGE, "WEBP", {}), (IMAGE, "AVIF", {}), (IMAGE, "TIFF", {"compression": "jpeg"}), (IMAGE, "GIF", {}),
        (IMAGE.quantize(16), "PNG", {}), (GREY, "PNG", {}), (GREY.convert("1"), "PNG", {}), (CLEAR, "PNG", {}),
        (IMAGE.resize((47, 40)), "PNG", {}),
    ]  # fmt: skip
    assert len({look(image, kind, **options).container for image, kind, options in ways}) == len(ways)
