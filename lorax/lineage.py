"""Lineage for who collects it: of which data and versions a landing, an episode or a move of the champion made what.

Sent as OpenLineage events to the address in OPENLINEAGE_URL; nothing happens where that is not set. The variables are
those of OpenLineage's own client, which the extra `lineage` brings.
Source: https://openlineage.io/docs/spec/object-model
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from lorax.extras import install

_PRODUCER = "https://lorax-pipeline.invalid"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Data or a model, as of one version."""

    name: str
    version: str


def data(digest: str) -> Dataset:
    """All that has landed, as data.dvc pins it."""
    return Dataset("data", digest)


def task(name: str, digest: str) -> Dataset:
    """What one landing brought."""
    return Dataset(f"data/{name}", digest)


def version(model: str, number: int) -> Dataset:
    """A model version, as registered."""
    return Dataset(f"models/{model}", str(number))


def champion(model: str, number: int) -> Dataset:
    """Which version is served."""
    return Dataset(f"models/{model}@champion", str(number))


class Run:
    """One of a job. What it reads and makes is added while it goes on."""

    def __init__(self, job: str, inputs: Iterable[Dataset] = ()) -> None:
        self.inputs, self.outputs = list(inputs), list[Dataset]()
        self._job, self._id = job, ""
        self._is_told = bool(os.environ.get("OPENLINEAGE_URL"))

    def tell(self, state: str) -> None:
        """Send an event; never raises. After one that failed, which a line in the log says, no more is sent.

        Args:
            state: START, COMPLETE or FAIL.
        """
        if not self._is_told:
            return
        try:
            self._send(state)
        except ImportError:
            self._give_up(f"the package openlineage-python is missing: {install('lineage')}")
        except Exception as error:  # whatever a receiver, its address or the client's settings bring about
            self._give_up(" ".join(str(error).split())[:300])

    def _give_up(self, reason: str) -> None:
        self._is_told = False
        _log.warning("the lineage of '%s' was not told: %s", self._job, reason)

    def _send(self, state: str) -> None:
        from openlineage.client import event_v2 as v2  # takes most of a second
        from openlineage.client.facet_v2 import dataset_version_dataset as facets
        from openlineage.client.transport.http import HttpConfig, HttpTransport
        from openlineage.client.uuid import generate_new_uuid

        self._id = self._id or str(generate_new_uuid())
        place = os.environ.get("OPENLINEAGE_NAMESPACE", "lorax")

        def facet(of: Dataset) -> dict[str, object]:
            return {"version": facets.DatasetVersionDatasetFacet(datasetVersion=of.version)}

        event = v2.RunEvent(
            eventTime=datetime.now(UTC).isoformat(),
            producer=_PRODUCER,
            run=v2.Run(runId=self._id),
            job=v2.Job(namespace=place, name=self._job),
            eventType=v2.RunState[state],
            inputs=[v2.InputDataset(namespace=place, name=one.name, facets=facet(one)) for one in self.inputs],
            outputs=[v2.OutputDataset(namespace=place, name=one.name, facets=facet(one)) for one in self.outputs],
        )
        HttpTransport(HttpConfig.from_dict(_receiver())).emit(event)


@contextmanager
def run(job: str, inputs: Iterable[Dataset] = ()) -> Iterator[Run]:
    """Tell that a job runs; at its end, what the block has added; or that it failed, where the block raises.

    Args:
        job: its name: land, episode, promote or rollback.
        inputs: what it reads, as far as that is known.
    """
    one = Run(job, inputs)
    one.tell("START")
    try:
        yield one
    except BaseException:
        one.tell("FAIL")
        raise
    one.tell("COMPLETE")


def _receiver() -> dict[str, object]:
    """As the client reads it from the environment, with one retry, since a person may be waiting."""
    settings: dict[str, object] = {"url": os.environ["OPENLINEAGE_URL"], "retry": {"total": 1}}
    if endpoint := os.environ.get("OPENLINEAGE_ENDPOINT"):
        settings["endpoint"] = endpoint
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        settings["auth"] = {"type": "api_key", "apiKey": key}
    return settings
