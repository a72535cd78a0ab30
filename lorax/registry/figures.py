"""The figures of an episode and the files of a scenario; drawn without pyplot: no global state, no display."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from lorax.learning.metrics import summary
from lorax.storage import canonical_json, write_whole
from lorax.verdicts.rate import interval

if TYPE_CHECKING:
    from lorax.learning.assessment import Assessment, CardRow
    from lorax.learning.folder import Report
    from lorax.learning.state import LearnerState

_DPI = 120
_LONGEST_PX = 4000
_CELL_IN, _SMALL_CELL_IN = 0.62, 0.2
_MARGIN_IN = 2.4

_WRITTEN = 40
"""Rows, and columns, up to which cells have their numbers written in them. Of more they would take seconds to draw, a
millisecond each, and be too small to read; report.json has them."""

_NAMED = 100
"""Rows, and columns, that are named; of more only some."""

_FEW = 10
_DRAWN = ("average_accuracy", "average_incremental_accuracy", "forgetting")
"""Of several orders of a scenario."""

_COMPARED = ("average_accuracy", "forgetting")
"""Of a sweep's methods."""

_LIGHT_ABOVE = 0.6
"""Cells darker than this get light text."""


def accuracy_matrix(tasks: Sequence[str], rows: Sequence[Sequence[float]]) -> Figure:
    """Heat map of R[i, j]: one row per episode, one column per task; what was not learned yet stays blank."""
    values = np.full((len(rows), len(tasks)), np.nan)
    for episode, row in enumerate(rows):
        values[episode, : len(row)] = row
    after = [f"{j}: {task}" for j, task in enumerate(tasks[: len(rows)])]
    figure, axes = _heat_map(values, [[f"{100 * v:.1f}" for v in row] for row in rows], after, tasks)
    axes.set(xlabel="accuracy on task, %", ylabel="after episode", title="Accuracy matrix")
    return figure


def task_lines(
    tasks: Sequence[str], rows: Sequence[Sequence[float]], versions: Mapping[int, int] | None = None
) -> Figure:
    """Each task's accuracy over the episodes since it was learned, and their average.

    Args:
        tasks: names, in the order of learning.
        rows: the accuracy matrix.
        versions: the numbers of episodes' versions, as far as those are registered; None: episodes are numbered.
    """
    figure = Figure(figsize=(8, 4.5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    palette = matplotlib.colormaps["tab10" if len(tasks) <= _FEW else "tab20"]
    axes.set_prop_cycle(color=[palette(i) for i in range(palette.N)])
    for i, task in enumerate(tasks):
        axes.plot(range(i, len(rows)), [row[i] for row in rows[i:]], marker="o", markersize=4, label=task)
    averages = [sum(row) / len(row) for row in rows]
    axes.plot(range(len(rows)), averages, color="black", linestyle="--", linewidth=2, label="average")
    numbers = range(len(rows)) if versions is None else [versions.get(j, "") for j in range(len(rows))]
    labels = [f"{number}\n{task}" for number, task in zip(numbers, tasks, strict=False)]
    shown = range(0, len(rows), -(-len(rows) // _FEW))
    axes.set_xticks(shown, [labels[j] for j in shown], fontsize="small" if len(rows) > _FEW // 2 else None)
    over = "episode" if versions is None else "version"
    low = max(0.0, math.floor(10 * min(min(row) for row in rows) - 0.5) / 10)  # else all lines are one, at the top
    axes.set(xlabel=over, ylabel="accuracy", ylim=(low, 1.02 - 0.02 * low))
    axes.set_title(f"Accuracy of each task over the {over}s")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def confusion_matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """How often an image of each true class (row) was taken for each class (column), as a share of its row."""
    table = np.asarray(counts, dtype=float)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    texts = [[str(count) if count else "" for count in row] for row in counts]
    figure, axes = _heat_map(shares, texts, labels, labels)
    axes.set(xlabel="predicted class (of a real image any real one is right)", ylabel="true class")
    axes.set_title("Confusion matrix, images of all known tasks")
    return figure


def reliability_diagram(assessment: Assessment) -> Figure:
    """How often answers of a confidence were right, clean and perturbed; bars show what chance makes of a bin."""
    found = assessment.reliability
    figure = Figure(figsize=(4.8 * len(found), 4.9), dpi=_DPI)
    figure.subplots_adjust(left=0.7 / (4.8 * len(found)), right=1 - 0.2 / (4.8 * len(found)), bottom=0.12, top=0.88)
    for axes, of in zip(np.atleast_1d(figure.subplots(1, len(found))), found, strict=True):
        confidence, accuracy = [b.confidence for b in of.bins], [b.accuracy for b in of.bins]
        ends = np.transpose([interval(round(b.accuracy * b.images), b.images) for b in of.bins])
        chance = np.maximum(0, (accuracy - ends[0], ends[1] - accuracy))
        axes.plot((0, 1), (0, 1), color="grey", linestyle="--", linewidth=1)
        axes.errorbar(confidence, accuracy, yerr=chance, fmt="o", markersize=4, elinewidth=1, capsize=2)
        axes.set(xlabel="confidence", ylabel="share that was right", xlim=(0, 1.02), ylim=(0, 1.05), aspect="equal")
        error = of.error_before if of.error_after is None else of.error_after
        state = "" if assessment.calibrated else ", uncalibrated"
        axes.set_title(
            f"{of.perturbation}{state}: error {100 * error:.1f} %, by chance {100 * of.floor:.1f} %\n"
            f"{of.images} images in {len(of.bins)} bins of {_range([b.images for b in of.bins])}",
            fontsize="medium",
        )
        axes.grid(alpha=0.3)
    return figure


def robustness_map(card: Sequence[CardRow]) -> Figure:
    """Accuracy on each task (row), and on all together, under each perturbation (column)."""
    names, tasks = ([*dict.fromkeys(of)] for of in ((r.perturbation for r in card), (r.task for r in card)))
    values = np.full((len(tasks), len(names)), np.nan)
    for row in card:
        values[tasks.index(row.task), names.index(row.perturbation)] = row.accuracy
    figure, axes = _heat_map(values, [[f"{100 * v:.0f}" for v in row] for row in values], tasks, names)
    axes.set(xlabel="perturbation", ylabel="task", title="Robustness: accuracy on perturbed test images, %")
    return figure


def orders_figure(measured: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> Figure:
    """Each metric by order of the tasks, with its mean and one standard deviation to either side."""
    figure = Figure(figsize=(3.6 * len(metrics), 3.6), dpi=_DPI, layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics, strict=True):
        values = np.array([100 * row[name] for row in measured])
        mean, deviation = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
        axes.axhspan(mean - deviation, mean + deviation, color="tab:blue", alpha=0.15, linewidth=0)
        axes.axhline(mean, color="black", linestyle="--", linewidth=1)
        axes.plot(range(len(values)), values, "o")
        axes.set_xticks(range(len(values)))
        axes.set(xlabel="order", ylabel="%", title=f"{name.replace('_', ' ')}\n{mean:.1f} ± {deviation:.1f} %")
        axes.title.set_fontsize("medium")
        axes.grid(alpha=0.3)
    return figure


def save_orders(folder: Path, record: Mapping[str, Any]) -> None:
    """Write what the orders of a scenario came to as orders.json, orders.csv and orders.png into `folder`."""
    rows = [{"order": o["order"], **o["metrics"], "tasks": " ".join(o["tasks"])} for o in record["orders"]]
    write_whole(folder / "orders.json", canonical_json(record))
    write_whole(folder / "orders.csv", _table(rows))
    _save(orders_figure([order["metrics"] for order in record["orders"]], _DRAWN), folder / "orders.png")


def sweep_figure(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Each method on each scenario, with one standard deviation to either side; a panel for each figure.

    Args:
        lines: of each scenario and method: both, and mean and deviation of each of `figures`, fractions.
    """
    scenarios, methods = (list(dict.fromkeys(line[of] for line in lines)) for of in ("scenario", "method"))
    width, palette = 0.8 / len(methods), matplotlib.colormaps["tab10"]
    size = (2.5 + 1.1 * len(scenarios) * max(2, 0.45 * len(methods)), 3.4 * len(_COMPARED))
    figure = Figure(figsize=size, dpi=min(_DPI, _LONGEST_PX / max(size)), layout="constrained")
    for axes, name in zip(figure.subplots(len(_COMPARED), 1), _COMPARED, strict=True):
        for i, method in enumerate(methods):
            of = [line for line in lines if line["method"] == method]
            places = [scenarios.index(line["scenario"]) + (i - (len(methods) - 1) / 2) * width for line in of]
            means = [100 * line["figures"][name]["mean"] for line in of]
            spreads = [100 * (line["figures"][name]["deviation"] or 0.0) for line in of]
            label = method if name == _COMPARED[0] else None
            axes.errorbar(places, means, spreads, fmt="o", capsize=3, color=palette(i % palette.N), label=label)
        axes.set_xticks(range(len(scenarios)), scenarios)
        axes.set(xlim=(-0.6, len(scenarios) - 0.4), ylabel="%", title=name.replace("_", " "))
        axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def save_sweep(folder: Path, record: Mapping[str, Any], rows: Sequence[dict[str, Any]], markdown: str) -> list[Path]:
    """Write a sweep's table as JSON, CSV and Markdown, and its plot, into `folder`; returns the files."""
    texts = {"table.json": canonical_json(record), "table.csv": _table(rows), "table.md": markdown}
    for name, text in texts.items():
        write_whole(folder / name, text)
    _save(sweep_figure(record["table"]), folder / "plot.png")
    return [folder / name for name in (*texts, "plot.png")]


def save_scenario(folder: Path, state: LearnerState, reports: Sequence[Report]) -> list[Path]:
    """Write what dvc.yaml names as metrics, plots and outputs; returns the files that are not pictures.

    Args:
        state: the learner state after the last episode.
    """
    tasks, rows = state.names, state.accuracy
    measured = summary(rows) | {"accuracy": dict(zip(tasks, rows[-1], strict=True))}
    matrix = ({"after": tasks[j], **dict(zip(tasks, row, strict=False))} for j, row in enumerate(rows))
    cells = ({"episode": j, "task": tasks[i], "accuracy": v} for j, row in enumerate(rows) for i, v in enumerate(row))
    texts = {
        "metrics.json": canonical_json(measured),
        "averages.csv": _table({"episode": j, **summary(rows[: j + 1])} for j in range(len(rows))),
        "accuracy_matrix.csv": _table(matrix),
        "task_accuracy.csv": _table(cells),
        "training.csv": _table(
            {"episode": r.episode, "task": r.task, **asdict(row)} for r in reports for row in r.curves
        ),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)
    save_figures(folder, tasks, rows, [entry.label for entry in state.classes.entries], reports[-1].confusion)
    save_task_lines(folder / "task_accuracy.png", tasks, rows)
    return [folder / name for name in texts]


def save_assessment_figures(directory: Path, assessment: Assessment) -> None:
    """Write what there is to see of an assessment as PNG files into `directory`, which is made if need be."""
    directory.mkdir(parents=True, exist_ok=True)
    _save(reliability_diagram(assessment), directory / "reliability.png")
    if assessment.card:
        _save(robustness_map(assessment.card), directory / "robustness.png")


def save_figures(
    directory: Path, tasks: Sequence[str], rows: Sequence[Sequence[float]], labels: Sequence[str],
    counts: Sequence[Sequence[int]],
) -> None:  # fmt: skip
    """Write both matrices as PNG files into `directory`, which is made if need be.

    Args:
        directory: where the files go.
        tasks: names of the tasks known, in the order of learning.
        rows: the accuracy matrix, `rows[j][i]` after episode j on task i, fractions.
        labels: names of the C classes, in the order of the head's outputs.
        counts: (C, C) confusion counts, rows are true classes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _save(accuracy_matrix(tasks, rows), directory / "accuracy_matrix.png")
    _save(confusion_matrix(labels, counts), directory / "confusion_matrix.png")


def save_task_lines(
    path: Path, tasks: Sequence[str], rows: Sequence[Sequence[float]], versions: Mapping[int, int] | None = None
) -> None:
    """Write `task_lines` as a PNG file, whose folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(task_lines(tasks, rows, versions), path)


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least}" if least == most else f"{least} to {most}"


def _table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV under a line of the columns' names."""
    import pandas as pd

    return str(pd.DataFrame(list(rows)).to_csv(index=False))


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as it is; `savefig` draws it twice, which takes seconds where it has thousands of cells."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(path, compress_level=3)


def _heat_map(
    values: np.ndarray, texts: Sequence[Sequence[str]], rows: Sequence[str], columns: Sequence[str]
) -> tuple[Figure, Axes]:
    """A figure whose cells have one size as long as their text stays legible; of more a smaller one, without text."""
    is_written = max(len(rows), len(columns)) <= _WRITTEN
    cell = _CELL_IN if is_written else _SMALL_CELL_IN
    width, height = max(5.0, _MARGIN_IN + len(columns) * cell), max(3.6, _MARGIN_IN + len(rows) * cell)
    figure = Figure(figsize=(width, height), dpi=min(_DPI, _LONGEST_PX / max(width, height)), layout="constrained")
    axes = figure.subplots()
    # a mesh: an image would be resampled to the figure's millions of pixels first
    cells = axes.pcolormesh(range(values.shape[1]), range(values.shape[0]), values, vmin=0, vmax=1, cmap="Blues")
    axes.set_aspect("equal")
    axes.invert_yaxis()
    figure.colorbar(cells, ax=axes, shrink=0.8, format=PercentFormatter(1))
    for i, row in enumerate(texts if is_written else ()):
        for j, text in enumerate(row):
            if text:
                color = "white" if values[i, j] > _LIGHT_ABOVE else "black"
                axes.text(j, i, text, ha="center", va="center", color=color, fontsize=8, in_layout=False)
    across, down = (range(0, len(names), -(-len(names) // _NAMED)) for names in (columns, rows))
    axes.set_xticks(across, [columns[i] for i in across], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(down, [rows[i] for i in down])
    return figure, axes
