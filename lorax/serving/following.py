"""Following an alias: the version that it names now is opened beside the one that is served, then takes its place."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from lorax.errors import LoraxError, StateError
from lorax.serving.meters import Meters
from lorax.serving.model import Served, Source

_log = logging.getLogger(__name__)

_PATIENCE_S = 60.0
"""How long a version that could not be opened is left alone."""


class Follower:
    """Looks at an alias again and again; what goes wrong is told, and the model that is served goes on.

    Args:
        poll_s: seconds between two looks.
    """

    def __init__(
        self, source: Source, model: Served, swap: Callable[[Served], None], meters: Meters, poll_s: float
    ) -> None:
        self.alias, self.error, self.looked_at = source.alias, "", datetime.now(UTC)
        self._source, self._model, self._swap, self._meters, self._poll_s = source, model, swap, meters, poll_s
        self._refused, self._again_at = 0, 0.0
        meters.registry_up.set(1)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Look once; returns when the version that the alias names is served, or the reason why not is noted."""
        try:
            found = self._source.find()
            self._meters.registry_up.set(1)
        except Exception as error:
            self._meters.registry_up.set(0)
            self._note("the registry can't be asked", error)
            return
        self.looked_at = datetime.now(UTC)
        if found.version == self._model.version:
            self._settle()
        elif found.version != self._refused or time.monotonic() >= self._again_at:
            try:
                self._take(self._source.open(found))
            except Exception as error:
                self._refused, self._again_at = found.version, time.monotonic() + _PATIENCE_S
                self._meters.swaps.labels("failed").inc()
                self._note(f"version {found.version} can't be served", error)

    def _take(self, model: Served) -> None:
        if model.crop != self._model.crop:
            raise StateError(
                f"it sees {model.crop} pixels a side, version {self._model.version} sees {self._model.crop}: "
                "start 'lorax serve' anew for another backbone."
            )
        before, self._model = self._model.version, model
        self._swap(model)
        self._meters.swaps.labels("done").inc()
        self._settle()
        _log.info("version %d is served now, in place of %d", model.version, before)

    def _settle(self) -> None:
        if self.error:
            _log.info("all is well again: %s is version %d", self.alias, self._model.version)
        self.error, self._refused = "", 0

    def _note(self, what: str, error: Exception) -> None:
        """Keep the reason for /health; the log has it once, not every few seconds."""
        said = f"{what}; version {self._model.version} is served on: {error or type(error).__name__}"
        if said != self.error:
            _log.warning("%s", said, exc_info=not isinstance(error, LoraxError))
        self.error = said
