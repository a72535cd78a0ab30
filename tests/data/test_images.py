from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorax.data.images import Images, decode, pad
from lorax.data.perturbations import UNCHANGED, jpeg
from lorax.errors import DataVersionError, ImageError
from lorax.stream import Sample

RAMP = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)


def saved(folder: Path, image: Image.Image, name: str = "x.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def put(folder: Path, name: str, pixels: np.ndarray) -> tuple[Sample, Path]:
    path = saved(folder, Image.fromarray(pixels), name)
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return Sample(f"t/train/0_real/{name}", md5, "t", 0), path


@pytest.fixture
def some(tmp_path: Path) -> tuple[list[Sample], dict[str, Path], list[np.ndarray]]:
    """Three images: 6x5, 1x1 and 9x8."""
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((6, 5), (1, 1), (9, 8))]
    pairs = [put(tmp_path, f"{number}.png", image) for number, image in enumerate(pixels)]
    return [s for s, _ in pairs], {s.md5: path for s, path in pairs}, pixels


def test_rgb_pixels_come_as_stored(tmp_path: Path) -> None:
    for name in ("x.png", "x.bmp", "x.tiff"):
        np.testing.assert_array_equal(decode(saved(tmp_path, Image.fromarray(RAMP), name)), RAMP)


def test_grey_is_replicated(tmp_path: Path) -> None:
    pixels = decode(saved(tmp_path, Image.fromarray(RAMP[:, :, 0])))
    np.testing.assert_array_equal(pixels, np.repeat(RAMP[:, :, :1], 3, axis=2))


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    pixels = decode(saved(tmp_path, Image.fromarray(np.array([[True, False]])).convert("1")))
    assert pixels[0, :, 0].tolist() == [255, 0]


def test_a_palette_is_resolved(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert decode(saved(tmp_path, image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_sixteen_bits_become_eight_by_dropping_the_low_ones(tmp_path: Path) -> None:
    wide = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for name in ("x.png", "x.tiff"):
        assert decode(saved(tmp_path, Image.fromarray(wide), name))[0, :, 1].tolist() == [0, 0, 1, 128, 255]


def test_wide_integers_are_clipped_to_sixteen_bits(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[-5, 256, 70000]], np.int32))
    assert decode(saved(tmp_path, image, "x.tiff"))[0, :, 0].tolist() == [0, 1, 255]


def test_floating_point_is_clipped_and_scaled(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[-1.0, 0.5, 1.0, 7.0, np.nan]], np.float32))
    assert decode(saved(tmp_path, image, "x.tiff"))[0, :, 2].tolist() == [0, 128, 255, 255, 0]


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[0, 100, 200, 255], [0, 100, 200, 0], [0, 0, 0, 128]]], np.uint8))
    assert decode(saved(tmp_path, image)).tolist() == [[[0, 100, 200], [255, 255, 255], [127, 127, 127]]]


def test_grey_with_alpha_is_composited_over_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[60, 255], [60, 0]]], np.uint8))
    assert decode(saved(tmp_path, image))[0, :, 0].tolist() == [60, 255]


def test_a_transparent_colour_becomes_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert decode(saved(tmp_path, image, transparency=(4, 5, 6))).tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_cmyk_goes_through_pillows_conversion(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP).convert("CMYK")
    np.testing.assert_array_equal(decode(saved(tmp_path, image, "x.tiff")), RAMP)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.png", "x.tiff"])  # Pillow itself turns TIFF images
def test_exif_orientation_is_ignored(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(saved(tmp_path, Image.fromarray(RAMP), name, exif=exif)), RAMP)


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (10, 200)]
    path = saved(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])
    assert np.unique(decode(path)).tolist() == [10]


def test_a_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("x.png", "x.jpg"):
        path = saved(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)), name)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ImageError, match=name):
            decode(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"x\.png can't be decoded: (?!.*0x)"):
        decode(tmp_path / "x.png")


def test_a_file_that_can_not_be_read_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="can't be read"):
        decode(tmp_path / "gone.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [12, 29])  # more than twice over, where Pillow raises, and less, where it warns
def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = saved(tmp_path, Image.fromarray(RAMP))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=r"x\.png"):
        decode(path)


def test_padding_reflects_as_often_as_it_takes_and_keeps_the_original_in_the_centre() -> None:
    row = np.repeat(np.array([[[1], [2], [3]]], np.uint8), 3, axis=2)
    assert pad(row, 9)[:, :, 0].tolist() == [[2, 3, 2, 1, 2, 3, 2, 1, 2]] * 9


def test_padding_a_single_pixel_repeats_it() -> None:
    assert pad(np.full((1, 1, 3), 7, np.uint8), 64).tolist() == np.full((64, 64, 3), 7).tolist()


def test_a_large_image_is_not_padded() -> None:
    assert pad(RAMP, 5).shape == (6, 5, 3)
    assert pad(RAMP, 6).shape == (6, 6, 3)


def test_a_batch_holds_the_crops_at_the_offsets(some: Any) -> None:
    samples, paths, pixels = some
    images = Images.load(samples, paths, 4)
    batch = images.batch([2, 0], np.array([[5, 4], [0, 1]]))
    assert tuple(batch.shape) == (2, 3, 4, 4)
    np.testing.assert_array_equal(batch[0].permute(1, 2, 0), pixels[2][5:9, 4:8])
    np.testing.assert_array_equal(batch[1].permute(1, 2, 0), pixels[0][0:4, 1:5])


def test_a_single_pixel_fills_its_crop(some: Any) -> None:
    samples, paths, pixels = some
    images = Images.load(samples, paths, 4)
    crop = images.batch([1], images.offsets(1, 0)[1])
    assert (crop.permute(0, 2, 3, 1).numpy() == pixels[1][0, 0]).all()


def test_keeping_only_centres_changes_no_centre_crop(some: Any) -> None:
    samples, paths, _ = some
    whole, centres = Images.load(samples, paths, 4), Images.load(samples, paths, 4, center_only=True)
    crops = [images.batch(range(3), images.center()[:, 0]) for images in (whole, centres)]
    assert whole.center().shape == (3, 1, 2)
    np.testing.assert_array_equal(crops[0], crops[1])
    assert (centres.center() == 0).all()


def test_images_beyond_the_memory_they_may_take_lie_in_a_file_that_is_gone_at_once(some: Any, tmp_path: Path) -> None:
    samples, paths, _ = some
    held = Images.load(samples, paths, 4)
    mapped = Images.load(samples, paths, 4, overflow=tmp_path / "overflow", in_memory=0)
    assert list((tmp_path / "overflow").iterdir()) == []
    corners = held.offsets(1, 0)[:, 0]
    np.testing.assert_array_equal(mapped.batch(range(3), corners), held.batch(range(3), corners))


def test_crops_cut_on_a_device_are_the_same(some: Any) -> None:
    samples, paths, _ = some
    images, moved = Images.load(samples, paths, 4), Images.load(samples, paths, 4)
    moved.to(torch.device("cpu"))
    indices, corners = np.array([2, 0, 1, 2]), images.offsets(4, 0)[[2, 0, 1, 2], 3]
    np.testing.assert_array_equal(moved.batch(indices, corners), images.batch(indices, corners))


def test_offsets_reach_every_place_and_none_outside(some: Any) -> None:
    samples, paths, _ = some
    offsets = Images.load(samples, paths, 4).offsets(200, seed=3)
    assert offsets.shape == (3, 200, 2)
    assert {tuple(o) for o in offsets[0]} == {(top, left) for top in range(3) for left in range(2)}
    assert (offsets[1] == 0).all()
    assert {tuple(o) for o in offsets[2]} == {(top, left) for top in range(6) for left in range(5)}


def test_offsets_do_not_depend_on_the_rest_of_the_set(some: Any) -> None:
    samples, paths, _ = some
    whole = Images.load(samples, paths, 4).offsets(5, seed=1)
    alone = Images.load(samples[2:], paths, 4).offsets(5, seed=1)
    np.testing.assert_array_equal(whole[2], alone[0])
    np.testing.assert_array_equal(whole[:, :3], Images.load(samples, paths, 4).offsets(3, seed=1))
    assert (whole != Images.load(samples, paths, 4).offsets(5, seed=2)).any()


def test_bytes_that_are_not_the_pinned_ones_are_refused(some: Any) -> None:
    samples, paths, _ = some
    swapped = paths | {samples[0].md5: paths[samples[2].md5]}
    with pytest.raises(DataVersionError, match=r"0\.png is pinned as"):
        Images.load(samples, swapped, 4)


def test_an_empty_set_is_fine() -> None:
    images = Images.load([], {}, 4)
    assert len(images) == 0
    assert images.offsets(2, 0).shape == (0, 2, 2)
    assert tuple(images.batch([], images.center()[:, 0]).shape) == (0, 3, 4, 4)


def test_of_a_perturbed_image_only_a_crop_is_kept_behind_the_images_themselves(some: Any) -> None:
    samples, paths, _ = some
    looks = {sample.md5: (UNCHANGED, jpeg(75), jpeg(50)) for sample in samples}
    plain, images = Images.load(samples, paths, 4), Images.load(samples, paths, 4, looks=looks)
    count = len(samples)
    assert len(images) == 3 * count
    assert [s.md5 for s in images.samples[:count]] == [s.md5 for s in samples]
    assert len({s.md5 for s in images.samples}) == len({s.md5 for s in samples}) * 3
    corners = plain.center()[:, 0]
    assert torch.equal(images.batch(range(count), corners), plain.batch(range(count), corners))
    assert (images.center()[count:] == 0).all()  # nothing but the crop is there
    again = Images.load(samples[1:], paths, 4, looks=looks)
    zeros = np.zeros((2, 2), int)
    assert torch.equal(again.batch([count - 1, count], zeros), images.batch([count + 2, count + 3], zeros))
