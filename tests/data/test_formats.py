"""One list of formats for whichever way an image comes, and one rule for what becomes of what a file holds."""

from __future__ import annotations

import ast
import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import flows
import lorax
from lorax.data.crops import crops_of
from lorax.data.examine import digest_of, examine
from lorax.data.images import FORMATS, decode, decode_bytes, opened
from lorax.data.reading import metadata_of, read_image
from lorax.data.walk import Found
from lorax.errors import ImageError
from lorax.params import ServingParams
from lorax.serving.decoding import Room
from lorax.serving.decoding import decode as decode_upload

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


SIDE = 16
SHOWN = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((24, 20))
)
IMAGE, OTHER = Image.fromarray(SHOWN), Image.fromarray(255 - SHOWN)
GREY = np.asarray(IMAGE.convert("L"))
TEXT = "workflow " * 140_000


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.copy().save(data, kind, **options)  # Pillow notes on an image how it was saved
    return data.getvalue()


def with_another(kind: str, **options: Any) -> bytes:
    """Of a second image, or frame, behind the one."""
    return file_of(IMAGE, kind, save_all=True, append_images=[OTHER.copy()], **options)


def noted(**options: bool) -> PngInfo:
    notes = PngInfo()
    add = notes.add_itxt if options.pop("international") else notes.add_text
    add("workflow", TEXT, zip=options["compressed"])
    return notes


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def first_jpeg(mpo: bytes) -> bytes:
    """The photograph of a motion photo or MPO file, without what comes behind it."""
    return mpo[: mpo.index(b"\xff\xd9") + 2]


AVIF = with_another("AVIF")
PHONE = with_another("MPO", quality=90)
CMYK = file_of(IMAGE.convert("CMYK"), "JPEG", quality=90)
SEMI = np.dstack([SHOWN, np.full(GREY.shape, 128, np.uint8)])

FILES: dict[str, tuple[bytes, np.ndarray | bytes]] = {  # a file, and its pixels or a plain file that has them
    "a phone's photograph with a preview (MPO)": (PHONE, first_jpeg(PHONE)),
    "a motion photo": (first_jpeg(PHONE) + b"\0\0\0\x18ftypmp42" + bytes(5000), first_jpeg(PHONE)),
    "an animated GIF": (with_another("GIF"), file_of(IMAGE, "GIF")),
    "an animated WebP": (with_another("WEBP", lossless=True), SHOWN),
    "an animated PNG": (with_another("PNG"), SHOWN),
    "an animated AVIF": (AVIF, np.asarray(Image.open(io.BytesIO(AVIF)).convert("RGB"))),
    "a TIFF of two pages": (with_another("TIFF"), SHOWN),
    "16-bit grey": (file_of(Image.fromarray(GREY.astype(np.uint16) << 8 | 3), "PNG"), np.dstack([GREY] * 3)),
    "a palette": (file_of(IMAGE.quantize(200), "PNG"), np.asarray(IMAGE.quantize(200).convert("RGB"))),
    "alpha": (file_of(Image.fromarray(SEMI), "PNG"), np.asarray(Image.alpha_composite(
        Image.new("RGBA", IMAGE.size, "white"), Image.fromarray(SEMI)).convert("RGB"))),
    "CMYK": (CMYK, np.asarray(Image.open(io.BytesIO(CMYK)).convert("RGB"))),
    "a large profile in a PNG": (file_of(IMAGE, "PNG", icc_profile=bytes(1_300_000)), SHOWN),
    "a large profile in a JPEG": (
        file_of(IMAGE, "JPEG", icc_profile=bytes(1_300_000)), file_of(IMAGE, "JPEG")),
    "a large profile in a TIFF": (file_of(IMAGE, "TIFF", icc_profile=bytes(1_300_000)), SHOWN),
    "a large text in a PNG": (file_of(IMAGE, "PNG", pnginfo=noted(international=False, compressed=False)), SHOWN),
    "a large compressed text": (file_of(IMAGE, "PNG", pnginfo=noted(international=False, compressed=True)), SHOWN),
    "a large international text": (file_of(IMAGE, "PNG", pnginfo=noted(international=True, compressed=True)), SHOWN),
    "EXIF that says turn": (file_of(IMAGE, "PNG", exif=turned()), SHOWN),
}  # fmt: skip


def served(path: Path) -> np.ndarray:
    return decode_upload(path.read_bytes(), SIDE, ServingParams(), Room(2**30))


def by_mlflow(path: Path) -> np.ndarray:
    from lorax.registry.pyfunc_model import _read_base64

    return crops_of(_read_base64(base64.b64encode(path.read_bytes()).decode(), "row 0"), SIDE)


CROPS: dict[str, Callable[[Path], np.ndarray]] = {
    "learning": lambda path: crops_of(decode(path), SIDE),
    "lorax predict": lambda path: read_image(Found(path), SIDE).crops,
    "lorax serve": served,
    "MLflow's server": by_mlflow,
}


@pytest.mark.parametrize("kind", FILES)
def test_what_a_file_holds_becomes_the_same_pixels_whichever_way_it_comes(tmp_path: Path, kind: str) -> None:
    data, expected = FILES[kind]
    path = tmp_path / "x.png"
    path.write_bytes(data)
    pixels = decode_bytes(expected, "plain") if isinstance(expected, bytes) else expected
    for door, crops in CROPS.items():
        np.testing.assert_array_equal(crops(path), crops_of(pixels, SIDE), err_msg=door)
    assert examine(path, "x").pixels == digest_of(pixels)  # what landing compares


def test_large_texts_of_a_png_are_named_all_the_same() -> None:
    for kind in ("a large text in a PNG", "a large compressed text", "a large international text"):
        found = metadata_of(FILES[kind][0])
        assert (found.format, found.text) == ("PNG", ("workflow",))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_of_a_damaged_file_no_insides_of_a_library_are_told(tmp_path: Path, kind: str) -> None:
    data = file_of(IMAGE, kind)
    path = tmp_path / "x.png"
    for damaged in (data[: len(data) // 2], data[:40] + bytes(20) + data[60:], data[: len(data) // 4]):
        path.write_bytes(damaged)
        for tell in DOORS.values():
            told = tell(path)
            assert told == "" or told.endswith(
                (
                    "can't be decoded: it breaks off before its end.",
                    "can't be decoded: it is damaged.",
                    "Save it as PNG.",
                )
            )
