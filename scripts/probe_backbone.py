"""Measure what the shipped backbone's frozen feature can tell apart: `python scripts/probe_backbone.py`.

Linear heads learn on the pretraining's contents and are tested on the val regions of the mini-CDDB's photos, which the
backbone has never seen. The first table of docs/backbone.md comes from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pretraining_contents import Contents, scales
from pretraining_images import LABELS, PipelineBatches, blur_matrix, rescaling_bank
from torch import Tensor, nn

from lorax.data.simulate import PHOTOS, open_photo, val_region
from lorax.network.backbone import Backbone
from lorax.network.building import open_backbone
from lorax.params import BackboneParams


@torch.no_grad()
def collect(backbone: Backbone, batches: PipelineBatches, count: int) -> tuple[Tensor, Tensor]:
    """Features (N, D) and labels (N, L) of `count` batches; the last label is "resampled at all"."""
    drawn = [batches.draw()[:2] for _ in range(count)]
    labels = torch.cat([labels for _, labels in drawn])
    features = torch.cat([backbone.plain_feature(images) for images, _ in drawn])
    return features, torch.column_stack([labels, labels[:, 0] > 0])


def linear_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], answers: int) -> float:
    """Accuracy on `test` of a linear head fitted to `train`; each is features (N, D) and labels (N,)."""
    mean, spread = train[0].mean(0), train[0].std(0)
    head = nn.Linear(train[0].shape[1], answers)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    for _ in range(200):
        loss = F.cross_entropy(head((train[0] - mean) / spread), train[1])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    right = head((test[0] - mean) / spread).argmax(1) == test[1]
    return float(right.float().mean())


def unseen(seed: int) -> PipelineBatches:
    """Pipelines over contents that pretraining never saw."""
    batches = PipelineBatches(seed)
    sources = [scaled for name in PHOTOS for scaled in scales(val_region(open_photo(name)))]
    batches.contents = Contents(batches.rng, sources, [1 / len(sources)] * len(sources))
    return batches


def lossy(batches: PipelineBatches) -> dict[str, Callable[[Tensor], Tensor]]:
    """What may happen to an image after it was made."""

    def jpeg(quality: float, subsampled: bool) -> Callable[[Tensor], Tensor]:
        return lambda x: batches.jpeg(x, torch.full((len(x),), quality), torch.full((len(x),), subsampled))

    def lines(matrix: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda x: matrix @ x @ matrix.T

    return {
        "nothing": lambda x: x,
        "JPEG, quality 90": jpeg(90.0, False),
        "JPEG, quality 70, halved chroma": jpeg(70.0, True),
        "blur, sigma 0.8": lines(torch.from_numpy(blur_matrix(0.8)).float()),
        "shrunk by a quarter": lines(rescaling_bank()[0]),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.manual_seed(0)
    backbone = open_backbone(BackboneParams(name="shipped", weights="shipped"))
    train = collect(backbone, PipelineBatches(123), 30)
    test = collect(backbone, unseen(321), 12)
    for column, (name, answers) in enumerate([*LABELS.items(), ("resampled", 2)]):
        accuracy = linear_accuracy((train[0], train[1][:, column]), (test[0], test[1][:, column]), answers)
        always = test[1][:, column].bincount().max().item() / len(test[1])
        print(f"{name}: {accuracy:.2f} (always the commonest answer: {always:.2f})", flush=True)
    batches = unseen(9)
    batches.finish = lambda images: images
    drawn = [batches.draw()[:2] for _ in range(6)]
    resampled = torch.cat([labels[:, 0] > 0 for _, labels in drawn]).long()
    for name, change in lossy(batches).items():
        images = torch.cat([change(images).clamp(0, 255).round() for images, _ in drawn])
        with torch.no_grad():
            features = torch.cat([backbone.plain_feature(part) for part in images.split(256)])
        accuracy = linear_accuracy((train[0], train[1][:, -1]), (features, resampled), 2)
        print(f"resampled, after {name}: {accuracy:.2f}", flush=True)


if __name__ == "__main__":
    main()
