"""A stream learned by the real code in about a second: random-weight ConViT of 16 px, PNG files on disk, two epochs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from lorax.learning.calibration import Calibration
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan, Report
from lorax.learning.state import open_network
from lorax.learning.state_files import load_state, save_state, state_digest
from lorax.network.building import import_timm
from lorax.params import Params
from lorax.stream import DataRevision, Sample, Task, TaskClass

ARGUMENTS = {"img_size": 16, "patch_size": 8, "embed_dim": 4, "num_heads": 4, "depth": 3, "local_up_to_layer": 2}
TRAIN, TEST = 6, 4


@dataclass(frozen=True)
class Learned:
    """One finished episode, and the files of its task by md5."""

    task: Task
    files: Mapping[str, Path]
    state_dir: Path
    digest: str
    report: Report


def tiny_params(folder: Path) -> Params:
    """Parameters that name a random-weight backbone, written to `folder`."""
    torch.manual_seed(0)
    model = import_timm().create_model("convit_tiny", pretrained=False, num_classes=0, **ARGUMENTS)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    path = folder / "tiny.safetensors"
    safetensors.torch.save_file({n: w.contiguous() for n, w in model.state_dict().items()}, path)
    return Params.model_validate(
        {
            "backbone": {"name": "convit_tiny", "weights": str(path), "arguments": ARGUMENTS, "crop": 16},
            "lora": {"rank": 2},
            "training": {"epochs": 2, "batch_size": 8},
            "exemplars": {"budget": 8},
            "run": {"threads": 1, "device": "cpu"},
        }
    )


def learn_stream(folder: Path, params: Params, names: Iterable[str]) -> list[Learned]:
    """Learn one task after the other, each on top of the last."""
    episodes: list[Learned] = []
    for name in names:
        episodes.append(learn_next(folder, params, episodes, name))
    return episodes


def learn_next(folder: Path, params: Params, earlier: Sequence[Learned], name: str) -> Learned:
    """Learn one task on top of the last of `earlier`."""
    task, files = make_task(folder / "data", name)
    base = earlier[-1] if earlier else None
    plan = Plan.of(base.state_dir if base else None, task, params, DataRevision("0" * 32, "c0ffee"))
    home = EpisodeFolder.open(folder / "episodes", plan)
    known = {md5: path for files in [*(e.files for e in earlier), files] for md5, path in files.items()}
    tasks = {one.name: one for one in (*(e.task for e in earlier), task)}
    fetch = lambda samples: {sample.md5: known[sample.md5] for sample in samples}  # noqa: E731
    learn_episode(Episode.open(home, tasks.__getitem__, fetch))
    return Learned(task, files, home.state_dir, state_digest(home.state_dir), Report.read(home.report_path))


def calibrated(state_dir: Path, folder: Path, images: int = 30) -> Path:
    """The same learner, calibrated on as many new images of each class as give figures with a meaning."""
    state = load_state(state_dir)
    network = open_network(state, "cpu")
    random = np.random.default_rng(1)
    ids = torch.arange(len(state.classes)).repeat_interleave(images)
    pixels = random.integers(0, 128, (len(ids), 16, 16, 3)) + 120 * (ids.numpy() % 2)[:, None, None, None]
    crops = torch.from_numpy(pixels.astype(np.uint8)).permute(0, 3, 1, 2).contiguous()
    logits = network.head(network.features(crops))
    fitted = Calibration.fit(network.texture(crops), logits, ids, state.classes, 0.05, 0.1)
    save_state(replace(state, calibration=fitted), folder)
    return folder


def make_task(data: Path, name: str) -> tuple[Task, dict[str, Path]]:
    """A task of PNG files below `data`, and its files by md5; synthetic images are brighter than real ones."""
    random = np.random.default_rng(list(name.encode()))
    splits: dict[str, list[Sample]] = {"train": [], "val": []}
    files = {}
    for split, count in (("train", TRAIN), ("val", TEST)):
        for index, kind in enumerate(("0_real", "1_fake")):
            for i in range(count):
                path = data / name / split / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 128, (20, 24, 3)) + 120 * index
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
                files[md5] = path
                splits[split].append(Sample(path.relative_to(data).as_posix(), md5, name, index))
    digest = hashlib.sha256(name.encode()).hexdigest()
    classes = (TaskClass(0, "real"), TaskClass(1, name))
    return Task(name, digest, classes, tuple(splits["train"]), tuple(splits["val"])), files
