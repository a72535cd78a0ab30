"""`lorax.dataset.landed`: a landing tells Prefect's server, whose trigger then has a worker learn.

The event is posted to the server's API, which says whether it took it; Prefect's own `emit_event` never says. A lost
event loses nothing, for what there is to learn is read from data.dvc and the registry.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from flows.prefect_api import PrefectApi
from lorax.data import versions
from lorax.errors import ServiceError
from lorax.params import load_params
from lorax.workspace import Workspace

LANDED = "lorax.dataset.landed"

_LATER = "it is learned at the next 'lorax up', at the next scheduled run, or by 'lorax learn'"


def announce(workspace: Workspace, task: str) -> str:
    """Tell Prefect's server that `task` has landed and is committed; returns a line for people, whatever happens."""
    revision = versions.revision(workspace)
    params = load_params(workspace.params_path)
    event = {
        "id": str(uuid4()),
        "event": LANDED,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": f"lorax.dataset.{task}", "prefect.resource.name": task},
        "payload": {"task": task, "digest": revision.digest, "commit": revision.commit or ""},
    }
    try:
        PrefectApi.of(workspace, params).post("events", [event])
    except ServiceError as error:
        return f"not announced: {error} {_LATER}."
    return "announced: a worker will learn it ('lorax up' runs one)."
