"""What `benchmarks/scale.py` predicts, against what happens: 20 tiny generators learned by real flows, images scored.

    python -m proofs.scale_check [--tasks 20] [--images 1536]

The package's own backbone, images of 72 px, 30 + 30 to learn from and 10 + 10 to test with; real servers, real Ray, on
this machine. Processor seconds, bytes and rows: predicted, measured, and the ratio. A factor of 2 is asked for.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.dataset

from benchmarks import scale
from benchmarks.measure import Row, report
from lorax.data.landing import land
from lorax.workspace import Workspace
from proofs.bench import LORAX, SIDE, TINY, lorax, new_workspace, remove_workspace, tiny_task
from proofs.many_versions import kept, seconds
from proofs.score_cluster import score_rate, start, write_images

_TRAIN, _VAL, _PARTITION = 30, 10, 128
_HELD_OUT = 2 * (_TRAIN // 5)
_WITHIN = 2.0


def predicted(setting: scale.Setting, constants: scale.Constants, marks: list[int]) -> dict[str, float]:
    """By the names of `measured`."""
    k = setting.generators
    costs = [sum(scale.episode_s(replace(setting, generators=n), constants).values()) for n in range(1, k + 1)]
    half = marks[0]
    return {
        f"episodes 1 to {half}, processor s": sum(costs[:half]),
        f"episodes {half + 1} to {k}, processor s": sum(costs[half:]),
        "an image scored, processor ms": scale.verdict_ms(replace(setting, side=64), constants),
        "the last state, MB": scale.state_bytes(setting, constants) / 1e6,
        "all versions, MB": scale.kept_bytes(setting, constants) / 1e6,
        "an image's verdict, bytes": constants.row_bytes(setting.classes),
        "MLflow's rows": constants.rows("mlflow", k),
        "Prefect's rows": constants.rows("prefect", k),
    }


def measured(root: Path, images: int, marks: list[int]) -> tuple[dict[str, float], float]:
    """The figures, and the share of the scored images about which the branches were asked."""
    workspace, figures, before = Workspace(root), dict[str, float](), 0
    for mark in marks:
        for number in range(before, mark):
            name = f"task{number:02d}"
            land(workspace, tiny_task(root.parent / "raw", name, 0, train=_TRAIN, val=_VAL), name)
        taken = seconds(workspace, *LORAX, "learn").processor_s
        figures[f"episodes {before + 1} to {mark}, processor s"], before = taken, mark
        print(f"{mark} learned, {taken:.0f} s of processor", flush=True)
    held = kept(workspace)
    print(f"kept: {held}", flush=True)
    folder = root.parent / "images"
    write_images(folder, images, broken_every=0)
    process, out = start(root, folder, _PARTITION, None)
    rate = score_rate(process, out, _PARTITION, 1)
    said = pyarrow.dataset.dataset(out).to_table(columns=["answered_by"]).column(0).to_pylist()
    figures["an image scored, processor ms"] = 1000 / rate.by_processor
    figures["the last state, MB"] = held["state_bytes"] / 1e6
    figures["all versions, MB"] = held["artifact_bytes"] / 1e6
    parts = list(out.glob("part-*.parquet"))
    figures["an image's verdict, bytes"] = sum(part.stat().st_size for part in parts) / len(said)
    figures["MLflow's rows"], figures["Prefect's rows"] = held["mlflow_rows"], held["prefect_rows"]
    return figures, Counter(said)["branches"] / len(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--images", type=int, default=1536)
    given = parser.parse_args()
    epochs, budget = TINY["training"]["epochs"], TINY["exemplars"]["budget"]
    task = scale.Task(2 * _TRAIN - _HELD_OUT, 2 * _VAL, epochs, budget, _HELD_OUT, 2 * _VAL)
    setting = scale.Setting(generators=given.tasks, side=SIDE, crops=1, task=task)
    marks = [given.tasks // 2, given.tasks]
    foreseen = predicted(setting, scale.Constants(), marks)  # before anything is measured
    with tempfile.TemporaryDirectory() as folder:
        root = new_workspace(Path(folder), "workspace", tiny=True)
        try:
            lorax("up", "--no-worker", cwd=root)
            found, asked = measured(root, given.images, marks)
        finally:
            remove_workspace(root)
    rows: list[Row] = [
        {
            "what": name,
            "predicted": foreseen[name],
            "measured": value,
            "predicted_over_measured": foreseen[name] / value,
        }
        for name, value in found.items()
    ]
    told = scale.verdict_ms(replace(setting, side=64, asked=asked), scale.Constants())
    report("scale_check", rows, asked=asked, scored_ms_with_that_share=told)
    print(f"branches were asked about {asked:.1%} of the images; with that share predicted: {told:.1f} ms an image")
    off = [max(r, 1 / r) for r in (row["predicted_over_measured"] for row in rows)]
    print(f"within a factor of {max(off):.2f}")
    raise SystemExit(max(off) > _WITHIN)


if __name__ == "__main__":
    main()
