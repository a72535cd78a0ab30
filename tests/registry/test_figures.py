from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from lorax.registry.figures import (
    accuracy_matrix,
    confusion_matrix,
    reliability_diagram,
    robustness_map,
    save_assessment_figures,
    save_figures,
    task_lines,
)
from lorax.registry.heat_map import HeatMap
from lorax.verdicts.rate import interval
from tests.registry.assessments import assessed

TASKS = ["gaugan", "biggan", "wild"]
ROWS = [[0.9], [0.8, 0.95], [0.7, 0.9, 1.0]]


def test_the_matrix_shows_every_accuracy_and_leaves_the_future_blank() -> None:
    matrix = accuracy_matrix(TASKS, ROWS)
    assert matrix.texts == [["90.0"], ["80.0", "95.0"], ["70.0", "90.0", "100.0"]]
    assert np.isnan(matrix.values)[np.triu_indices(3, 1)].all()


def test_a_heat_map_has_a_colour_for_each_cell_and_a_text_in_its_middle() -> None:
    values = np.array([[0.0, 1.0], [0.5, np.nan]])
    plain, written = (
        np.asarray(HeatMap(values, texts, ["a", "b"], ["c", "d"], "", "", "").drawn()) for texts in ([], [["", "7"]])
    )
    y, x = np.argwhere((plain != written).any(axis=2)).mean(axis=0).round().astype(int)
    blues = [[int(255 * share) for share in matplotlib.colormaps["Blues"](value)[:3]] for value in (0.0, 1.0, 0.5)]
    high, wide = 114, 228
    assert [plain[at].tolist() for at in ((y, x - wide), (y, x), (y + high, x - wide))] == blues
    assert plain[y + high, x].tolist() == [255, 255, 255]
    assert (plain[y - 50 : y + 50, x - 100 : x + 100] == blues[1]).all(), "the text is in the middle of its cell"


def test_a_figure_of_very_many_cells_is_drawn_smaller() -> None:
    labels = [f"class{i}" for i in range(90)]
    assert max(confusion_matrix(labels, np.eye(90, dtype=int).tolist()).drawn().size) <= 4001


def test_each_task_has_a_line_from_the_episode_that_learned_it_on() -> None:
    (axes,) = task_lines(TASKS, ROWS).axes
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert lines["biggan"] == [(1, 0.95), (2, 0.9)]
    assert lines["wild"] == [(2, 1.0)]
    assert lines["average"][0] == (0, 0.9)


def test_the_confusion_matrix_is_coloured_by_share_and_labelled_by_count() -> None:
    matrix = confusion_matrix(["a/real", "a"], [[30, 10], [0, 0]])
    assert matrix.values.tolist() == [[0.75, 0.25], [0.0, 0.0]]
    assert matrix.texts == [["30", "10"], ["", ""]]


def test_a_long_stream_gives_figures_of_a_legible_size(tmp_path: Path) -> None:
    tasks = [f"task{i:02d}" for i in range(12)]
    labels = [label for task in tasks for label in (f"{task}/real", task)]
    counts = [[10 if i == j else 1 for j in range(24)] for i in range(24)]
    save_figures(tmp_path, tasks, [[0.5] * (j + 1) for j in range(12)], labels, counts)
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 500
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_the_reliability_diagram_shows_each_bin_and_says_what_chance_makes_of_it() -> None:
    clean, jpeg = reliability_diagram(assessed(1, "beta")).axes
    points = clean.lines[1]
    assert list(zip(*points.get_data(), strict=True)) == [(0.6, 0.58), (0.9, 0.88)]
    (_, low), (_, high) = clean.collections[0].get_segments()[0]
    assert (low, high) == pytest.approx(interval(23, 40), abs=1e-9), "of 40, of which 58 % were right"
    assert clean.get_title() == "clean: error 2.0 %, by chance 1.5 %\n81 images in 2 bins of 40 to 41"
    assert jpeg.get_title().startswith("jpeg-75: error 30.0 %, by chance 1.5 %")


def test_an_uncalibrated_version_s_diagram_is_of_the_probabilities_as_they_are() -> None:
    axes = reliability_diagram(assessed(1, "beta", calibrated=False)).axes[0]
    assert axes.get_title().startswith("clean, uncalibrated: error 12.0 %")


def test_the_robustness_map_has_a_row_for_each_task_and_a_column_for_each_perturbation() -> None:
    found = robustness_map(assessed(1, "beta").card)
    assert (found.rows, found.columns) == (["beta", "all tasks"], ["clean", "jpeg-95", "jpeg-75", "blur-100"])
    assert (found.texts[0][2], found.texts[1][2]) == ("56", "57")


def test_without_a_robustness_card_there_is_no_map(tmp_path: Path) -> None:
    save_assessment_figures(tmp_path, assessed(1, "beta", accuracy={}))
    assert [path.name for path in tmp_path.iterdir()] == ["reliability.png"]
