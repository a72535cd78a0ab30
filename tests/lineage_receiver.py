"""A receiver of OpenLineage events on loopback; what it got is read by OpenLineage's own classes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Told = tuple[str, str, dict[str, str], dict[str, str]]
"""Of an event the job, its state, and inputs and outputs with their versions."""


@dataclass(frozen=True)
class Received:
    """The events that came, and the address that they came to."""

    address: str
    events: list[dict[str, Any]] = field(default_factory=list)

    def told(self, job: str) -> list[Told]:
        """The events of a job, in the order in which they came."""
        return [told for told in map(_told, self.events) if told[0] == job]


@contextmanager
def receiving(status: int = 201) -> Iterator[Received]:
    """Receive, answering `status`, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.events.append(body)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Received(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield received
        server.shutdown()
        thread.join()


def _told(sent: dict[str, Any]) -> Told:
    """Read by classes that refuse wrong times, ids, states and keys."""
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState

    body = {key: value for key, value in sent.items() if key != "schemaURL"}
    body |= {"run": Run(**body["run"]), "job": Job(**body["job"]), "eventType": RunState(body["eventType"])}
    for place, kind in (("inputs", InputDataset), ("outputs", OutputDataset)):
        body[place] = [_dataset(kind, one) for one in body.get(place, ())]
    event = RunEvent(**body)
    return event.job.name, event.eventType.name, _versions(event.inputs), _versions(event.outputs)


def _dataset(kind: Any, sent: dict[str, Any]) -> Any:
    from openlineage.client.facet_v2 import dataset_version_dataset

    facet = sent["facets"]["version"]
    assert facet["_schemaURL"] == dataset_version_dataset.DatasetVersionDatasetFacet._get_schema()
    version = dataset_version_dataset.DatasetVersionDatasetFacet(facet["datasetVersion"])
    return kind(**{**sent, "facets": {"version": version}})


def _versions(datasets: list[Any]) -> dict[str, str]:
    return {one.name: one.facets["version"].datasetVersion for one in datasets}
