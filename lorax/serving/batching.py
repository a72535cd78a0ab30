"""Dynamic batching: what has come while the last batch was judged is the next one, as many images as the model takes.

While nothing is judged, an image that comes alone is judged at once and alone; under load images gather, and batches
are as full as the load makes them. What waits is shared with the threads that have nothing to do; to those at work no
more is left than one pass has no room for, and images that are being decoded are waited for a little, or batches would
be a quarter of what is asked at once where they could be half. On a CPU several threads judge a batch each and compute
alone: threads that share a batch wait for each other at every matrix product, all the more beside those that read and
answer requests.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lorax.data.pixels import Pixels
from lorax.network.features import images_at_once
from lorax.serving.model import Served
from lorax.verdicts.predictor import Verdict

_GATHERED = 0.25
"""How long an image waits for others that are being decoded, at most: a share of what the last batch took."""


@dataclass(frozen=True)
class ServedVerdict:
    """A verdict, and the model version that gave it."""

    verdict: Verdict
    model: Served


@dataclass(frozen=True)
class _Waiting:
    crops: Pixels
    answer: asyncio.Future[ServedVerdict]


class Batcher:
    """Judges images in threads of its own. `model` may be replaced at any time: a batch ends on the one it began with.

    Args:
        model: what judges.
        at_once: how many batches are judged at once, on a CPU; a GPU judges one after the other.
        on_batch: told the size of each batch, in the batcher's thread.
    """

    def __init__(self, model: Served, at_once: int, on_batch: Callable[[int], None]) -> None:
        self.model = model
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._change = threading.Condition()
        self._is_stopping = False
        self._idle = self._coming = 0
        self._took_s = 0.0  # the last batch
        self._loop = asyncio.get_running_loop()
        count = at_once if model.predictor.network.device.type == "cpu" else 1
        self._threads = [threading.Thread(target=self._run, name=f"judge {i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def expect(self, count: int) -> None:
        """So many images more are being decoded, or, if less than 0, are no more; from any thread."""
        with self._change:
            self._coming += count
            if not self._coming:
                self._change.notify()

    def add(self, crops: Pixels, answer: asyncio.Future[ServedVerdict]) -> None:
        """Have an image judged, by its crops; from any thread. Nothing is done where nobody waits any more."""
        with self._change:
            self._waiting.append(_Waiting(crops, answer))
            self._coming -= 1
            self._change.notify()

    def stop(self) -> None:
        """Judge what is there, then end."""
        with self._change:
            self._is_stopping = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        torch.set_num_threads(1)  # this thread's
        while (batch := self._take()) is not None:
            self._judge(batch)
            del batch  # its crops must not wait for the next one

    def _take(self) -> list[_Waiting] | None:
        with self._change:
            self._idle += 1
            while not self._waiting and not self._is_stopping:
                self._change.wait_for(lambda: self._waiting or self._is_stopping)
                self._change.wait_for(self._is_gathered, _GATHERED * self._took_s)
            idle, self._idle = self._idle, self._idle - 1
            if not self._waiting:
                return None
            of_all, of_idle = (-(-len(self._waiting) // among) for among in (len(self._threads), idle))
            count = min(max(of_all, min(of_idle, self._of_a_pass())), self.model.predictor.batch_size)
            batch = [self._waiting.popleft() for _ in range(count)]
            if self._waiting:
                self._change.notify()  # this thread may have been told of what is another's share
            return batch

    def _is_gathered(self) -> bool:
        """Whether there is nothing to wait for: no image comes, all were taken, or there are enough for who is idle."""
        enough = self._idle * self._of_a_pass() if self._waiting else 0
        return not self._coming or self._is_stopping or len(self._waiting) >= enough

    def _of_a_pass(self) -> int:
        """How many images fill a pass, if all have as many crops as the one that waits longest."""
        predictor = self.model.predictor
        return max(1, images_at_once(predictor.network, predictor.batch_size) // len(self._waiting[0].crops))

    def _judge(self, batch: Sequence[_Waiting]) -> None:
        wanted = [entry for entry in batch if not entry.answer.cancelled()]
        if not wanted:
            return
        model, began = self.model, time.monotonic()
        try:
            found = model.predictor.look([entry.crops for entry in wanted], [""] * len(wanted))
        except Exception as error:  # whatever it is, the next batch has its chance
            self._loop.call_soon_threadsafe(_fail, [entry.answer for entry in wanted], error)
            return
        self._took_s = time.monotonic() - began
        self._on_batch(len(wanted))
        judged = [ServedVerdict(one.verdict, model) for one in found]
        self._loop.call_soon_threadsafe(_deliver, [entry.answer for entry in wanted], judged)


def _deliver(answers: Sequence[asyncio.Future[ServedVerdict]], judged: Sequence[ServedVerdict]) -> None:
    for answer, one in zip(answers, judged, strict=True):
        if not answer.done():
            answer.set_result(one)


def _fail(answers: Sequence[asyncio.Future[ServedVerdict]], error: Exception) -> None:
    for answer in answers:
        if not answer.done():
            answer.set_exception(error)
