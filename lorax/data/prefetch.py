"""Work that is done in threads ahead of who uses it: in order, no further ahead than is useful."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Waiting = Queue[Future[_Out] | None]

_PATIENCE_S = 0.2
"""How long a batch waits to become full, where the items themselves are slow to come, as from a pipe."""

_LOOK_S = 0.1


def prefetched_batches(function: Callable[[_In], _Out], items: Iterable[_In], size: int) -> Iterator[list[_Out]]:
    """`function` of each item, in order, in lists of up to `size`.

    The next two lists are worked on while one is used; items are asked for no sooner, in a thread of their own.
    """
    waiting: _Waiting[_Out] = Queue(2 * size)
    stopped = Event()
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    Thread(target=_feed, args=(function, items, pool, waiting, stopped), daemon=True).start()
    try:
        is_more = True
        while is_more:
            batch, is_more = _next(waiting, size)
            if batch:
                yield batch
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _feed(
    function: Callable[[_In], _Out],
    items: Iterable[_In],
    pool: ThreadPoolExecutor,
    waiting: _Waiting[_Out],
    stopped: Event,
) -> None:
    try:
        for item in items:
            if stopped.is_set():
                return
            _put(pool.submit(function, item), waiting, stopped)
        _put(None, waiting, stopped)
    except BaseException as error:  # what the items' source raises is told where they are used
        failed: Future[_Out] = Future()
        failed.set_exception(error)
        _put(failed, waiting, stopped)


def _put(future: Future[_Out] | None, waiting: _Waiting[_Out], stopped: Event) -> None:
    while not stopped.is_set():
        try:
            waiting.put(future, timeout=_LOOK_S)
            return
        except Full:
            continue


def _next(waiting: _Waiting[_Out], size: int) -> tuple[list[_Out], bool]:
    """The next list, and whether there may be more."""
    batch: list[_Out] = []
    patience_s = None
    while len(batch) < size:
        try:
            future = waiting.get(timeout=patience_s)
        except Empty:
            break
        if future is None:
            return batch, False
        if not batch:
            deadline = time.monotonic() + _PATIENCE_S
        batch.append(future.result())
        patience_s = max(0.0, deadline - time.monotonic())
    return batch, True
