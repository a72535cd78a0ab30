"""The processes that work on one episode together, one for each GPU; the only room that knows Accelerate.

Every rank does the same with its part of each batch and has the same weights all along, since what is learned from a
batch is summed over the ranks before any of them takes the step. Rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ProcessGroup:
    """One process alone: nothing to share, no one to wait for."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Return once every rank has come here."""

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks; all have the same shapes."""

    def check_equal(self, tensors: Sequence[Tensor]) -> None:
        """See that every rank has the same bits.

        Raises:
            RuntimeError: they have not.
        """


class LaunchedGroup(ProcessGroup):
    """A rank of the group which `accelerate launch` started.

    Args:
        cpu: work on the CPU though there may be GPUs.
    """

    def __init__(self, *, cpu: bool) -> None:
        from accelerate import Accelerator

        self._accelerator: Any = Accelerator(cpu=cpu)
        self.rank, self.size = self._accelerator.process_index, self._accelerator.num_processes

    def barrier(self) -> None:
        self._accelerator.wait_for_everyone()

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        flat = self._accelerator.reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="sum")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def check_equal(self, tensors: Sequence[Tensor]) -> None:
        bits = torch.cat([tensor.detach().flatten().float() for tensor in tensors]).view(torch.int32)
        sums = self._accelerator.gather(bits.sum(dtype=torch.int64)[None])
        if len(sums.unique()) > 1:
            raise RuntimeError(f"the {self.size} processes of the group have learned different weights from one batch")


SINGLE = ProcessGroup()
