from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Event

import pytest

from lorax.data.prefetch import prefetched_batches


def test_results_come_in_order_whichever_is_done_first() -> None:
    def work(n: int) -> int:
        time.sleep(0.01 * (n % 3 == 0))
        return n * n

    batches = list(prefetched_batches(work, range(50), 8))
    assert [n for batch in batches for n in batch] == [n * n for n in range(50)]
    assert max(map(len, batches)) == 8


def test_no_more_is_asked_for_than_two_lists_ahead() -> None:
    asked: list[int] = []
    batches = prefetched_batches(lambda n: n, (asked.append(n) or n for n in range(1000)), 5)
    next(batches)
    time.sleep(0.3)  # long enough for all of them, were nothing in the way
    batches.close()
    assert len(asked) <= 5 + 2 * 5 + 2


def test_what_is_slow_to_come_is_not_waited_for() -> None:
    go_on = Event()

    def slow() -> Iterator[int]:
        yield 1
        go_on.wait(30)
        yield 2

    batches = prefetched_batches(lambda n: n, slow(), 5)
    assert next(batches) == [1]
    go_on.set()
    assert list(batches) == [[2]]


def test_what_the_source_or_the_work_raises_is_raised_where_it_is_used() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(prefetched_batches(lambda n: n, broken(), 1))
    with pytest.raises(ZeroDivisionError):
        list(prefetched_batches(lambda n: 1 // n, [1, 0], 5))
