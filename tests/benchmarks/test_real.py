"""The figures of the stream `real`, on a stream that is learned in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.demo_streams import learned
from benchmarks.real_figures import alone_figures, joint_figures, joint_task, read_photographs, stream_figures
from benchmarks.tasks import TaskFiles, write_task
from lorax.learning.state_files import load_state
from lorax.params import Params
from tests.tiny_learner import tiny_params

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def params(home: Path) -> Params:
    values = tiny_params(home).model_dump(mode="json")
    changes = {"head": {"solver": "ridge"}, "exemplars": {"budget": 40}, "calibration": {"per_class": 4}}
    return Params.model_validate(values | changes)


@pytest.fixture(scope="module")
def files(home: Path) -> TaskFiles:
    files = TaskFiles()
    for number in range(2):
        write_task(home / f"task{number}", train=40, test=12, side=16, seed=number)
        files.read(home / f"task{number}")
    return files


def test_a_stream_is_told_beside_heads_without_branches_and_on_photographs_that_no_task_brings(
    home: Path, params: Params, files: TaskFiles
) -> None:
    (home / "others").mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(home / "others" / f"{number}.png")
    folders = learned(files, files.tasks, params, home / "stream")
    told = stream_figures(files, files.tasks, folders, params, read_photographs(files, home / "others"))
    assert told["average_accuracy"] == pytest.approx(np.mean(list(told["last_row"].values())), abs=1e-4)
    assert set(told["head_only"]) == {
        "sums",
        *(f"{budget} exemplars{name}" for budget in (40, 100) for name in ("", ", with branches")),
    }
    assert min(told["head_only"].values()) > 0.3  # four answers
    assert set(told["false_positives"]) == {"val", "clean", "jpeg-95", "jpeg-75", "webp-80", "resize-75"}
    alone = alone_figures(files, files.tasks[:1], folders[:1], params)  # the first episode learned on top of nothing
    assert list(alone["alone_row"]) == ["task0"]
    assert alone["alone"]["mean"] == alone["alone"]["worst"] == alone["alone_row"]["task0"]


def test_all_tasks_as_one_have_one_real_class_and_are_told_by_task(
    home: Path, params: Params, files: TaskFiles
) -> None:
    joint = joint_task(files.tasks)
    assert [c.name for c in joint.classes] == ["real", "task0", "task1"]
    assert [s.class_index for s in joint.test].count(0) == 12
    folder = learned(files, [joint], params, home / "joint")[0]
    told = joint_figures(files, files.tasks, folder, params)
    pooled = load_state(folder.state_dir).accuracy[-1][-1]  # the same, since tasks have as many test images
    assert told["joint"] == pytest.approx(pooled, abs=1e-4)
    assert list(told["joint_row"]) == ["task0", "task1"]
