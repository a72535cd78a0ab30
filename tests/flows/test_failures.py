"""Whose fault a failure is."""

from __future__ import annotations

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from flows.learn import OUTSIDE


def test_that_prefects_server_is_away_is_no_task_s_fault() -> None:
    with pytest.raises(OUTSIDE), SyncPrefectClient(api="http://127.0.0.1:9/api") as client:  # nobody listens there
        client.read_flows()


def test_that_prefects_server_is_too_busy_is_no_task_s_fault() -> None:
    asked = httpx.Request("POST", "http://127.0.0.1/api/flow_runs/")
    error = httpx.HTTPStatusError("", request=asked, response=httpx.Response(503, request=asked))
    with pytest.raises(OUTSIDE):
        raise PrefectHTTPStatusError.from_httpx_error(error)
