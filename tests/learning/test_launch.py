"""Several processes on one episode: they agree with each other, and with one process as far as rounding lets them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from lorax.errors import DataVersionError, ParamsError
from lorax.learning import launch
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder
from lorax.params import Params
from tests.learning.conftest import plan_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def still(params: Params) -> Params:
    """No dropout: each process would draw its own."""
    return params.model_copy(update={"lora": params.lora.model_copy(update={"dropout": 0.0})})


def _by(processes: int, params: Params) -> Params:
    return params.model_copy(update={"run": params.run.model_copy(update={"processes": processes})})


def test_two_processes_learn_what_one_learns(
    learned: list[EpisodeFolder], stream, still: Params, tmp_path: Path
) -> None:
    params, task, rows, done = _by(2, still), stream.tasks[1], [], []
    base, start = learned[0].state_dir, stream.tasks[0].name
    plans = (replace(plan_of(base, task, each), start=start) for each in (still, params))
    alone, folder = (EpisodeFolder.open(tmp_path / f"{k}", plan) for k, plan in enumerate(plans))
    one = learn_episode(stream.open(alone))
    two = learn_episode(stream.open(folder), lambda row, epochs: rows.append(row), lambda *said: done.append(said))
    assert not (folder.root / "launch").exists()
    assert [row.epoch for row in rows] == [0, 1]  # told by rank 0 alone
    assert done[-1][0] == done[-1][1] > 0
    assert (one.branches[1].start, two.branches[1].start) == (start, start)
    assert torch.allclose(two.head_weight, one.head_weight, atol=1e-4)
    assert two.accuracy[1] == pytest.approx(one.accuracy[1], abs=0.01)
    first, second = ({(e.sample.md5, e.class_id) for e in state.exemplars} for state in (one, two))
    assert len(second) == len(two.exemplars) == still.exemplars.budget  # one budget, no image twice
    assert len(first & second) >= 0.95 * still.exemplars.budget


def test_a_ranks_error_is_the_callers(stream, still: Params, tmp_path: Path) -> None:
    params, task = _by(2, still), stream.tasks[0]
    folder = EpisodeFolder.open(tmp_path, plan_of(None, task, params))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")

    def fetch(samples):
        samples = list(samples)
        return stream.fetch(samples) | {samples[3].md5: bad}

    (folder.root / "launch").mkdir()  # of a run that was killed
    with pytest.raises(DataVersionError, match="md5"):
        Episode.open(folder, lambda _: task, fetch).fit()
    assert not folder.trained_dir.exists()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ParamsError, match="this machine has 1 GPU;"):
        launch._check_gpus(2, on_cpu=False)


def test_ranks_that_disagree_say_so(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(
        "import torch\n"
        "from lorax.network.process_group import LaunchedGroup\n"
        "group = LaunchedGroup(cpu=True)\n"
        "weights = torch.ones(3)\n"
        "group.check_equal([weights])\n"
        "group.all_reduce([weights])\n"
        "assert weights.tolist() == [2, 2, 2]\n"
        "group.check_equal([weights + 1e-6 * group.rank])\n"
    )
    command = [*launch.launch_command(2), str(script)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "have learned different weights" in done.stderr
    assert "AssertionError" not in done.stderr


def test_any_other_error_is_told_with_its_traceback(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    error = launch._error([{"error": "ZeroDivisionError", "message": "Traceback ... the real cause"}], log)
    assert isinstance(error, RuntimeError)
    assert "the real cause" in str(error)
    assert str(log) in str(error)


def test_ranks_end_with_the_process_that_started_them(
    learned: list[EpisodeFolder], stream, still: Params, tmp_path: Path
) -> None:
    """Killed, it can tell no one; ranks notice that their standard input has ended."""
    params, task = _by(2, still), stream.tasks[1]
    params = params.model_copy(update={"training": params.training.model_copy(update={"epochs": 10_000})})
    folder = EpisodeFolder.open(tmp_path, plan_of(learned[0].state_dir, task, params))
    pid = os.fork()
    if pid == 0:
        try:
            stream.open(folder).fit()
        finally:
            os._exit(1)
    try:
        _wait_until(folder.checkpoint_path.is_file)
        ranks = _ranks_of(folder)
        assert len(ranks) >= 3  # the launcher and two that it started
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    _wait_until(lambda: not _ranks_of(folder))


def _ranks_of(folder: EpisodeFolder) -> list[psutil.Process]:
    job = str(folder.root / "launch" / "job.json")
    return [p for p in psutil.process_iter(["cmdline"]) if job in (p.info["cmdline"] or [])]


def _wait_until(condition: Callable[[], object], patience_s: float = 120) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
