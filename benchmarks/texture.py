"""What the texture of the residual backbone holds of the stream `real`, part by part: a ridge head on all images.

    python -m benchmarks.texture --root work/real --features /tmp/textures.npz

Textures are computed once (a core needs about eight minutes) and kept in the file that `--features` names, which
`benchmarks.ood` reads, too. Sums over images add up, so that what is told here is also what a stream ends with.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tasks import TaskFiles
from lorax.data.images import Images
from lorax.learning.texture_head import Statistics
from lorax.network import traces
from lorax.network.backbone import Backbone
from lorax.network.building import open_backbone
from lorax.params import BackboneParams
from lorax.stream import SCENARIOS, ClassTable, Sample, TaskClass

CONTROL = "control"
_BATCH = 40


def main() -> None:
    options = _options()
    if not options.features.exists():
        _compute(options.root, options.features)
    kept = np.load(options.features)
    table = {name: kept[name] for name in kept.files}
    spectrum, end = traces.SPECTRA * traces.SPECTRUM, table["F"].shape[1]
    parts = {
        "front": np.arange(traces.WIDTH, end),
        "spectrum": np.arange(spectrum),
        "colours": np.arange(spectrum, traces.WIDTH),
        "spectrum and colours": np.arange(traces.WIDTH),
        "front and spectrum": np.r_[:spectrum, traces.WIDTH : end],
        "front and colours": np.arange(spectrum, end),
        "all": np.arange(end),
    }
    stream = SCENARIOS["real"]
    print(f"{'texture':22} {'numbers':>7}  average  detection  false positives")
    for name, columns in parts.items():
        row, detection, alarms = _learned(table, stream, columns, options.penalty)
        print(f"{name:22} {len(columns):7}  {np.mean(row):7.4f}  {detection:9.4f}  {alarms:.4f}", flush=True)
    print("all:", "  ".join(f"{task} {value:.3f}" for task, value in zip(stream, row, strict=True)))
    alone = {task: _learned(table, [task], parts["all"], options.penalty)[0][0] for task in (*stream, CONTROL)}
    print("alone:", "  ".join(f"{task} {value:.3f}" for task, value in alone.items()))


def _learned(
    table: dict[str, NDArray[np.generic]], tasks: Sequence[str], columns: NDArray[np.int64], penalty: float
) -> tuple[list[float], float, float]:
    """Accuracy on each task (multi-real rule), real or synthetic, and false positives, after the last of `tasks`."""
    classes, sums = ClassTable(), Statistics.empty(len(columns))
    for k, task in enumerate(tasks):
        classes = classes.with_task(task, (TaskClass(0, "real"), TaskClass(1, task)))
        textures, is_synthetic = _of(table, task, "train", columns)
        sums = sums.with_images(textures, 2 * k + is_synthetic, len(classes))
    weight, bias = sums.solve(penalty, classes.multi_real())
    row, detected, alarms = [], [], []
    for k, task in enumerate(tasks):
        textures, is_synthetic = _of(table, task, "val", columns)
        said = (textures @ weight.T + bias).argmax(1)
        right = torch.where(is_synthetic == 1, said == 2 * k + 1, said % 2 == 0)
        row.append(float(right.double().mean()))
        detected.append(float((said % 2 == is_synthetic).double().mean()))
        alarms.append(float((said % 2)[is_synthetic == 0].double().mean()))
    return row, float(np.mean(detected)), float(np.mean(alarms))


def _of(
    table: dict[str, NDArray[np.generic]], task: str, split: str, columns: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = (table["task"] == task) & (table["split"] == split)
    return torch.from_numpy(table["F"][rows][:, columns]), torch.from_numpy((table["y"][rows] != 0).astype(np.int64))


def _compute(root: Path, path: Path) -> None:
    """Texture (F) and feature without a branch (B) of every image's centre, as `benchmarks.ood` reads them."""
    torch.set_num_threads(1)
    backbone, found = open_backbone(BackboneParams(name="residual", crop=128)), []
    for k, name in enumerate((*SCENARIOS["real"], CONTROL)):
        files = TaskFiles()
        task = files.read(root / "set" / name)
        for split, samples in (("train", task.train), ("val", task.test)):
            said = _said(backbone, files, samples)
            labels = np.array([(k + 1) * bool(s.class_index) for s in samples])
            found.append((*said, labels, np.full(len(labels), name), np.full(len(labels), split)))
        print(f"{name}: {len(task.train) + len(task.test)} images", flush=True)
    columns = [np.concatenate(column) for column in zip(*found, strict=True)]
    np.savez(path, **dict(zip(("F", "B", "y", "task", "split"), columns, strict=True)))


@torch.no_grad()
def _said(backbone: Backbone, files: TaskFiles, samples: Sequence[Sample]) -> tuple[NDArray[np.float32], ...]:
    images = Images.load(samples, files.fetch(samples), backbone.identity.crop, center_only=True)
    centers, textures, features = images.center()[:, 0], [], []
    for rows in torch.arange(len(samples)).split(_BATCH):
        embedded = backbone.embed(images.batch(rows.numpy(), centers[rows.numpy()]))
        textures.append(backbone.texture(embedded).numpy())
        features.append(backbone.model.encode(embedded.tokens).numpy())
    return np.concatenate(textures), np.concatenate(features)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.texture", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("work/real"), help="where 'make real' put the set")
    parser.add_argument("--features", type=Path, required=True, help="npz file, made if it isn't there")
    parser.add_argument("--penalty", type=float, default=100.0, help="head.penalty")
    return parser.parse_args()


if __name__ == "__main__":
    main()
