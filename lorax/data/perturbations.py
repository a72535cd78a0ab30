"""What happens to images on their way to a newsroom: saved as JPEG, scaled, blurred, cut, photographed off a screen.

Each perturbation maps pixels to pixels by one stated recipe and is named after it, so that what a branch says of a
perturbed image can be kept by name. They are applied to the whole image, before any crop is cut, and to real and
synthetic images alike: a detector must not learn that one of the two was saved as JPEG.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from lorax.data.pixels import Pixels

_BICUBIC = Image.Resampling.BICUBIC


@dataclass(frozen=True)
class Perturbation:
    """Pixels (H, W, 3) to pixels; `name` says all that `apply` does."""

    name: str
    apply: Callable[[Pixels], Pixels]

    def renamed(self, md5: str) -> str:
        """What to call an image so perturbed: an md5 of its own, the image's where nothing is done."""
        if self is UNCHANGED:
            return md5
        return hashlib.md5(f"{md5}/{self.name}".encode(), usedforsecurity=False).hexdigest()


def jpeg(quality: int) -> Perturbation:
    """Saved as JPEG and read again; colours at half resolution, as cameras and networks do."""
    return Perturbation(f"jpeg-{quality}", lambda p: _saved(p, "JPEG", quality=quality, subsampling="4:2:0"))


def webp(quality: int) -> Perturbation:
    """Saved as lossy WebP and read again."""
    return Perturbation(f"webp-{quality}", lambda p: _saved(p, "WEBP", quality=quality))


def png() -> Perturbation:
    """Saved as PNG and read again, which must change nothing."""
    return Perturbation("png", lambda p: _saved(p, "PNG"))


def resize(percent: int) -> Perturbation:
    """Scaled down to so many percent and back, bicubic."""

    def apply(pixels: Pixels) -> Pixels:
        height, width = pixels.shape[:2]
        small = _scaled(pixels, max(1, height * percent // 100), max(1, width * percent // 100))
        return _scaled(small, height, width)

    return Perturbation(f"resize-{percent}", apply)


def blur(hundredths: int) -> Perturbation:
    """A Gaussian blur; its sigma in hundredths of a pixel."""

    def apply(pixels: Pixels) -> Pixels:
        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(hundredths / 100)))

    return Perturbation(f"blur-{hundredths}", apply)


def crop(percent: int) -> Perturbation:
    """So many percent of each side cut away at the top left, so that nothing lies where it lay."""

    def apply(pixels: Pixels) -> Pixels:
        top, left = (side * percent // 100 for side in pixels.shape[:2])
        return np.ascontiguousarray(pixels[top:, left:])

    return Perturbation(f"crop-{percent}", apply)


def screenshot() -> Perturbation:
    """Shown at nine tenths of its size, captured, scaled back, and saved as JPEG 85."""

    def apply(pixels: Pixels) -> Pixels:
        return jpeg(85).apply(resize(90).apply(pixels))

    return Perturbation("screenshot", apply)


UNCHANGED = Perturbation("clean", lambda pixels: pixels)

CARD: tuple[Perturbation, ...] = (
    UNCHANGED,
    *(jpeg(quality) for quality in (95, 75, 50)),
    *(resize(percent) for percent in (75, 50)),
    blur(100),
    crop(10),
    png(),
    webp(80),
    screenshot(),
)
"""The robustness card's, in the order of its rows."""


KINDS: Mapping[str, tuple[Callable[[int], Perturbation], int, int]] = {
    "jpeg": (jpeg, 85, 98),
    "jpeg-low": (jpeg, 50, 84),
    "webp": (webp, 60, 95),
    "scaled": (resize, 50, 90),
}
"""What a head of its own can be learned for, and between which strengths: JPEG takes the more away the lower its
quality."""


_MIDDLE = 512
"""Side of what is perturbed of a larger image, pixels: WebP takes a second for a camera's picture."""

_BLOCK = 8
"""Side of JPEG's blocks, pixels."""


def of_kind(kind: str, md5: str) -> Perturbation:
    """A perturbation of one of KINDS, of an image's middle; its strength is drawn from the image's md5 alone.

    So is, of an image that is larger than its middle, where blocks of compression lie.
    """
    make, least, most = KINDS[kind]
    drawn = hashlib.blake2b(f"{md5}/{kind}".encode(), digest_size=6).digest()
    whole = make(least + int.from_bytes(drawn[:4], "big") % (most - least + 1))
    down, right = drawn[4] % _BLOCK, drawn[5] % _BLOCK
    return Perturbation(f"{whole.name}-middle", lambda pixels: _in_the_middle(pixels, whole, down, right))


def _in_the_middle(pixels: Pixels, whole: Perturbation, down: int, right: int) -> Pixels:
    height, width = pixels.shape[:2]
    if min(height, width) < _MIDDLE + 2 * _BLOCK:
        return whole.apply(pixels)
    top, left = (height - _MIDDLE) // 2 - down, (width - _MIDDLE) // 2 - right
    cut = np.ascontiguousarray(pixels[top:, left:][: _MIDDLE + down, : _MIDDLE + right])
    return np.ascontiguousarray(whole.apply(cut)[down:, right:])


def drawn(md5: str, view: int, seed: int, share: float) -> Perturbation:
    """What training shows of an image in a view: with probability `share` a perturbation, drawn from these alone.

    Half of the perturbed views are JPEGs of quality 40 to 95; the others are scaled, blurred, or WebP.
    """
    words = hashlib.blake2b(f"{seed}/{md5}/{view}/perturbation".encode(), digest_size=12).digest()
    first, which, strength = (int.from_bytes(words[i : i + 4], "big") for i in (0, 4, 8))
    if first >= share * 2**32:
        return UNCHANGED
    kinds = (jpeg, jpeg, jpeg, resize, blur, webp)
    least, most = {jpeg: (40, 95), webp: (40, 95), resize: (50, 90), blur: (30, 120)}[kind := kinds[which % len(kinds)]]
    return kind(least + strength % (most - least + 1))


def _saved(pixels: Pixels, form: str, **options: object) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    with Image.open(file, formats=[form]) as image:
        return np.asarray(image.convert("RGB"))


def _scaled(pixels: Pixels, height: int, width: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((width, height), _BICUBIC))
