from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
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
from lorax.verdicts.rate import interval
from tests.registry.assessments import assessed

TASKS = ["gaugan", "biggan", "wild"]
ROWS = [[0.9], [0.8, 0.95], [0.7, 0.9, 1.0]]


def test_the_matrix_shows_every_accuracy_and_leaves_the_future_blank() -> None:
    (axes, _) = accuracy_matrix(TASKS, ROWS).axes
    shown = {t.get_position(): t.get_text() for t in axes.texts}
    assert shown == {(0, 0): "90.0", (0, 1): "80.0", (1, 1): "95.0", (0, 2): "70.0", (1, 2): "90.0", (2, 2): "100.0"}


def test_each_task_has_a_line_from_the_episode_that_learned_it_on() -> None:
    (axes,) = task_lines(TASKS, ROWS).axes
    lines = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert lines["biggan"] == [(1, 0.95), (2, 0.9)]
    assert lines["wild"] == [(2, 1.0)]
    assert lines["average"][0] == (0, 0.9)


def test_the_confusion_matrix_is_coloured_by_share_and_labelled_by_count() -> None:
    (axes, _) = confusion_matrix(["a/real", "a"], [[30, 10], [0, 0]]).axes
    assert axes.collections[0].get_array().tolist() == [[0.75, 0.25], [0.0, 0.0]]
    assert [t.get_text() for t in axes.texts] == ["30", "10"]
    assert axes.yaxis_inverted()  # the first class is at the top


def test_a_long_stream_gives_figures_of_a_legible_size(tmp_path: Path) -> None:
    tasks = [f"task{i:02d}" for i in range(12)]
    labels = [label for task in tasks for label in (f"{task}/real", task)]
    counts = [[10 if i == j else 1 for j in range(24)] for i in range(24)]
    save_figures(tmp_path, tasks, [[0.5] * (j + 1) for j in range(12)], labels, counts)
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 500
    assert len(list(tmp_path.glob("*.png"))) == 2


def test_cells_too_many_to_be_read_are_drawn_without_numbers_and_small() -> None:
    def drawn(count: int) -> Figure:
        return accuracy_matrix([f"task{i}" for i in range(count)], [[0.5] * (j + 1) for j in range(count)])

    readable, many, most = drawn(40), drawn(41), drawn(250)
    assert [len(figure.axes[0].texts) for figure in (readable, many, most)] == [40 * 41 // 2, 0, 0]
    assert many.get_figwidth() < readable.get_figwidth()
    named = [label.get_text() for label in most.axes[0].get_yticklabels()]
    assert named[:2] == ["0: task0", "3: task3"] and len(named) <= 100


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
    (axes, _) = robustness_map(assessed(1, "beta").card).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["beta", "all tasks"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["clean", "jpeg-95", "jpeg-75", "blur-100"]
    shown = {t.get_position(): t.get_text() for t in axes.texts}
    assert (shown[2, 0], shown[2, 1]) == ("56", "57")


def test_without_a_robustness_card_there_is_no_map(tmp_path: Path) -> None:
    save_assessment_figures(tmp_path, assessed(1, "beta", accuracy={}))
    assert [path.name for path in tmp_path.iterdir()] == ["reliability.png"]
