from __future__ import annotations

from pathlib import Path

from PIL import Image

from lorax.registry.figures import accuracy_matrix, confusion_matrix, save_figures, task_lines

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
        assert min(Image.open(path).size) > 500
    assert len(list(tmp_path.glob("*.png"))) == 3
