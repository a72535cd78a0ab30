"""Pixels of an opened image file as 8-bit RGB, by one rule, and as the file means them.

Pixels are taken as stored: EXIF orientation is ignored, and of an animation the first frame counts. Colour becomes
8-bit RGB:

- grey is replicated to three channels; palettes are resolved; one bit becomes 0 or 255;
- 16-bit grey (and 32-bit integers, clipped to 16 bits) becomes 8-bit by `value >> 8`;
- floating point is clipped to [0, 1] and scaled to 0..255, rounding to the nearest;
- where a TIFF says that white is zero, it is inverted first;
- alpha, or a transparent colour (compared at the file's own depth), is composited over white;
- CIE Lab becomes sRGB by CIE's formulas for D50, clipped, since Pillow's way leads through colour management;
- CMYK, YCbCr and the rest go through Pillow's `convert("RGB")`, without colour management.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from lorax.data.pixels import Pixels

_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339  # TIFF's tags
_WHITE_IS_ZERO = 0
_UNSIGNED = 1

_AT_ONCE = 2**20  # pixels that are converted at a time
_DEEPEST = 65535
_WHITE = 255
_SCALES = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey of few bits with, but not the transparent one among them; by the way they are packed."""

_HIGH_BYTES, _LOW_BYTES = "RGB;16B", "RGB;16L"
"""Ways of unpacking 16-bit colours: the first takes the upper half of big-endian ones, the second the lower."""

# Pillow turns TIFF images by their orientation tag while it loads them; these turn them back.
_UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def loaded(image: Image.Image, data: bytes) -> Image.Image:
    """Unpack an image, and mend what Pillow makes other pixels of than the file has.

    Args:
        image: opened, not loaded.
        data: the file that it was opened from.
    """
    if image.format == "TIFF":
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        tags: Any = getattr(image, "tag_v2", {})
        image.load()
        return _named(_as_meant(_turned_back(image, orientation), tags), image)
    packed = _packing(image)
    image.load()
    if image.format == "PNG" and "transparency" in image.info:  # which may stand behind the pixels
        return _named(_with_transparent_colour(image, packed, data), image)
    return image


def is_plain(image: Image.Image) -> bool:
    """Whether its pixels are 8-bit RGB already, as nearly all are; spares copies."""
    return image.mode == "RGB" and "transparency" not in image.info


def to_rgb(image: Image.Image) -> Pixels:
    """The pixels of a loaded image, (H, W, 3), by the rules of this module's docstring."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for left, top, right, bottom in _tiles(image.width, image.height):
        pixels[top:bottom, left:right] = _rgb(image.crop((left, top, right, bottom)))
    return pixels


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """An image in parts, since Python runs nothing else while Pillow converts or composites one."""
    across = max(1, min(width, _AT_ONCE))
    down = max(1, _AT_ONCE // across)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


def _rgb(image: Image.Image) -> Pixels:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _replicated((np.clip(np.asarray(image), 0, _DEEPEST) >> 8).astype(np.uint8))
    if image.mode == "F":
        unit = np.clip(np.nan_to_num(np.asarray(image, np.float64), nan=0.0), 0.0, 1.0)
        return _replicated(np.rint(unit * 255).astype(np.uint8))
    if image.mode == "LAB":
        lab = np.asarray(image)
        return _srgb(_xyz(lab.reshape(-1, 3))).reshape(lab.shape)
    if image.mode == "La":
        grey, alpha = (np.asarray(band, np.uint16) for band in image.split())
        return _replicated(np.minimum(grey + _WHITE - alpha, _WHITE).astype(np.uint8))
    if image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (_WHITE, _WHITE, _WHITE, _WHITE)), layer)
    return np.asarray(image.convert("RGB"))


def _named(image: Image.Image, like: Image.Image) -> Image.Image:
    image.format = like.format
    return image


def _turned_back(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UNTURN.get(orientation)
    return image if turn is None else image.transpose(turn)


def _as_meant(image: Image.Image, tags: Any) -> Image.Image:
    """Deep grey of a TIFF, which Pillow neither inverts nor takes for unsigned."""
    if image.mode == "I" and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0] == _UNSIGNED:
        return Image.fromarray(np.minimum(np.asarray(image).view(np.uint32), _DEEPEST).astype(np.int32))
    if tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO:
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((_DEEPEST - np.asarray(image)).astype(np.uint16))
    return Image.fromarray(1 - np.asarray(image)) if image.mode == "F" else image


def _packing(image: Any) -> str:
    """How the pixels of an image that is not loaded lie in the file, as Pillow calls it."""
    args = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else ""


def _with_transparent_colour(image: Image.Image, packed: str, data: bytes) -> Image.Image:
    """A PNG whose transparent colour is white where Pillow compares it at another depth than the file's."""
    colour = image.info["transparency"]
    if packed in _SCALES:
        image.info["transparency"] = colour * _SCALES[packed]
        return image
    if image.mode.startswith("I;16"):
        wide = np.array(image)
        wide[wide == colour] = _DEEPEST
        return Image.fromarray(wide)
    if packed != _HIGH_BYTES:
        return image
    with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
        again.tile = [tile._replace(args=_LOW_BYTES) for tile in again.tile]
        again.load()
        low = np.asarray(again)
    pixels = np.array(image)
    wanted = np.array(colour)
    is_clear = ((pixels == wanted >> 8) & (low == wanted & 255)).all(axis=2)
    pixels[is_clear] = _WHITE
    return Image.fromarray(pixels)


_KAPPA, _EPSILON = 24389 / 27, 6 / 29
_D50 = np.array([0.96422, 1.0, 0.82521], np.float32)
_XYZ_TO_SRGB = np.array(
    [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]],
    np.float32,
)
"""From D50 to sRGB's D65 by Bradford's adaptation."""


def _xyz(lab: Pixels) -> NDArray[np.float32]:
    """Of CIE L*a*b* (N, 3), L* scaled to 255 and a* and b* signed."""
    lightness = lab[:, 0] * np.float32(100 / 255)
    a, b = lab[:, 1:].view(np.int8).T.astype(np.float32)
    y = (lightness + 16) / 116
    f = np.stack([y + a / 500, y, y - b / 200], axis=1)
    xyz: NDArray[np.float32] = np.where(f > _EPSILON, f**3, (116 * f - 16) / _KAPPA) * _D50
    return xyz


def _srgb(xyz: NDArray[np.float32]) -> Pixels:
    linear = np.clip(xyz @ _XYZ_TO_SRGB.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    pixels: Pixels = np.rint(encoded * 255).astype(np.uint8)
    return pixels


def _replicated(grey: Pixels) -> Pixels:
    return np.repeat(grey[:, :, None], 3, axis=2)
