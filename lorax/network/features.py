"""What branches say of many images, in batches of one fixed size.

A matrix product's last bits depend on the batch's size. So the last batch is filled up with repeats, and an image's
feature is the same number in whichever set, episode or process it is computed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lorax.network.network import Network


@torch.no_grad()
def compute_features(
    network: Network, read: Callable[[Tensor], Tensor], count: int, batch_size: int, branches: range | None = None
) -> Tensor:
    """Features of `count` images, without gradients or dropout.

    Args:
        network: whose branches are asked.
        read: gives the images of some indices, (B,) -> bytes (B, 3, crop, crop).
        count: N, how many images `read` knows.
        batch_size: the one size that every batch has.
        branches: which branches, default all.

    Returns:
        (N, K·D) on the network's device.
    """
    width = network.backbone.width * len(range(network.branches) if branches is None else branches)
    out = torch.empty(count, width, device=network.device)
    for start in range(0, count if width else 0, batch_size):
        rows = torch.arange(start, start + batch_size).clamp(max=count - 1)
        features = network.features(read(rows).to(network.device), branches)
        out[start : start + batch_size] = features[: count - start]
    return out
