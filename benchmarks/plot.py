"""Draw docs/images/cost-against-tasks.png from what training_step.py and episode.py measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from measure import read_report

PICTURE = Path(__file__).parents[1] / "docs/images/cost-against-tasks.png"
WAYS = {"published": ("#b5462e", "as published"), "ours": ("#1f5f8b", "ours")}


def draw(axes: Any, rows: list[dict[str, float]], x: str, unit_s: float) -> None:
    for way, (colour, label) in WAYS.items():
        axes.plot([r[x] for r in rows], [r[f"{way}_s"] / unit_s for r in rows], "o-", color=colour, label=label, ms=4)
    axes.set_xticks([r[x] for r in rows])
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    steps = [row for row in read_report("training_step")["rows"] if "branches" in row]
    draw(left, steps, "branches", 1)
    left.set(title="one training step, 8 images", xlabel="branches (tasks learned)", ylabel="seconds")
    left.legend(frameon=False)
    episodes = [row for row in read_report("episode")["rows"] if "episode" in row]
    draw(right, episodes, "episode", 3600)
    right.set(title="one whole episode, 10 epochs, 4 views", xlabel="episode", ylabel="hours (composed)")
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=150)
    print(PICTURE)


if __name__ == "__main__":
    main()
