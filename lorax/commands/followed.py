"""The registry's versions as a long-running command uses them: opened when asked for, an alias followed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from lorax.commands import access
from lorax.commands.console import err
from lorax.errors import LoraxError

if TYPE_CHECKING:
    from lorax.params import Params
    from lorax.verdicts.predictor import Predictor
    from lorax.workspace import Workspace

_LOOK_AGAIN_S = 30.0

AT_ONCE = 4
"""Versions that are held open, and watched, at once: while one takes over from another, lines of both come."""


class CalibratedVersions:
    """Versions that can tell what is like nothing known; those asked for last are held open."""

    def __init__(self, workspace: Workspace, params: Params) -> None:
        self.workspace, self.params = workspace, params
        self._open: dict[int, Predictor] = {}
        self._named: int | None = None
        self._looked = -_LOOK_AGAIN_S

    def named(self, wanted: str) -> tuple[Predictor, int]:
        """The version that is called so now, and its number; looked up again twice a minute, since an alias moves.

        Raises:
            RegistryError: there is none; once one was found it stays while the registry can't be asked.
            StateError: it is not calibrated.
        """
        if self._named is None:
            self._named = self._opened(wanted)
        elif time.monotonic() >= self._looked + _LOOK_AGAIN_S:
            try:
                self._named = self._opened(wanted)
            except LoraxError as error:
                err.print(f"lorax: still watching by version {self._named}: {error}", markup=False)
        else:
            return self.numbered(self._named), self._named
        self._looked = time.monotonic()
        return self.numbered(self._named), self._named

    def numbered(self, number: int) -> Predictor:
        """The version with this number.

        Raises:
            RegistryError: there is none.
            StateError: it is not calibrated.
        """
        if number not in self._open:
            self._opened(str(number))
        self._open[number] = self._open.pop(number)  # the last one asked for stays longest
        return self._open[number]

    def _opened(self, wanted: str) -> int:
        """The number of a version that is open now."""
        from lorax.verdicts.predictor import Predictor
        from lorax.verdicts.watched import not_calibrated

        chosen, state_dir = access.fetched(self.workspace, self.params, wanted)
        if chosen.version not in self._open:
            predictor = Predictor.open(state_dir, self.params.run.device)
            if predictor.calibration is None:
                raise not_calibrated(chosen.version)
            while len(self._open) >= AT_ONCE:
                del self._open[next(iter(self._open))]
            self._open[chosen.version] = predictor
        return int(chosen.version)
