"""Ray, embedded on this machine's loopback or a cluster by its address: one function, of many things, on all cores.

Tasks and no actors: what a lost node or process was at is done again by whoever is free, where an actor's tasks would
wait for that very actor. A process keeps what it has opened from task to task, so a task is no slower.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

from lorax.drafts import scratch
from lorax.errors import LoraxError, ScoringError
from lorax.extras import extra

_AHEAD = 2
"""Tasks that are handed over for each place where one runs, so that none waits for the next."""

_TRIES_AGAIN = 3
"""Of a task whose process or node is lost; an image at which a process dies must not kill all of them."""

_SHOWN = 200
_SHARED_MEMORY = 256 * 2**20
_HERE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's own switch for "this machine only": every server of it listens on loopback, on Linux, too
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


class Engine:
    """Ray, connected.

    Args:
        wants_gpu: give each task a GPU of its own, where there are any.
    """

    def __init__(self, wants_gpu: bool) -> None:
        import ray

        self._ray = ray
        self.on_gpu = wants_gpu and self._count("GPU") > 0

    @property
    def places(self) -> int:
        """How many tasks run at once: one on each GPU or core, of those that are there now."""
        return max(1, self._count("GPU" if self.on_gpu else "CPU"))

    def share(self, value: Any) -> Any:
        """Put a value where every task finds it; returns what `shared` takes."""
        return self._ray.put(value)

    def each(self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(number, result) of each item, numbered in order, as they come; what `function` raises is raised.

        Args:
            function: of a module that every node has.
            items: its arguments; asked for as there is room.

        Raises:
            ScoringError: Ray lost a task for good.
        """
        options = {"num_cpus": 1, "num_gpus": int(self.on_gpu), "max_retries": _TRIES_AGAIN, "max_calls": 0}
        task = self._ray.remote(**options)(function)
        waiting, running = enumerate(items), dict[Any, int]()
        while True:
            for number, item in islice(waiting, max(0, _AHEAD * self.places - len(running))):
                running[task.remote(*item)] = number
            if not running:
                return
            [done], _ = self._ray.wait(list(running), num_returns=1)
            yield running.pop(done), self._result(done)

    def _result(self, task: Any) -> Any:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, LoraxError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            raise ScoringError(
                f"Ray lost a task {_TRIES_AGAIN + 1} times ({_line(error)}). What is finished stays: run again; if it "
                "ends here again, an image of that partition kills the process that reads it."
            ) from error

    def _count(self, kind: str) -> int:
        return int(self._ray.cluster_resources().get(kind, 0))


def shared(reference: Any) -> Any:
    """What `Engine.share` was given, in a task."""
    import ray

    return ray.get(reference)


@contextmanager
def engine(address: str | None, *, wants_gpu: bool) -> Iterator[Engine]:
    """Ray for the block.

    Args:
        address: of a cluster's head, HOST:PORT; None starts Ray here, on loopback, and ends it with the block.
        wants_gpu: as above.

    Raises:
        ExtraError: Ray is not installed.
        ScoringError: it can't be started, or does not answer at the address.
    """
    os.environ.update(_HERE if address is None else {"RAY_USAGE_STATS_ENABLED": "0"})
    with extra("scale", "work on Ray"):
        import ray
    with redirect_stdout(_Notes()), _embedded(ray) if address is None else _connected(ray, address):
        yield Engine(wants_gpu)


class _Notes(io.TextIOBase):
    """Takes what Ray prints of lost nodes and processes, tens of lines each, and tells the first of each on stderr.

    Ray prints it on stdout, whatever it is told of logs; and there a command's own output goes.
    """

    def write(self, text: str) -> int:
        line = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().partition("\n")[0]
        if line:
            print(f"lorax: {line[:_SHOWN]}", file=sys.stderr)
        return len(text)


@contextmanager
def _embedded(ray: Any) -> Iterator[None]:
    with scratch(Path("/tmp")) as folder, _ended(ray):  # a short path: it holds sockets
        try:
            _init(
                ray,
                address="local",
                num_cpus=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
                include_dashboard=False,
                object_store_memory=_SHARED_MEMORY,
                _temp_dir=str(folder),
            )
        except Exception as error:  # a bare one, where a busy machine takes longer than Ray's own 30 seconds
            raise ScoringError(
                f"Ray could not be started here ({_line(error)}). Nothing was judged or learned; when the machine is "
                "less busy, run the same command again."
            ) from error
        yield


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    with _ended(ray):
        try:
            _init(ray, address=address)
        except Exception as error:  # Ray's clients raise nearly anything
            raise ScoringError(
                f"no Ray cluster answers at {address} ({_line(error)}). Start one with 'ray start --head', give its "
                "HOST:PORT, and run this on one of its nodes."
            ) from error
        yield


@contextmanager
def _ended(ray: Any) -> Iterator[None]:
    try:
        yield
    finally:
        ray.shutdown()


def _init(ray: Any, **options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what later versions of Ray will do
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
