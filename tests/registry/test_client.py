"""What MLflow's server gets wrong is told so that a person knows where to look."""

from __future__ import annotations

import pytest
import requests

from lorax.errors import RegistryError
from lorax.registry.client import mlflow_errors
from tests.mlflow_server import Server

pytestmark = pytest.mark.slow


def test_a_server_that_fails_is_told_from_one_that_refuses_and_its_log_is_named(server: Server) -> None:
    failed = requests.exceptions.RetryError(
        "HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: "
        f"{'/long' * 100} (Caused by ResponseError('too many 500 error responses'))"
    )
    with (
        pytest.raises(RegistryError, match=r"could not store it: the MLflow server .* disk full\? .*mlflow.log"),
        mlflow_errors(server.uri, "store it"),
    ):
        raise failed
