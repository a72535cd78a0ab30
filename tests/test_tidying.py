"""Room in work/: what stays and what goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lorax import tidying
from lorax.workspace import Workspace


def made(folder: Path, hours_ago: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "learner.json").write_text("{}")
    at = time.time() - 3600 * hours_ago
    os.utime(folder, (at, at))
    return folder


def test_of_learner_states_those_used_last_and_lately_stay(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    states = [made(workspace.states_dir / f"{age:064x}", age) for age in range(2, 9)]
    lately = made(workspace.states_dir / "lately", 0.5)
    tidying.used(states[-1])
    tidying.tidy(workspace)
    assert set(workspace.states_dir.iterdir()) == {states[-1], lately, *states[:2]}
    assert len(set(workspace.states_dir.iterdir())) == tidying.STATES_KEPT


def test_of_episodes_those_worked_on_last_stay_and_what_they_share(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    shared = made(workspace.episodes_dir / "features", 99)
    episodes = [workspace.episodes_dir / f"{age:016x}" for age in range(2, 14)]
    for age, folder in enumerate(episodes, 2):
        made(folder, age)
        (folder / "plan.json").write_text("{}")
        os.utime(folder, (time.time() - 3600 * age,) * 2)
    before = tidying.size(workspace.work_dir)
    tidying.tidy(workspace)
    assert set(workspace.episodes_dir.iterdir()) == {shared, *episodes[: tidying.EPISODES_KEPT]}
    assert before - tidying.size(workspace.work_dir) == 4 * len("{}{}")


def test_half_made_things_go_wherever_a_kill_left_them(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    places = (
        workspace.work_dir,
        workspace.states_dir,
        workspace.episodes_dir / "e",
        tmp_path / "work/scenarios/hard/e",
        tmp_path / "work/sweeps/one/episodes/e",
    )
    left = [made(place / name, 1) for place in places for name in (".state-0a1b2c3d", "lorax-scratch-0a1b2c3d")]
    kept = made(workspace.episodes_dir / "e" / "trained", 1)
    tidying.tidy(workspace)
    assert [path for path in left if path.exists()] == []
    assert kept.exists()
