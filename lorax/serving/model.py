"""A model version that is served: its learner, opened and warm, and what names it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lorax.registry import ModelVersion, Registry
from lorax.verdicts.predictor import Predictor, check_predicts


@dataclass(frozen=True)
class Served:
    """One model version, ready to judge."""

    name: str
    version: int
    state_digest: str
    predictor: Predictor

    @property
    def crop(self) -> int:
        return self.predictor.network.crop

    @cached_property
    def record(self) -> dict[str, Any]:
        """What every verdict says of the version that gave it."""
        data = asdict(self.predictor.state.revision)
        return {"name": self.name, "version": self.version, "state": self.state_digest, "data": data}


@dataclass(frozen=True)
class Source:
    """Where the version comes from that is served."""

    versions: Registry
    alias: str
    states_dir: Path
    device: str  # as `run.device`
    exact: bool = False  # as `serving.exact`

    def find(self) -> ModelVersion:
        """The version that the alias names now.

        Raises:
            RegistryError: there is none, or the registry does not answer.
        """
        return self.versions.aliased(self.alias)

    def open(self, version: ModelVersion) -> Served:
        """Fetch a version's learner and open it.

        Raises:
            RegistryError: its state can't be fetched.
            StateError, BackboneError: as `open_served`.
        """
        state_dir = self.versions.download_state(version.version, self.states_dir)
        return open_served(self.versions.name, version, state_dir, self.device, exact=self.exact)


def open_served(name: str, version: ModelVersion, state_dir: Path, device: str, *, exact: bool = False) -> Served:
    """Open a learner and have it judge a full batch, so that the first image waits for nothing.

    Args:
        device: as `run.device`.
        exact: as `serving.exact`.

    Raises:
        StateError: it is damaged, or does not predict.
        BackboneError: its backbone is not here.
    """
    predictor = Predictor.open(state_dir, device, exact=exact)
    check_predicts(predictor)
    side, count = predictor.network.crop, predictor.batch_size
    predictor.look([np.zeros((1, side, side, 3), np.uint8)] * count, [""] * count)
    return Served(name, version.version, version.state_digest, predictor)
