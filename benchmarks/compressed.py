"""How much a plain strong detector tells of compressed images: the limit that LoRAX's figures stand beside.

    python -m benchmarks.compressed --kind jpeg --images 600

Every weight of the residual backbone and a linear head on its feature and texture are trained on all tasks of the
stream `real` at once, as no stream allows, and on nothing but compressed images: of a kind of `head.perturbations`,
with a new strength in every epoch. The seed is fixed; as much is looked at as in `benchmarks.real`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.real_figures import joint_task
from benchmarks.tasks import TaskFiles
from lorax.data.images import decode
from lorax.data.perturbations import Perturbation, jpeg, of_kind, webp
from lorax.learning.assessment import sample_of
from lorax.network import traces
from lorax.network.building import open_backbone
from lorax.network.residual import ResidualBackbone
from lorax.params import load_params
from lorax.stream import SCENARIOS, Sample, Task

_LOOKED_AT = {"jpeg": jpeg(95), "jpeg-low": jpeg(75), "webp": webp(80)}
_PER_CLASS = 60
_BATCH = 32
_RATE = 1e-3
_LOOK = 64


class Detector(nn.Module):
    """The backbone and a head on all that it says: (B, 3, H, W) in 0..255 -> logits (B, C)."""

    def __init__(self, backbone: ResidualBackbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.num_features + backbone.texture_width
        self.head = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, classes))

    def forward(self, levels: Tensor) -> Tensor:
        with torch.no_grad():
            found = traces.traces(levels)
        tokens, front = self.backbone.read(traces.residuals(levels), found)
        logits: Tensor = self.head(torch.cat([self.backbone.encode(tokens), found, front], dim=1))
        return logits


def main() -> None:
    options = _options()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    files = TaskFiles()
    tasks = [files.read(options.root / "set" / name) for name in SCENARIOS["real"]]
    tasks = [replace(task, train=tuple(sample_of(replace(task, test=task.train), options.images))) for task in tasks]
    joint = joint_task(tasks)
    detector = _detector(len(joint.classes))
    pixels = _read(files, joint.train)
    steps = options.epochs * math.ceil(len(pixels) / _BATCH)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    ids = torch.tensor([sample.class_index for sample in joint.train])
    for epoch in range(options.epochs):
        detector.train()
        shown = [of_kind(options.kind, f"{sample.md5}/{epoch}") for sample in joint.train]
        for rows in torch.randperm(len(ids)).split(_BATCH):
            loss = F.cross_entropy(detector(_levels(pixels, rows, shown)), ids[rows])  # half are real, as in tests
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(json.dumps({"epoch": epoch + 1, **_figures(files, detector, tasks, options.kind)}), flush=True)


def _detector(classes: int) -> Detector:
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    backbone = open_backbone(params.backbone).model
    assert isinstance(backbone, ResidualBackbone)
    return Detector(backbone.requires_grad_(True), classes)


def _figures(files: TaskFiles, detector: Detector, tasks: Sequence[Task], kind: str) -> dict[str, object]:
    """Accuracy by task, and how many real images are called synthetic."""
    change, found, wrong = _LOOKED_AT[kind], {}, []
    detector.eval()
    for k, task in enumerate(tasks, 1):
        samples = sample_of(task, _PER_CLASS)
        pixels, true = _read(files, samples), torch.tensor([k if s.class_index else 0 for s in samples])
        with torch.no_grad():
            parts = torch.arange(len(samples)).split(_LOOK)
            said = torch.cat([detector(_levels(pixels, part, [change] * len(samples))) for part in parts]).argmax(1)
        found[task.name] = round(float((said == true).float().mean()), 4)
        wrong += (said[true == 0] != 0).tolist()
    mean = round(float(np.mean(list(found.values()))), 4)
    return {change.name: mean, "false_positives": round(float(np.mean(wrong)), 4), "by_task": found}


def _levels(pixels: Sequence[np.ndarray], rows: Tensor, shown: Sequence[Perturbation]) -> Tensor:
    images = [np.ascontiguousarray(shown[k].apply(pixels[k])) for k in rows.tolist()]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()


def _read(files: TaskFiles, samples: Sequence[Sample]) -> list[np.ndarray]:
    return [decode(files.paths[sample.md5]) for sample in samples]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compressed", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("work/real"), help="where 'make real' put the set")
    parser.add_argument("--kind", choices=sorted(_LOOKED_AT), default="jpeg")
    parser.add_argument("--images", type=int, default=600, help="train images of each class")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
