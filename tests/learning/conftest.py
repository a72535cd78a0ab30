"""Three tiny tasks of real PNG files whose classes differ by a stripe pattern, and a backbone to learn them on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorax.data.layout import parse_task
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.params import Params
from lorax.stream import DataRevision, Sample, Task
from tests.network.conftest import tiny_backbone_params  # noqa: F401  (a fixture)

NAMES = ("stripes", "bars", "checks")


class Stream:
    """Tasks on disk, and how to find their files."""

    def __init__(self, root: Path) -> None:
        self.paths: dict[str, Path] = {}
        self.tasks = [self.write(root, k, name) for k, name in enumerate(NAMES)]

    def fetch(self, samples: Iterable[Sample]) -> Mapping[str, Path]:
        return {s.md5: self.paths[s.md5] for s in samples}

    def open(self, folder: EpisodeFolder) -> Episode:
        """The episode of a folder."""
        return Episode.open(folder, {task.name: task for task in self.tasks}.__getitem__, self.fetch)

    def write(self, root: Path, kind: int, name: str, seed: int | None = None) -> Task:
        """A task whose synthetic images have the pattern of `kind`, other ones for each `seed`."""
        random = np.random.default_rng(kind if seed is None else seed)
        files = {}
        for split, count in (("train", 15), ("val", 6)):
            for folder in ("0_real", "1_fake"):
                for i in range(count):
                    pixels = random.integers(60, 196, (20, 18, 3), dtype=np.uint8)
                    if folder == "1_fake":
                        pixels[(slice(None, None, 2), slice(None)) if kind else (slice(None), slice(None, None, 2))] = (
                            40 + 80 * kind
                        )
                    path = root / name / split / folder / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(path)
                    md5 = hashlib.md5(path.read_bytes()).hexdigest()
                    files[path.relative_to(root / name).as_posix()] = md5
                    self.paths[md5] = path
        return parse_task(name, f"digest-of-{name}", files)


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return Stream(tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="session")
def params(tiny_backbone_params) -> Params:  # noqa: F811
    return Params.model_validate(
        {
            "backbone": tiny_backbone_params,
            "lora": {"rank": 2, "alpha": 2, "dropout": 0.1, "targets": [r"blocks\.\d+\.attn\.(qk|v)"]},
            "training": {"epochs": 2, "batch_size": 8, "views": 2},
            "exemplars": {"budget": 12},
            "calibration": {"per_class": 30},
            "run": {"threads": 1, "batch_size": 8, "device": "cpu"},
        }
    )


Learn = Callable[[Path, Path | None, int], EpisodeFolder]


def learn_one(stream: Stream, params: Params, home: Path, base: Path | None, k: int) -> EpisodeFolder:
    """Learn task number k on top of the state in a directory (None: the first task); returns the episode's folder."""
    episode = opened(stream, params, home, base, k)
    learn_episode(episode)
    return episode.folder


def opened(stream: Stream, params: Params, home: Path, base: Path | None, k: int) -> Episode:
    """The same episode, opened below `home`."""
    return stream.open(EpisodeFolder.open(home, plan_of(base, stream.tasks[k], params)))


@pytest.fixture(scope="session")
def learn(stream: Stream, params: Params) -> Learn:
    """`learn_one` with the parameters of most tests."""
    return partial(learn_one, stream, params)


def plan_of(base: Path | None, task: Task, params: Params) -> Plan:
    return Plan.of(base, task, params, DataRevision("root", "commit"))


@pytest.fixture(scope="session")
def learned(learn: Learn, tmp_path_factory: pytest.TempPathFactory) -> list[EpisodeFolder]:
    """The three tasks learned one after the other, once for all tests that only look."""
    home = tmp_path_factory.mktemp("episodes")
    folders: list[EpisodeFolder] = []
    for k in range(3):
        folders.append(learn(home, folders[-1].state_dir if folders else None, k))
    return folders
