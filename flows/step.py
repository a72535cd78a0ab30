"""What makes a function a step of a flow: shown on Prefect's page, and retried where another try can help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from prefect import Task as Step
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from lorax.errors import LoraxError, RegistryError

Settings = Mapping[str, Any]
"""All sections of params.yaml with the run's preset, as plain JSON values: read once a run, for all of its steps."""

_P = ParamSpec("_P")
_R = TypeVar("_R")

_RETRY_DELAYS_S = [5.0, 15.0, 40.0]  # a server that died is back in about 20 s


def _may_pass(_: Step[Any, Any], __: TaskRun, state: State[Any]) -> bool:
    """Whether another try can help: not with bad input, which stays bad."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, LoraxError) or isinstance(error, RegistryError)


def step(name: str) -> Callable[[Callable[_P, _R]], Step[_P, _R]]:
    """Make a function a step of the flow's page, retried where another try can help."""
    return task(
        name=name,
        retries=len(_RETRY_DELAYS_S),
        retry_delay_seconds=_RETRY_DELAYS_S,
        retry_condition_fn=_may_pass,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
