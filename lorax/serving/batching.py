"""Dynamic batching: what has come while the last batch was judged is the next one, as many images as the model takes.

There is no timer. While nothing is judged, an image that comes is judged at once and alone; under load images gather,
and batches are as full as the load makes them. On a CPU several threads judge a batch each and compute alone: threads
that share a batch wait for each other at every matrix product, all the more beside those that read and answer requests.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lorax.data.pixels import Pixels
from lorax.serving.model import Served
from lorax.verdicts.predictor import Verdict


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
        self._loop = asyncio.get_running_loop()
        count = at_once if model.predictor.network.device.type == "cpu" else 1
        self._threads = [threading.Thread(target=self._run, name=f"judge {i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def add(self, crops: Pixels, answer: asyncio.Future[ServedVerdict]) -> None:
        """Have an image judged, by its crops; from any thread. Nothing is done where nobody waits any more."""
        with self._change:
            self._waiting.append(_Waiting(crops, answer))
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
            self._change.wait_for(lambda: self._waiting or self._is_stopping)
            if not self._waiting:
                return None
            share = -(-len(self._waiting) // len(self._threads))
            count = min(share, self.model.predictor.batch_size)
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
