"""What Prometheus reads at /metrics. Every meter of one server lies in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as _text

from lorax.serving.model import Served

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Meters:
    """Counters, gauges and histograms."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        own = self._registry
        self.requests = Counter("lorax_requests", "Requests answered.", ["path", "code"], registry=own)
        self.seconds = Histogram(
            "lorax_request_seconds", "From a request for verdicts to its answer.", buckets=_SECONDS, registry=own
        )
        self.batches = Histogram("lorax_batch_images", "Images judged in one go.", buckets=_IMAGES, registry=own)
        self.waiting = Gauge("lorax_images_waiting", "Images admitted and not yet answered.", registry=own)
        self.bytes = Gauge("lorax_upload_bytes", "Bytes of request bodies that are held.", registry=own)
        self.images = Counter("lorax_images", "Images judged.", ["verdict"], registry=own)
        self.refused = Counter("lorax_refused", "Images and requests that were not judged.", ["code"], registry=own)
        self.swaps = Counter("lorax_swaps", "Changes of the model version that is served.", ["outcome"], registry=own)
        self.registry_up = Gauge("lorax_registry_up", "Whether the registry answered when last asked.", registry=own)
        self._model = Gauge("lorax_model_info", "Which model version is served.",
                            ["model", "version", "state", "data"], registry=own)  # fmt: skip
        for outcome in ("done", "failed"):
            self.swaps.labels(outcome)

    def name_model(self, model: Served) -> None:
        """Name the version that is served now."""
        self._model.clear()
        self._model.labels(model.name, str(model.version), model.state_digest, model.record["data"]["digest"]).set(1)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return _text(self._registry)
