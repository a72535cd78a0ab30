"""Scans are counted where a decoder finds them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lorax.params import ServingParams
from lorax.serving.answers import RefusalError
from lorax.serving.decoding import MOST_SCANS, MOST_SEGMENTS, Room, decode, scans_of
from tests.serving.conftest import image

PLAIN = image(kind="jpeg", size=(64, 64), quality=95)
PROGRESSIVE = image(kind="jpeg", size=(64, 64), progressive=True)


def test_the_scans_of_an_image_are_counted() -> None:
    assert scans_of(PLAIN) == 1
    assert scans_of(PROGRESSIVE) == 10
    assert scans_of(PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda") + 20]) == 10
    assert scans_of(PLAIN[:-2] + b"\xff\xda\x00\x03\x01" * 1000 + PLAIN[-2:]) == MOST_SCANS + 1
    assert scans_of(PLAIN[:2] + b"\xff\xe1\x00\x02" * 2 * MOST_SEGMENTS + PLAIN[2:]) == MOST_SCANS + 1


def test_a_video_behind_a_photo_is_none_of_its_scans() -> None:
    video = np.random.default_rng(0).bytes(9_000_000)
    assert video.count(b"\xff\xda") > MOST_SCANS
    room, params = Room(10**9), ServingParams()
    np.testing.assert_array_equal(decode(PLAIN + video, 16, params, room), decode(PLAIN, 16, params, room))


def test_scans_that_a_thumbnail_or_a_note_holds_do_not_count() -> None:
    note = PROGRESSIVE * 5
    file = io.BytesIO()
    with Image.open(io.BytesIO(PLAIN), formats=["JPEG"]) as plain:
        plain.save(file, "jpeg", comment=note[:60_000], quality=95)
    assert scans_of(file.getvalue()) == 1


def test_an_image_of_too_many_scans_is_refused() -> None:
    with pytest.raises(RefusalError, match="more than 100 scans"):
        decode(PLAIN[:-2] + b"\xff\xda\x00\x03\x01" * 1000, 16, ServingParams(), Room(10**9))


def test_a_long_run_of_fill_bytes_takes_no_time() -> None:
    """By a pattern that tries each beginning of the run this took minutes, with Python's lock held."""
    filled = PLAIN[:2] + b"\xff" * 3_000_000 + PLAIN[2:]
    assert (scans_of(filled), scans_of(filled[:-9])) == (1, 1)
    assert scans_of(PLAIN[:2] + b"\xff" * 3_000_000 + b"\x00") == 0
