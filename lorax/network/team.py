"""The processes that work on one episode together, one for each GPU; the only room that knows Accelerate.

Every member does the same with its part of each batch and has the same weights all along, since what is learned from a
batch is summed over the members before any of them takes the step. The leader writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Team:
    """One process alone: nothing to share, no one to wait for."""

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Return once every member has come here."""

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the members; all have the same shapes."""

    def check_agrees(self, tensors: Sequence[Tensor]) -> None:
        """See that every member has the same bits.

        Raises:
            RuntimeError: they have not.
        """


class Launched(Team):
    """A member of the team that `accelerate launch` started.

    Args:
        cpu: work on the CPU though there may be GPUs.
    """

    def __init__(self, *, cpu: bool) -> None:
        from accelerate import Accelerator

        self._accelerator: Any = Accelerator(cpu=cpu)
        self.rank, self.size = self._accelerator.process_index, self._accelerator.num_processes

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def sum(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        flat = self._accelerator.reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="sum")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def check_agrees(self, tensors: Sequence[Tensor]) -> None:
        bits = torch.cat([tensor.detach().flatten().float() for tensor in tensors]).view(torch.int32)
        sums = self._accelerator.gather(bits.sum(dtype=torch.int64)[None])
        if len(sums.unique()) > 1:
            raise RuntimeError(f"the {self.size} processes of the team have learned different weights from one batch")


ALONE = Team()
