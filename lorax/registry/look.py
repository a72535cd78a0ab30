"""A registered model at one moment, for commands that only tell."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lorax.registry.reading import RegisteredModel
from lorax.registry.versions import DIGEST_TAG


class Look(RegisteredModel):
    """What MLflow said once is kept: all that a command tells takes two requests, and is of one moment.

    What changes the registry must not decide on this: it looks anew each time, see `promotion`.
    """

    def is_unused(self) -> bool:
        return self._kept_unused

    def registered_model(self) -> Any:
        return self._kept_model

    def registered_versions(self, state_digest: str | None = None) -> list[Any]:
        return [v for v in self._kept_versions if state_digest in (None, v.tags.get(DIGEST_TAG))]

    def aliased_version(self, alias: str) -> Any:
        return next((v for v in self.registered_versions() if alias in v.aliases), None)

    def registered_version(self, number: str) -> Any:
        return next(
            (v for v in self.registered_versions() if str(v.version) == number), None
        ) or super().registered_version(number)

    @cached_property
    def _kept_unused(self) -> bool:
        return super().is_unused()

    @cached_property
    def _kept_model(self) -> Any:
        return super().registered_model()

    @cached_property
    def _kept_versions(self) -> list[Any]:
        return super().registered_versions()
