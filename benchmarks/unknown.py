"""Leave one generator out: how well several scores tell images of a generator never learned from those of known ones.

For each generator of the demo in turn the stream of the other four is learned; then its synthetic test images are the
unknown ones, and all test images of the four learned tasks, real and synthetic, the known ones. Scores compared:

    probability    minus the largest answer's probability (Hendrycks and Gimpel, ICLR 2017)
    energy         minus the log of the summed exponentials of the logits (Liu et al., NeurIPS 2020)
    class means    the Euclidean distance to the nearest class mean in the branches' concatenated features
    neighbours     the distance to the fifth nearest calibration image there, normalised (Sun et al., ICML 2022)
    Mahalanobis    the distance to the nearest class mean there, with a shrunk covariance
    strangeness    what lorax uses: that distance between textures (lorax/learning/ood.py)

All are fitted on the calibration memory alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.demo_streams import Looked, Observer, demo_files, learned, mean
from benchmarks.measure import report
from lorax.data.simulate import DEMO_TASKS
from lorax.learning.calibration import answers_of
from lorax.learning.ood import Distance
from lorax.learning.state import LearnerState
from lorax.learning.unknown import auroc
from lorax.params import Params, load_params

Score = Callable[[Looked], Tensor]
"""Of N images, (N,): higher is further out of distribution."""

OURS = "strangeness"


def scores(state: LearnerState, memory: Looked) -> dict[str, Score]:
    """The scores of a learner, fitted to what it says of its calibration memory."""
    assert state.calibration is not None
    fitted, normal = state.calibration, F.normalize(memory.features, dim=1)
    ids = torch.tensor([entry.class_id for entry in state.calibration_memory])
    among_features = Distance.fit(memory.features, ids)
    means = among_features.means
    return {
        "probability": lambda x: -answers_of(fitted.probabilities(x.logits), state.classes).max(dim=1).values,
        "energy": lambda x: -x.logits.logsumexp(dim=1),
        "class means": lambda x: torch.cdist(x.features, means).min(dim=1).values,
        "neighbours": lambda x: torch.cdist(F.normalize(x.features, dim=1), normal).topk(5, largest=False).values[:, 4],
        "Mahalanobis": lambda x: among_features.squared(x.features),
        OURS: lambda x: fitted.ood_score(x.textures),
    }


def left_out(generator: str, params: Params, folder: Path) -> list[dict[str, Any]]:
    """One row for each score."""
    files = demo_files(folder)
    known = [task for task in files.tasks if task.name != generator]
    [unknown] = [task for task in files.tasks if task.name == generator]
    last = learned(files, known, params, folder / f"episodes-{params.run.seed}")[-1]
    observer = Observer(last, files, params)
    assert observer.state.calibration is not None
    memory = observer.look([entry.sample for entry in observer.state.calibration_memory])
    usual = observer.look([sample for task in known for sample in task.test])
    strange = observer.look([sample for sample in unknown.test if sample.class_index])
    rows = []
    for name, score in scores(observer.state, memory).items():
        low, high = score(usual), score(strange)
        at_5 = float((high > torch.quantile(low, 0.95)).double().mean())
        rows.append({"left_out": generator, "seed": params.run.seed, "score": name, "auroc": auroc(high, low),
                     "detection_at_5": at_5, **_at_threshold(name, observer.state, low, high)})  # fmt: skip
    return rows


def _at_threshold(name: str, state: LearnerState, low: Tensor, high: Tensor) -> dict[str, float]:
    if name != OURS or state.calibration is None:
        return {}
    limit = state.calibration.threshold
    return {"detection": float((high > limit).double().mean()), "false_alarms": float((low > limit).double().mean())}


def print_table(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean AUROC of each score, over seeds for each generator, then over all; returns the last."""
    print(f"{'AUROC':<14}" + "".join(f"{name:>14}" for name in DEMO_TASKS) + f"{'mean':>9}{'at 5 %':>9}")
    means = {}
    for score in dict.fromkeys(row["score"] for row in rows):
        own = [row for row in rows if row["score"] == score]
        means[score] = mean([row["auroc"] for row in own])
        cells = (mean([r["auroc"] for r in own if r["left_out"] == name]) for name in DEMO_TASKS)
        found = mean([row["detection_at_5"] for row in own])
        print(f"{score:<14}" + "".join(f"{cell:>14.3f}" for cell in cells) + f"{means[score]:>9.3f}{found:>9.3f}")
    ours = [row for row in rows if "detection" in row]
    alarms, found = (mean([row[key] for row in ours]) for key in ("false_alarms", "detection"))
    print(f"at the stored threshold {found:.3f} of the unknown images are detected, {alarms:.3f} of the known ones too")
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("work/benchmarks/unknown"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        params = load_params(Path("params.yaml"), overrides=[f"run.seed={seed}", "run.device=cpu"])
        for generator in DEMO_TASKS:
            rows += left_out(generator, params, arguments.folder)
            print(f"seed {seed}: {generator} left out", flush=True)
    means = print_table(rows)
    report("unknown", rows, mean_auroc=means)


if __name__ == "__main__":
    main()
