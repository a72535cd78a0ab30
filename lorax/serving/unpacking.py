"""Large images unpacked by processes: some of Pillow's readers keep Python's lock to the end, and /health would wait.

Each process runs this file as a program. It reads one image file after the other, answers each with its crops or with
what is wrong, and ends with its input, so none outlives the server.
"""

from __future__ import annotations

import ctypes
import signal
import struct
import subprocess
import sys
from collections import deque
from contextlib import suppress
from typing import IO

import numpy as np

from lorax.data.crops import Tiled, crops_of, grid_of, tiled_of
from lorax.data.images import decode_bytes
from lorax.data.pixels import Pixels
from lorax.errors import ImageError

LARGE = 2**20
"""Pixels beyond which an image is unpacked by a process."""

PROCESS_BYTES = 60_000_000
"""What such a process takes by itself, rounded up."""

_KEPT = 2  # processes that wait for the next large image

_QUESTION, _ANSWER = struct.Struct("<QQ?"), struct.Struct("<?QQQQ")
"""Before a file: its bytes, the crops' side, and whether tiles are asked for, too. Before an answer: whether it has
crops, how many squares, its bytes, and the image's height and width."""

_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 4_000_000
"""The name that glibc's malloc.h gives the option, and its value: what is as large is given back once it is freed."""


def unpacked(data: bytes, side: int) -> Pixels:
    """The crops (n, side, side, 3) of an image file that are looked at.

    Raises:
        ImageError: it can't be decoded.
    """
    return crops_of(decode_bytes(data, "the image"), side)


def tiled(data: bytes, side: int) -> Tiled:
    """The same, and the image's tiles.

    Raises:
        ImageError: it can't be decoded.
    """
    return tiled_of(decode_bytes(data, "the image"), side)


class Unpackers:
    """Processes that do what `unpacked` and `tiled` do; each is started when no other is idle. Close them at last."""

    def __init__(self) -> None:
        self._idle: deque[subprocess.Popen[bytes]] = deque()

    def unpacked(self, data: bytes, side: int) -> Pixels:
        """As `unpacked`, from any thread.

        Raises:
            ImageError: it can't be decoded, or the process died of it.
        """
        return self._asked(data, side, with_tiles=False).crops

    def tiled(self, data: bytes, side: int) -> Tiled:
        """As `tiled`, from any thread.

        Raises:
            ImageError: it can't be decoded, or the process died of it.
        """
        return self._asked(data, side, with_tiles=True)

    def _asked(self, data: bytes, side: int, *, with_tiles: bool) -> Tiled:
        process = self._taken()
        try:
            answer = _asked(process, data, side, with_tiles)
        except (OSError, EOFError) as error:
            _end(process)
            raise ImageError("the image can't be decoded: the process that unpacked it died, maybe for lack of memory. "
                             "Scale it down first.") from error  # fmt: skip
        except BaseException:  # its answer, if one comes, must not be read as the next image's
            _end(process)
            raise
        if len(self._idle) < _KEPT:
            self._idle.append(process)
        else:
            _end(process)
        if isinstance(answer, str):
            raise ImageError(answer)
        return answer

    def close(self) -> None:
        """End those that are idle."""
        while self._idle:
            _end(self._idle.pop())

    def _taken(self) -> subprocess.Popen[bytes]:
        with suppress(IndexError):
            while True:
                process = self._idle.pop()
                if process.poll() is None:
                    return process
                _end(process)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lorax.serving.unpacking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the server, which finishes what was begun
        )


def give_back_what_is_freed() -> None:
    """Have memory of decoded images go back to the system, for this process.

    glibc by itself soon keeps freed blocks of up to 32 MB, in each thread for that thread, so that the room that one
    image has left is still in use when the next is decoded. In a process that judges it must be so: the kernel would
    map every large tensor anew.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BLOCK)


def _asked(process: subprocess.Popen[bytes], data: bytes, side: int, with_tiles: bool) -> Tiled | str:
    """Crops and tiles, or what is wrong with the image; OSError or EOFError if the process died."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(_QUESTION.pack(len(data), side, with_tiles))
    process.stdin.write(data)
    process.stdin.flush()
    is_good, count, size, height, width = _ANSWER.unpack(_whole(process.stdout, _ANSWER.size))
    answer = _whole(process.stdout, size)
    if not is_good:
        return answer.decode()
    squares = np.frombuffer(bytearray(answer), np.uint8).reshape(count, side, side, 3)
    crops = count - (len(grid_of(height, width, side)) if with_tiles else 0)
    return Tiled(squares[:crops], squares[crops:], height, width)


def _whole(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # it holds nothing
    process.communicate()


def _answer(questions: IO[bytes], answers: IO[bytes]) -> None:
    while head := questions.read(_QUESTION.size):
        size, side, with_tiles = _QUESTION.unpack(head)
        try:
            found = tiled(questions.read(size), side)
        except ImageError as error:
            text = str(error).encode(errors="replace")
            answers.write(_ANSWER.pack(False, 0, len(text), 0, 0) + text)
        else:
            squares = np.concatenate([found.crops, found.tiles]) if with_tiles else found.crops
            answers.write(_ANSWER.pack(True, len(squares), squares.nbytes, found.height, found.width))
            answers.write(squares.tobytes())
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as systemd sends it to all of a service; our input's end comes
    give_back_what_is_freed()
    _answer(sys.stdin.buffer, sys.stdout.buffer)
