"""Pixels that Pillow by itself makes other ones of than the file has."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lorax.data.images import decode_bytes

GREY, WHITE_IS_ZERO, LAB = 1, 0, 8  # photometric interpretations
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # sample formats
PREMULTIPLIED, UNASSOCIATED = 1, 2  # extra samples


def tiff(
    samples: np.ndarray, photometric: int, form: int = UNSIGNED, *, extra: int | None = None, order: str = "<"
) -> bytes:
    """A TIFF of one strip, of samples (H, W) or (H, W, n)."""
    height, width, *rest = samples.shape
    count, depth = (rest or [1])[0], samples.dtype.itemsize * 8
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    fields = {256: [width], 257: [height], 258: [depth] * count, 259: [1], 262: [photometric], 273: [0], 277: [count],
              278: [height], 279: [len(data)], 339: [form] * count}  # fmt: skip
    if extra is not None:
        fields[338] = [extra]
    behind = 8 + 2 + 12 * len(fields) + 4
    lists = b""
    entries = b""
    for tag, values in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if len(packed) > 4:
            entries += struct.pack(f"{order}HHII", tag, 3, len(values), behind + len(lists))
            lists += packed
        elif tag == 273:
            entries += struct.pack(f"{order}HHI", tag, 4, 1) + b"DATA"
        else:
            entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + packed.ljust(4, b"\0")
    entries = entries.replace(b"DATA", struct.pack(f"{order}I", behind + len(lists)))
    head = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8)
    return head + struct.pack(f"{order}H", len(fields)) + entries + bytes(4) + lists + data


def png(rows: list[bytes], width: int, depth: int, kind: int, transparent: tuple[int, ...], *, late: bool) -> bytes:
    """A PNG of packed rows; its transparent colour stands before its pixels, or behind them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0))
    colour = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + (pixels + colour if late else colour + pixels) + chunk(b"IEND", b"")


def grey(data: bytes) -> list[int]:
    pixels = decode_bytes(data, "x")
    assert (pixels == pixels[:, :, :1]).all()
    return pixels[0, :, 0].tolist()


def test_deep_grey_whose_white_is_zero_is_inverted() -> None:
    wide = np.array([[0, 256, 65535]], np.uint16)
    assert grey(tiff(wide, GREY)) == grey(tiff(wide, GREY, order=">")) == [0, 1, 255]
    assert grey(tiff(wide, WHITE_IS_ZERO)) == [255, 254, 0]
    assert grey(tiff(np.array([[0, 0.25, 1]], np.float32), WHITE_IS_ZERO, FLOAT)) == [255, 191, 0]


def test_unsigned_grey_of_32_bits_has_no_sign() -> None:
    wide = np.array([[5, 256, 2**31 - 1, 2**31, 2**32 - 1]], np.uint32)
    assert grey(tiff(wide, GREY)) == [0, 1, 255, 255, 255]
    for order in "<>":
        assert grey(tiff(wide.astype(np.int32), GREY, SIGNED, order=order)) == [0, 1, 255, 0, 0]


def test_grey_that_was_multiplied_by_its_alpha_is_composited_over_white() -> None:
    samples = np.array([[[60, 255], [30, 128], [0, 0]]], np.uint8)
    assert grey(tiff(samples, GREY, extra=PREMULTIPLIED)) == [60, 157, 255]
    assert grey(tiff(samples, GREY, extra=UNASSOCIATED)) == [60, 142, 255]


def test_lab_becomes_srgb_without_colour_management(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageCms

    monkeypatch.setattr(ImageCms, "profileToProfile", None)
    colours = {  # L* of 255, a* and b*, and sRGB as LittleCMS makes it of them
        (255, 0, 0): (255, 255, 255), (0, 0, 0): (0, 0, 0),
        (97, 14, 14): (116, 81, 68), (127, -5, -22): (89, 122, 156), (160, 36, 57): (224, 124, 47),
    }  # fmt: skip
    lab = np.array([list(colours)], np.int16).astype(np.uint8)
    found = decode_bytes(tiff(lab, LAB), "x")[0]
    np.testing.assert_allclose(found, list(colours.values()), atol=1)


@pytest.mark.parametrize("late", [False, True])
def test_a_transparent_colour_is_compared_at_the_files_own_depth(late: bool) -> None:
    sixteen = np.array([[0, 1, 2, 256, 65535]], ">u2").tobytes()
    assert grey(png([sixteen], 5, 16, 0, (1,), late=late)) == [0, 255, 0, 1, 255]
    assert grey(png([bytes([0b00011011])], 4, 2, 0, (1,), late=late)) == [0, 255, 170, 255]
    assert grey(png([bytes([0x01, 0x2F])], 4, 4, 0, (2,), late=late)) == [0, 17, 255, 255]
    assert grey(png([bytes([0b01000000])], 2, 1, 0, (0,), late=late)) == [255, 255]
    assert grey(png([bytes([0, 7, 9])], 3, 8, 0, (7,), late=late)) == [0, 255, 9]
    colours = np.array([[[0, 0, 0], [0, 0, 1], [256, 512, 3], [256, 512, 4]]], ">u2")
    found = decode_bytes(png([colours.tobytes()], 4, 16, 2, (0, 0, 1), late=late), "x")
    assert found.tolist() == [[[0, 0, 0], [255, 255, 255], [1, 2, 0], [1, 2, 0]]]
    found = decode_bytes(png([colours.tobytes()], 4, 16, 2, (256, 512, 4), late=late), "x")
    assert found.tolist() == [[[0, 0, 0], [0, 0, 0], [1, 2, 0], [255, 255, 255]]]


def test_deep_colour_without_a_transparent_one_drops_its_low_bytes() -> None:
    buffer = io.BytesIO(png([np.array([[[257, 0, 65535]]], ">u2").tobytes()], 1, 16, 2, (9, 9, 9), late=False))
    assert decode_bytes(buffer.getvalue(), "x").tolist() == [[[1, 0, 255]]]
    with Image.open(buffer, formats=["PNG"]) as image:
        assert image.mode == "RGB"
