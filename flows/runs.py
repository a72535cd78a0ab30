"""The runs of the deployment `learn`, as Prefect's server knows them: which is under way, which ended last."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flows import deployment
from flows.client import PrefectApi, Row

_BEGUN = ["PENDING", "RUNNING", "CANCELLING", "PAUSED"]
ENDED = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
_MANY = 200


def under_way(api: PrefectApi) -> list[Row]:
    """Those that run, or are to run as soon as a worker and the one slot are free; the oldest first.

    Raises:
        ServiceError: the server does not answer.
    """
    return [run for run in _of(api, ["SCHEDULED", *_BEGUN], "EXPECTED_START_TIME_ASC") if not _is_for_later(run)]


def next_scheduled(api: PrefectApi) -> Row | None:
    """The one that the schedule has begin next.

    Raises:
        ServiceError: the server does not answer.
    """
    return next((run for run in _of(api, ["SCHEDULED"], "NEXT_SCHEDULED_START_TIME_ASC") if _is_for_later(run)), None)


def last_ended(api: PrefectApi) -> Row | None:
    """The one that ended last, however it ended.

    Raises:
        ServiceError: the server does not answer.
    """
    return next(iter(_of(api, ENDED, "END_TIME_DESC", limit=1)), None)


def last_begun(api: PrefectApi) -> list[Row]:
    """Those that were begun last, the newest first.

    Raises:
        ServiceError: the server does not answer.
    """
    return _of(api, [*_BEGUN, *ENDED], "EXPECTED_START_TIME_DESC", limit=20)


def time_of(text: Any) -> datetime:
    """A time in a row of Prefect's."""
    return datetime.fromisoformat(str(text))


def _of(api: PrefectApi, states: list[str], sort: str, limit: int = _MANY) -> list[Row]:
    flow, name = deployment.NAME.split("/")
    query = {
        "flows": {"name": {"any_": [flow]}},
        "deployments": {"name": {"any_": [name]}},
        "flow_runs": {"state": {"type": {"any_": states}}},
        "sort": sort,
        "limit": limit,
    }
    return api.rows("flow_runs/filter", query)


def _is_for_later(run: Row) -> bool:
    """Whether it is the schedule's, made ahead; one that waits for its slot or is late has another name of state."""
    due = run["next_scheduled_start_time"] or run["expected_start_time"]
    return run["auto_scheduled"] and run["state_name"] == "Scheduled" and time_of(due) > datetime.now(UTC)
