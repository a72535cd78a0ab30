"""What an episode with a student costs against one without: fitting it, and what scores and card ask with its help.

    python -m benchmarks.student_cost [--rounds 1] [--set SECTION.KEY=VALUE ...]

The demo's stream. Its first three episodes have no student, since their held-out images bound nothing; the fourth and
the fifth are learned and assessed both ways, in turns, one thread, in processor seconds. Without: no student is fitted,
so all branches are asked about every image.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.demo_streams import demo_files, learned
from benchmarks.measure import Row, report, spread
from benchmarks.tasks import TaskFiles
from lorax.learning.assessment import assess
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.params import Params, load_params
from lorax.stream import DataRevision, Task

FIRST_WITH_STUDENT = 3
WAYS = ("without", "with")


@contextmanager
def students(fitted: bool) -> Iterator[None]:
    """Have episodes fit a student, as they do, or none."""
    settling: Any = importlib.import_module("lorax.learning.settling")  # it imports them for itself
    kept = settling.said_as_if_new, settling.least_ahead
    if not fitted:
        settling.said_as_if_new, settling.least_ahead = lambda _, logits, __: logits, lambda *_: None
    try:
        yield
    finally:
        settling.said_as_if_new, settling.least_ahead = kept


def timed(files: TaskFiles, task: Task, base: Path, params: Params, home: Path) -> tuple[EpisodeFolder, float]:
    """An episode, learned and assessed, and its processor seconds."""
    folder = EpisodeFolder.open(home, Plan.of(base, task, params, DataRevision("simulated", "none")))
    by_name = {one.name: one for one in files.tasks}
    started = time.process_time()
    episode = Episode.open(folder, by_name.__getitem__, files.fetch)
    learn_episode(episode)
    assess(episode)
    return folder, time.process_time() - started


def round_of(files: TaskFiles, common: Path, base: Path, params: Params, home: Path) -> list[Row]:
    """Seconds of each episode both ways, from a copy of what the episodes before have left."""
    for way in WAYS:
        shutil.copytree(common, home / way)
    bases, rows = {way: home / way / base.relative_to(common) for way in WAYS}, []
    for index, task in enumerate(files.tasks[FIRST_WITH_STUDENT:], FIRST_WITH_STUDENT):
        row: Row = {"episode": index}
        for way in WAYS:
            with students(way == "with"):
                folder, row[way] = timed(files, task, bases[way], params, home / way)
            bases[way] = folder.state_dir
            assert has_student(folder) == (way == "with")
        print(row, flush=True)
        rows.append(row)
    return rows


def has_student(folder: EpisodeFolder) -> bool:
    from lorax.learning.state_files import load_state

    return load_state(folder.state_dir).student is not None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.student_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    params = load_params(Path("params.yaml"), overrides=[*options.set, "run.threads=1"])
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as passing:
        home = Path(passing)
        files = demo_files(home)
        [*_, last] = learned(files, files.tasks[:FIRST_WITH_STUDENT], params, home / "common")
        given = (files, home / "common", last.state_dir, params)
        rounds = [round_of(*given, home / str(number)) for number in range(options.rounds)]
    rows = [
        {
            "episode": each[0]["episode"],
            **{way: statistics.median(float(str(one[way])) for one in each) for way in WAYS},
            **spread([float(str(one["with"])) / float(str(one["without"])) for one in each]),
        }
        for each in zip(*rounds, strict=True)
    ]
    report("student_cost", rows, load_before=load)


if __name__ == "__main__":
    main()
