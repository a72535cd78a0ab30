"""Dynamic batching: one thread judges whatever has come meanwhile, as many images at once as the model takes.

There is no timer. While the thread is idle, an image is judged at once and alone; while it is busy, images gather, and
the next batch is as full as the load makes it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorax.data.pixels import Pixels
from lorax.predictor import Verdict
from lorax.serving.model import Served


@dataclass(frozen=True)
class Answer:
    """A verdict, and the model version that gave it."""

    verdict: Verdict
    model: Served


@dataclass(frozen=True)
class _Waiting:
    crops: Pixels
    answer: asyncio.Future[Answer]


class Batcher:
    """Judges images in a thread of its own. `model` may be replaced at any time: a batch ends on the one it began with.

    Args:
        model: what judges.
        on_batch: told the size of each batch, in the batcher's thread.
    """

    def __init__(self, model: Served, on_batch: Callable[[int], None]) -> None:
        self.model = model
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._change = threading.Condition()
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def add(self, crops: Pixels, answer: asyncio.Future[Answer]) -> None:
        """Have an image judged, by its crops; from any thread. Nothing is done where nobody waits any more."""
        with self._change:
            self._waiting.append(_Waiting(crops, answer))
            self._change.notify()

    def stop(self) -> None:
        """Judge what is there, then end."""
        with self._change:
            self._is_stopping = True
            self._change.notify()
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            self._judge(batch)
            del batch  # its crops must not wait for the next one

    def _take(self) -> list[_Waiting] | None:
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._is_stopping)
            if not self._waiting:
                return None
            count = min(len(self._waiting), self.model.predictor.batch_size)
            return [self._waiting.popleft() for _ in range(count)]

    def _judge(self, batch: Sequence[_Waiting]) -> None:
        wanted = [entry for entry in batch if not entry.answer.cancelled()]
        if not wanted:
            return
        model = self.model
        try:
            found = model.predictor.look([entry.crops for entry in wanted], [""] * len(wanted))
        except Exception as error:  # whatever it is, the next batch has its chance
            self._loop.call_soon_threadsafe(_fail, [entry.answer for entry in wanted], error)
            return
        self._on_batch(len(wanted))
        judged = [Answer(one.verdict, model) for one in found]
        self._loop.call_soon_threadsafe(_deliver, [entry.answer for entry in wanted], judged)


def _deliver(answers: Sequence[asyncio.Future[Answer]], judged: Sequence[Answer]) -> None:
    for answer, one in zip(answers, judged, strict=True):
        if not answer.done():
            answer.set_result(one)


def _fail(answers: Sequence[asyncio.Future[Answer]], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
