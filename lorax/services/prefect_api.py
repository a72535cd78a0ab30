"""Prefect's REST API, asked plainly: a landing, a demo or `lorax up` need no import of Prefect, which takes seconds."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx

from lorax import addresses
from lorax.errors import ServiceError
from lorax.params import Params, load_params
from lorax.services import servers
from lorax.workspace import Workspace

PATIENCE_S = 10.0
TRIES = 5
AGAIN_S = 1.0

_WHO_ASKS = {
    False: "(it asks who you are: set PREFECT_API_AUTH_STRING, or PREFECT_API_KEY, to what it expects).",
    True: "(it is another workspace's: 'lorax down' there stops it; or set services.prefect_port here to a free port).",
}
"""What 401 means: of a server that the environment names; of one at the port where the workspace's own would listen."""

Row = dict[str, Any]


class NoAnswerError(ServiceError):
    """Prefect's server did not answer, or not in time; what was asked may have been done all the same."""


@dataclass(frozen=True)
class PrefectApi:
    """A Prefect server. Whatever asks it raises ServiceError where it does not answer, or refuses."""

    url: str  # ends with /api
    authorization: str = field(default="", repr=False)  # what it wants to hear from whoever asks, or ''
    is_embedded: bool = False  # whether it is the workspace's own

    @classmethod
    def of(cls, workspace: Workspace, params: Params | None = None) -> PrefectApi:
        """The server that the environment names, else the workspace's own, with its params.yaml unless given others."""
        own = servers.environment(workspace, params or load_params(workspace.params_path))
        variables = {**os.environ, **own}
        url, authorization = addresses.parted(variables["PREFECT_API_URL"])
        is_embedded = "prefect" in own[servers.EMBEDDED_VARIABLE].split(",")
        return cls(url, authorization or _authorization(variables), is_embedded)

    def get(self, path: str) -> Row | None:
        """What lies at `path`; None if nothing does."""
        answer = self._ask("GET", path, None)
        return None if answer is None else dict(answer)

    def rows(self, path: str, query: Mapping[str, Any]) -> list[Row]:
        """What a `.../filter` address finds."""
        return list(self._ask("POST", path, query) or [])

    def post(self, path: str, body: Mapping[str, Any] | Sequence[Any]) -> Row | None:
        """Have the server make something; returns it, or None where it answers nothing."""
        return self.change("POST", path, body)

    def emit(self, event: str, resource: Mapping[str, str], **more: Any) -> None:
        """Have the server take an event, of now and of one resource."""
        told = {"id": str(uuid4()), "event": event, "occurred": datetime.now(UTC).isoformat()}
        self.post("events", [{**told, "resource": resource, **more}])

    def change(self, method: str, path: str, body: Mapping[str, Any] | Sequence[Any]) -> Row | None:
        """The same by another method, such as PUT or PATCH."""
        answer = self._ask(method, path, body)
        if answer is None:
            raise ServiceError(f"Prefect's server at {self.url} knows no {path}. Is its version older than 3.8?")
        return dict(answer) if isinstance(answer, dict) else None

    def _ask(self, method: str, path: str, body: Any, tries: int = TRIES) -> Any:
        try:
            answer = addresses.ask(method, f"{self.url}/{path}", PATIENCE_S, self.authorization, body)
        except httpx.HTTPError as error:
            raise NoAnswerError(
                f"Prefect's server at {self.url} does not answer: {str(error) or type(error).__name__}."
            ) from error
        if answer.status_code == 404:
            return None
        if answer.status_code == 503 and tries > 1:  # its database is locked by others: it has done nothing yet
            time.sleep(AGAIN_S)
            return self._ask(method, path, body, tries - 1)
        if not answer.is_success:
            said = answer.text[:300] if answer.status_code != 401 else _WHO_ASKS[self.is_embedded]
            raise ServiceError(f"Prefect's server at {self.url} refused {path}: {answer.status_code} {said}")
        try:
            return answer.json() if answer.content else ""
        except ValueError as error:
            raise ServiceError(
                f"what answers at {self.url} is not Prefect's API: its address mostly ends with /api. Correct "
                "PREFECT_API_URL, or unset it to use the workspace's own server."
            ) from error


def _authorization(variables: Mapping[str, str]) -> str:
    """What a server may ask for: from the same variables that Prefect's own client reads, in its order."""
    if secret := variables.get(servers.AUTH_VARIABLE):
        return f"Basic {base64.b64encode(secret.encode()).decode()}"
    key = variables.get("PREFECT_API_KEY")
    return f"Bearer {key}" if key else ""
