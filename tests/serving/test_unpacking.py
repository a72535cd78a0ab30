"""Large images are unpacked by processes, which say what would be said here, and whose death is one image's fault."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from lorax.errors import ImageError
from lorax.params import ServingParams
from lorax.serving.model import Served
from lorax.serving.unpacking import LARGE, Unpackers, tiled, unpacked
from tests.serving.conftest import Start, image

SIZE = (1100, 1000)
SIDE = 8


@pytest.fixture(scope="module")
def unpackers() -> Iterator[Unpackers]:
    found = Unpackers()
    yield found
    found.close()
    assert not processes()


def processes() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if p.is_running() and "lorax.serving.unpacking" in p.cmdline()]


def test_a_process_says_what_would_be_said_here(unpackers: Unpackers) -> None:
    for kind in ("jpeg", "tiff"):
        data = image(kind=kind, size=SIZE)
        assert np.array_equal(unpackers.unpacked(data, SIDE), unpacked(data, SIDE))
        here, there = tiled(data, SIDE), unpackers.tiled(data, SIDE)
        assert np.array_equal(there.crops, here.crops)
        assert np.array_equal(there.tiles, here.tiles)
        assert (there.width, there.height) == (here.width, here.height) == SIZE
    half = image(kind="jpeg", size=SIZE)[:9999]
    said = []
    for unpack in (unpackers.unpacked, unpacked):
        with pytest.raises(ImageError) as found:
            unpack(half, SIDE)
        said.append(str(found.value))
    assert said[0] == said[1]
    assert len(processes()) == 1


def test_a_process_that_is_killed_is_the_image_s_fault_and_the_next_has_another(unpackers: Unpackers) -> None:
    data = image(kind="bmp", size=SIZE)
    unpackers.unpacked(data, SIDE)
    (idle,) = processes()
    idle.kill()
    idle.wait()
    assert np.array_equal(unpackers.unpacked(data, SIDE), unpacked(data, SIDE))
    taken = unpackers._taken()
    taken.kill()
    taken.wait()
    unpackers._taken = lambda: taken  # type: ignore[method-assign]  # it dies once it has been taken
    with pytest.raises(ImageError, match="the process that unpacked it died"):
        unpackers.unpacked(data, SIDE)
    del unpackers._taken


def test_a_process_whose_question_failed_here_is_not_asked_again(unpackers: Unpackers) -> None:
    data = image(kind="bmp", size=SIZE)
    unpackers.unpacked(data, SIDE)
    (idle,) = processes()
    with pytest.raises(struct.error):
        unpackers.unpacked(data, -1)
    assert not idle.is_running()
    assert np.array_equal(unpackers.unpacked(data, SIDE), unpacked(data, SIDE))
    unpackers.close()
    assert not processes()


def test_only_large_images_leave_the_server_s_process(start: Start, model: Served) -> None:
    running = start(model, ServingParams())
    small, large = image(size=(64, 64)), image(kind="jpeg", size=SIZE)
    assert SIZE[0] * SIZE[1] > LARGE
    assert (running.post(small).status_code, processes()) == (200, [])
    assert running.post(large).status_code == 200
    (process,) = processes()
    running.server.should_exit = True
    began = time.monotonic()
    while process.is_running() and time.monotonic() < began + 60:
        time.sleep(0.05)
    assert not process.is_running()
