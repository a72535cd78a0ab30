from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lorax.data import reading
from lorax.data.crops import crops_of
from lorax.data.images import Images
from lorax.data.png import MOST_TEXTS
from lorax.data.reading import Metadata, metadata_of, read_image
from lorax.data.walk import Found


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(5, 40), (16, 16), (31, 100), (17, 20)])
def test_of_an_image_that_is_not_large_the_centre_is_looked_at_as_evaluation_does(shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    images = Images((), [pixels], 16)
    expected = images.batch([0], images.center()[:, 0])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(crops_of(pixels, 16), expected[None])


def test_of_a_large_image_the_centre_and_the_quarters_are_looked_at() -> None:
    rows, columns = np.mgrid[:32, :32]
    quarters = np.repeat((2 * (rows >= 16) + (columns >= 16)).astype(np.uint8)[..., None], 3, axis=2)
    crops = crops_of(quarters, 16)
    assert crops.shape == (5, 16, 16, 3)
    assert [set(crop.ravel().tolist()) for crop in crops] == [{0, 1, 2, 3}, {0}, {1}, {2}, {3}]
    wide = crops_of(noise(33, 101), 16)
    assert np.array_equal(wide[0], noise(33, 101)[8:24, 42:58])
    assert np.array_equal(wide[4], noise(33, 101)[17:33, 68:84])  # centres at 24.75 and 75.75


def test_a_reading_names_its_file_by_hash_and_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(noise(40, 60)).save(path)
    found = read_image(Found(path), 16)
    assert (found.error, found.width, found.height, found.container) == ("", 60, 40, None)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(found.crops, crops_of(noise(40, 60), 16))


def test_whatever_is_wrong_is_told_in_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_bytes(b"no image")
    for name, said in (("text.png", "it is none of"), ("missing.png", "No such file"), ("nul\0.png", "null")):
        found = read_image(Found(tmp_path / name), 16)
        assert said in found.error
        assert len(found.crops) == 0
    assert read_image(Found(tmp_path, "it is odd."), 16).error == "it is odd."
    monkeypatch.setattr(reading, "LARGEST", 7)
    assert "has 8 bytes; more than 7 are refused" in read_image(Found(tmp_path / "text.png"), 16).error


def test_what_a_file_holds_beside_pixels_is_named_and_changes_nothing_that_is_judged(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0131], exif[0x010F], exif[0x0112] = "An AI generator", "A camera", 6
    notes = PngInfo()
    notes.add_text("parameters", "a cat, best quality")
    notes.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta xmlns:x="adobe:ns:meta/">trainedAlgorithmicMedia</x:xmpmeta>')
    notes.add(b"caBX", b"\0\0\0\x1ejumb\0\0\0\x16jumdc2pa")
    image = Image.fromarray(noise(20, 30))
    image.save(tmp_path / "bare.png")
    image.save(tmp_path / "noted.png", exif=exif, pnginfo=notes)
    bare, noted = (read_image(Found(tmp_path / f"{name}.png"), 16, with_container=True) for name in ("bare", "noted"))
    assert np.array_equal(bare.crops, noted.crops)
    assert bare.container == Metadata("PNG", (), (), False, False)
    assert noted.container is not None
    assert noted.container.exif == ("Make", "Orientation", "Software")
    assert "parameters" in noted.container.text
    assert (noted.container.xmp, noted.container.c2pa) == (True, True)


def test_notes_that_can_t_be_read_count_as_not_there() -> None:
    assert metadata_of(b"\xff\xd8 no image") == Metadata("", (), (), False, False)


def test_of_a_file_full_of_notes_some_are_told_by_short_names(tmp_path: Path) -> None:
    notes = PngInfo()
    for i in range(MOST_TEXTS + 50):
        notes.add(b"tEXt", f"key {i:05}".encode())
    notes.chunks.insert(0, (b"tEXt", b"x" * 9999, False))
    Image.fromarray(noise(4, 4)).save(tmp_path / "a.png", pnginfo=notes)
    found = metadata_of((tmp_path / "a.png").read_bytes()).text
    assert len(found) == MOST_TEXTS
    assert found[-1] == "x" * 79
