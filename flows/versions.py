"""The registry's versions as a long-running command uses them: opened when asked for, an alias followed."""

from __future__ import annotations

import time

from rich.console import Console

from flows import running
from lorax.errors import LoraxError, StateError
from lorax.params import Params
from lorax.predictor import Predictor
from lorax.workspace import Workspace

_LOOK_AGAIN_S = 30.0


class CalibratedVersions:
    """Versions that can tell what is like nothing known; one is held open."""

    def __init__(self, workspace: Workspace, params: Params, err: Console) -> None:
        self.workspace, self.params, self.err = workspace, params, err
        self._held: tuple[Predictor, int] | None = None
        self._looked = -_LOOK_AGAIN_S

    def named(self, wanted: str) -> tuple[Predictor, int]:
        """The version that is called so now, and its number; looked up again twice a minute, since an alias moves.

        Raises:
            RegistryError: there is none; once one was found it stays while the registry can't be asked.
            StateError: it is not calibrated.
        """
        if self._held is None:
            self._held = self._opened(wanted)
        elif time.monotonic() >= self._looked + _LOOK_AGAIN_S:
            try:
                self._held = self._opened(wanted)
            except LoraxError as error:
                self.err.print(f"lorax: still watching by version {self._held[1]}: {error}", markup=False)
        else:
            return self._held
        self._looked = time.monotonic()
        return self._held

    def numbered(self, number: int) -> Predictor:
        """The version with this number.

        Raises:
            RegistryError: there is none.
            StateError: it is not calibrated.
        """
        if self._held is None or self._held[1] != number:
            self._held = self._opened(str(number))
        return self._held[0]

    def _opened(self, wanted: str) -> tuple[Predictor, int]:
        chosen, state_dir = running.fetched(self.workspace, self.params, wanted, self.err)
        if self._held is not None and self._held[1] == chosen.version:
            return self._held
        predictor = Predictor.open(state_dir, self.params.run.device)
        if predictor.calibration is None:
            raise not_calibrated(chosen.version)
        return predictor, chosen.version


def not_calibrated(version: int) -> StateError:
    """The error for a version that can't tell what is unknown."""
    return StateError(
        f"version {version} is not calibrated, so it can't tell what is like nothing known: there is nothing to watch. "
        "Name another --version. To have calibrated ones: set calibration.per_class and a new registry.model in "
        "params.yaml, then 'lorax learn': every class needs images that were never trained on."
    )
