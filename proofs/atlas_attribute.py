"""Attribution by a probe against the classifier's own answer, on images that neither has seen."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.demo_streams import demo_files, learned, mean
from lorax.attribution import Handful, nearest
from lorax.data.images import decode
from lorax.learning.state_files import load_state
from lorax.params import load_params
from lorax.verdicts.predictor import Predictor
from lorax.workspace import Workspace
from proofs.atlas_zoo import HOME

SEEDS = (0, 1, 2)
SIZES = (40, 10)
_LEAST_RECALL = 0.8
"""Of probes of 40 images; chance is 0.2."""


def prove_attribute() -> bool:
    """recall@1 of a probe on test images of every known generator, against the classifier's answers, three seeds."""
    rows = [_measured(seed, size) for seed in SEEDS for size in SIZES]
    print("  images   seed   queries   probe's recall@1   classifier: most images' answer   each image's answer")
    for size, seed, queries, probe, majority, each in rows:
        print(f"  {size:>6} {seed:>6} {queries:>9} {probe:>18.3f} {majority:>32.3f} {each:>21.3f}")
    for size in SIZES:
        found = [row[3:] for row in rows if row[0] == size]
        print(
            f"  {size} images, mean: probe {mean([f[0] for f in found]):.3f}, "
            + f"classifier {mean([f[1] for f in found]):.3f}, one image {mean([f[2] for f in found]):.3f}"
        )
    return mean([row[3] for row in rows if row[0] == SIZES[0]]) >= _LEAST_RECALL


def _measured(seed: int, size: int) -> tuple[int, int, int, float, float, float]:
    """The test images of each generator in handfuls of `size`, all in the demo's stream learned with this seed."""
    params = load_params(Path("params.yaml"), overrides=[f"run.seed={seed}"])
    files = demo_files(HOME / "attribute")
    state_dir = learned(files, files.tasks, params, HOME / "attribute" / f"seed-{seed}")[-1].state_dir
    state, predictor = load_state(state_dir), Predictor.open(state_dir, "auto")
    workspace = Workspace((HOME / "attribute" / f"workspace-{seed}").resolve())
    right, majority, each = [], [], []
    for task in files.tasks:
        images = sorted(files.paths[s.md5] for s in task.test if s.class_index)
        for start in range(0, min(len(images), 4 * size), size):
            folder = _folder(images[start : start + size])
            handful = Handful.pick(folder, size)
            fetch = lambda samples, own=handful.paths: {s.md5: own.get(s.md5) or files.paths[s.md5] for s in samples}  # noqa: E731
            found = nearest(workspace, state, params, handful.samples, fetch, lambda _: None)
            right.append(found[0].label == task.name)
            answers = [
                v.generator for v in predictor.judge([decode(p) for p in images[start : start + size]], ["?"] * size)
            ]
            named = [sum(a == e for a in answers) for e in (t.name for t in files.tasks)]
            majority.append(files.tasks[named.index(max(named))].name == task.name)
            each.append(mean([a == task.name for a in answers]))
    return size, seed, len(right), mean(right), mean(majority), mean(each)


def _folder(images: list[Path]) -> Path:
    folder = HOME / "attribute" / "query"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in images:
        shutil.copy(path, folder)
    return folder
