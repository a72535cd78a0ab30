"""The way of an image through the server: admitted, decoded by one of a few threads, judged in a batch, answered."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lorax.data.crops import MOST_TILES, Tiled, grid_of
from lorax.data.pixels import Pixels
from lorax.data.reading import Metadata, metadata_of
from lorax.params import ServingParams
from lorax.serving.answers import RefusalError, overloaded
from lorax.serving.batching import Batcher, ServedVerdict
from lorax.serving.decoding import Room, cut, decode, encoded, sha256
from lorax.serving.meters import Meters
from lorax.serving.model import Served
from lorax.serving.unpacking import Unpackers, tiled
from lorax.serving.uploads import Held, Upload, parse

_log = logging.getLogger(__name__)

_MB = 1_000_000
_SMALL_BODY = 256 * 1024
"""Bytes of a body that is taken apart at once; a larger one would keep other requests waiting."""

_UNPROCESSABLE = 422

_NOTES_BYTES = 4
"""A pixel: Pillow unpacks a PNG to find notes behind its pixels."""


@dataclass
class _Case:
    """One image on its way."""

    upload: Upload
    answer: asyncio.Future[ServedVerdict]
    sha256: str | None = None


@dataclass(frozen=True)
class UploadOutcome:
    """What became of one image: an answer, or why there is none."""

    name: str
    sha256: str | None
    answer: ServedVerdict | None
    refusal: RefusalError | None

    def record(self) -> dict[str, Any]:
        """As it is answered."""
        head = {"name": self.name, "sha256": self.sha256}
        if self.answer is None:
            return head | {"error": self.refusal.record() if self.refusal else None}
        verdict = vars(self.answer.verdict).copy()
        del verdict["source"]
        return head | verdict | {"model": self.answer.model.record}


@dataclass(frozen=True)
class TiledOutcome:
    """What became of an image of which every tile was judged, too."""

    outcome: UploadOutcome
    tiles: Sequence[ServedVerdict]
    size: tuple[int, int]  # height, width
    side: int  # of a tile, pixels
    notes: Metadata

    def record(self) -> dict[str, Any]:
        """As it is answered."""
        (height, width), corners = self.size, grid_of(*self.size, self.side)
        tiles = [
            {"top": top, "left": left, **{key: getattr(one.verdict, key) for key in _OF_A_TILE}}
            for (top, left), one in zip(corners, self.tiles, strict=True)
        ]
        size = {"width": width, "height": height, "side": self.side, "columns": len({left for _, left in corners})}
        return self.outcome.record() | size | {"tiles": tiles, "notes": vars(self.notes)}


_OF_A_TILE = ("verdict", "generator", "one_of", "probability", "real", "strangeness")


class VerdictService:
    """All of the server but HTTP; made inside the event loop that it serves.

    Args:
        threads: how many batches are judged at once, on a CPU.
    """

    def __init__(self, model: Served, params: ServingParams, meters: Meters, threads: int) -> None:
        self.params, self.meters = params, meters
        self.held = Held(int(params.memory_mb * _MB))
        self._batcher = Batcher(model, threads, meters.batches.observe)
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="decode")
        self._room, self._unpackers = Room(int(params.memory_mb * _MB)), Unpackers()
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        meters.name_model(model)
        meters.waiting.set_function(lambda: self._waiting)
        meters.bytes.set_function(lambda: self.held.bytes)

    @property
    def model(self) -> Served:
        """What the next batch is judged by."""
        return self._batcher.model

    @property
    def is_alive(self) -> bool:
        return self._batcher.is_alive

    def swap(self, model: Served) -> None:
        """Judge by another version from the next batch on; from any thread."""
        self._batcher.model = model
        self.meters.name_model(model)

    async def parse(self, body: bytearray, content_type: str) -> list[Upload]:
        """The images of a request.

        Raises:
            RefusalError: as `uploads.parse`.
        """
        if len(body) <= _SMALL_BODY:
            return parse(body, content_type, self.params)
        return await self._loop.run_in_executor(self._pool, parse, body, content_type, self.params)

    async def judge(self, uploads: Sequence[Upload], gone: asyncio.Future[Any]) -> list[UploadOutcome]:
        """Judge images; what is wrong with one of them is told in its place.

        Args:
            gone: done once the client has gone away; what is not judged by then is not judged.

        Raises:
            RefusalError: too many images wait already, or the client has gone.
        """
        with self._admitted(len(uploads)):
            cases = [_Case(upload, self._loop.create_future()) for upload in uploads]
            self._batcher.expect(len(cases))
            for case in cases:
                self._pool.submit(self._prepare, case)
            judged = await _answered([case.answer for case in cases], gone)
            return [self._outcome(case, one) for case, one in zip(cases, judged, strict=True)]

    async def judge_tiles(self, upload: Upload, gone: asyncio.Future[Any]) -> TiledOutcome:
        """Judge an image, and each of its tiles by itself; `gone` as above.

        Raises:
            RefusalError: it can't be judged, too many images wait already, or the client has gone.
        """
        with self._admitted(1 + MOST_TILES):
            case = _Case(upload, self._loop.create_future())
            found, notes = await self._loop.run_in_executor(self._pool, self._cut, case)
            squares = [found.crops, *found.tiles[:, None]]
            futures: list[asyncio.Future[ServedVerdict]] = [self._loop.create_future() for _ in squares]
            self._batcher.expect(len(squares))
            for crops, future in zip(squares, futures, strict=True):
                self._batcher.add(crops, future)
            whole, *tiles = await _answered(futures, gone)
            judged = [one for one in tiles if isinstance(one, ServedVerdict)]
            if not isinstance(whole, ServedVerdict) or len(judged) < len(tiles):
                raise RefusalError(500, "internal", "the server failed at this image; its log says why.")
            if any(one.model is not whole.model for one in judged):
                raise overloaded("the model was exchanged while the image was looked at.")
            outcome = UploadOutcome(upload.name, case.sha256, whole, None)  # not counted as one more verdict
            return TiledOutcome(outcome, judged, (found.height, found.width), found.crops.shape[1], notes)

    def close(self) -> None:
        """Finish what was begun, then end the threads."""
        self._pool.shutdown()
        self._unpackers.close()
        self._batcher.stop()

    def _prepare(self, case: _Case) -> None:
        """Decode one image and hand it on; in a thread of the pool."""
        crops: Pixels | None = None
        try:
            if not case.answer.cancelled():
                data = encoded(case.upload, self.params)
                case.sha256 = sha256(data)
                crops = decode(data, self.model.crop, self.params, self._room, self._unpackers.unpacked)
        except Exception as error:
            self._loop.call_soon_threadsafe(_fail, case.answer, error)
        if crops is None:
            self._batcher.expect(-1)
        else:
            self._batcher.add(crops, case.answer)

    def _cut(self, case: _Case) -> tuple[Tiled, Metadata]:
        """Decode one image, and look for its notes; in a thread of the pool."""
        data = encoded(case.upload, self.params)
        case.sha256 = sha256(data)
        found = cut(data, self.model.crop, self.params, self._room, tiled, self._unpackers.tiled)
        with self._room.taken(found.height * found.width * _NOTES_BYTES):
            return found, metadata_of(data)

    @contextmanager
    def _admitted(self, count: int) -> Iterator[None]:
        if self._waiting + count > self.params.queue:
            raise overloaded(f"{self._waiting} images wait already (serving.queue: {self.params.queue}).")
        self._waiting += count
        try:
            yield
        finally:
            self._waiting -= count

    def _outcome(self, case: _Case, result: ServedVerdict | BaseException) -> UploadOutcome:
        name = case.upload.name
        if isinstance(result, ServedVerdict):
            self.meters.images.labels(result.verdict.verdict).inc()
            return UploadOutcome(name, case.sha256, result, None)
        if not isinstance(result, RefusalError):
            _log.error("an image (sha256 %s) could not be judged", case.sha256, exc_info=result)
            result = RefusalError(500, "internal", "the server failed at this image; its log says why.")
        self.meters.refused.labels(result.code).inc()
        return UploadOutcome(name, case.sha256, None, result)


def status_of(outcomes: Sequence[UploadOutcome]) -> int:
    """200 if any image was judged; else the status that all refusals share, 500 if there is one, or 422."""
    if any(outcome.answer for outcome in outcomes):
        return 200
    statuses = {outcome.refusal.status for outcome in outcomes if outcome.refusal}
    return statuses.pop() if len(statuses) == 1 else max(_UNPROCESSABLE, *(s for s in statuses if s >= 500), 0)


async def _answered(
    answers: Sequence[asyncio.Future[ServedVerdict]], gone: asyncio.Future[Any]
) -> list[ServedVerdict | BaseException]:
    """Each answer, or what went wrong instead.

    Raises:
        RefusalError: the client has gone meanwhile.
    """
    gathered = asyncio.gather(*answers, return_exceptions=True)
    gone.add_done_callback(lambda _: gathered.cancel())
    try:
        return await gathered
    except asyncio.CancelledError:
        if not gone.done():
            raise
        raise RefusalError(400, "disconnected", "the client went away.") from None


def _fail(answer: asyncio.Future[ServedVerdict], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
