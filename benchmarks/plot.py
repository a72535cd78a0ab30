"""Draw docs/images/cost-against-tasks.png and verdicts-against-generators.png from what other scripts measured.

These are training_step.py, episode.py, and verdicts.py for either model with `--batch 16` and several `--branches`.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from measure import read_report

IMAGES = Path(__file__).parents[1] / "docs/images"
GENERATORS = 100
VERDICTS = ("ConViT-Tiny, 224 px, rank 64", "residual backbone, 128 px, rank 16")
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
    save(figure, "cost-against-tasks.png")
    figure, both = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axes, name, title in zip(both, ("verdicts", "verdicts-residual"), VERDICTS, strict=True):
        draw_verdicts(axes, [row for row in read_report(name)["rows"] if row["batch"] > 1])
        axes.set(title=title, xlabel="generators (branches)", ylabel="milliseconds an image")
    both[0].legend(frameon=False)
    save(figure, "verdicts-against-generators.png")


def draw_verdicts(axes: Any, rows: list[dict[str, float]]) -> None:
    """Measured to where rows go; from there on dashed, along the line through the last two."""
    branches, (most, last) = [row["branches"] for row in rows], rows[-2:]
    for way, colour, label in (
        ("exact", WAYS["published"][0], "all branches asked"),
        ("served", WAYS["ours"][0], "the student first"),
    ):
        axes.plot(branches, [row[f"{way}_ms"] for row in rows], "o-", color=colour, label=label, ms=4)
        slope = (last[f"{way}_ms"] - most[f"{way}_ms"]) / (last["branches"] - most["branches"])
        ends = [last["branches"], GENERATORS]
        axes.plot(ends, [last[f"{way}_ms"] + slope * (k - ends[0]) for k in ends], "--", color=colour)
    limit = statistics.median(row["least_ms"] for row in rows)
    axes.axhline(limit, color="black", lw=1, ls=":", label="one pass at the matrix rate")
    axes.set(yscale="log")
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Any, name: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / name, dpi=150)
    print(IMAGES / name)


if __name__ == "__main__":
    main()
