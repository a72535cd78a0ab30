from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from lorax.data.layout import list_files, parse_task, split_by_content
from lorax.errors import LayoutError
from lorax.stream import TaskClass

PLAIN = ("train/0_real/a.png", "train/1_fake/b.jpg", "val/0_real/c.JPEG", "val/1_fake/d.png")


def files(*paths: str) -> dict[str, str]:
    return {path: f"{number:032x}" for number, path in enumerate(paths)}


def complaint(name: str, paths: Iterable[str]) -> str:
    with pytest.raises(LayoutError) as caught:
        parse_task(name, "digest", files(*paths))
    return str(caught.value)


def test_a_plain_task_has_a_real_class_and_a_generator_named_after_the_task() -> None:
    task = parse_task("gaugan", "digest", files(*PLAIN))
    assert task.classes == (TaskClass(0, "real"), TaskClass(1, "gaugan"))
    assert (task.name, task.digest) == ("gaugan", "digest")
    assert [(s.path, s.class_index, s.task) for s in task.train] == [
        ("gaugan/train/0_real/a.png", 0, "gaugan"),
        ("gaugan/train/1_fake/b.jpg", 1, "gaugan"),
    ]
    assert [s.path for s in task.test] == ["gaugan/val/0_real/c.JPEG", "gaugan/val/1_fake/d.png"]


def test_samples_come_sorted_by_path_with_their_md5_whatever_the_order_of_the_files() -> None:
    given = files(*PLAIN, "train/0_real/0.png")
    backwards = dict(reversed(given.items()))
    task = parse_task("gaugan", "", backwards)
    assert task == parse_task("gaugan", "", given)
    assert [s.path for s in task.train] == sorted(s.path for s in task.train)
    assert {s.path: s.md5 for s in task.train + task.test} == {f"gaugan/{path}": md5 for path, md5 in given.items()}


def test_subject_folders_are_found_by_looking_in_each_split_for_itself() -> None:
    paths = ("train/horse/0_real/a.png", "train/zebra/1_fake/a.png", "val/0_real/a.png", "val/apple/1_fake/a.png")
    task = parse_task("cyclegan", "", files(*paths))
    assert [s.path for s in task.train] == ["cyclegan/train/horse/0_real/a.png", "cyclegan/train/zebra/1_fake/a.png"]
    assert task.classes == (TaskClass(0, "real"), TaskClass(1, "cyclegan"))


def test_a_task_may_bring_several_generators() -> None:
    paths = [f"{split}/{c}/x.png" for split in ("train", "val") for c in ("0_real", "1_sd-15", "2_sd_xl", "10_flux")]
    task = parse_task("diffusion", "", files(*paths))
    assert task.classes == (TaskClass(0, "real"), TaskClass(1, "sd-15"), TaskClass(2, "sd_xl"), TaskClass(10, "flux"))
    assert {s.class_index for s in task.train} == {0, 1, 2, 10}


def test_a_task_may_come_without_a_real_class_but_not_without_a_synthetic_one() -> None:
    fake_only = [path for path in PLAIN if "1_fake" in path]
    assert parse_task("x", "", files(*fake_only)).classes == (TaskClass(1, "x"),)
    assert "no synthetic class" in complaint("x", [path for path in PLAIN if "0_real" in path])


def test_hidden_files_are_passed_over() -> None:
    hidden = ("train/0_real/.DS_Store", "val/1_fake/Thumbs.db", "train/.cache/x.txt", "__MACOSX/train/0_real/a.png")
    assert parse_task("x", "", files(*PLAIN, *hidden)) == parse_task("x", "", files(*PLAIN))


@pytest.mark.parametrize("name", ["..", "a/b", "../up", "", "Gaugan", "-a", ".git", "a b", "x" * 64])
def test_an_unsafe_task_name_is_refused(name: str) -> None:
    assert "task name" in complaint(name, PLAIN)


def test_an_empty_folder_is_refused_with_what_is_expected() -> None:
    text = complaint("x", [])
    assert "no synthetic class" in text
    assert "x/{train,val}/[<subject>/]{0_real,1_fake}" in text


def test_a_missing_val_names_each_class_that_lacks_it_and_the_option_that_makes_one() -> None:
    text = complaint("x", [path for path in PLAIN if path.startswith("train")])
    assert "class 0_real has no image in val/" in text
    assert "class 1_fake has no image in val/" in text
    assert "--split" in text
    assert "--split" in complaint("x", [path for path in PLAIN if not path.startswith("val/1_fake")])


def test_a_class_folder_renamed_in_one_place_is_refused_with_both_names_and_places() -> None:
    text = complaint("x", [*PLAIN, "val/1_fakes/e.png"])
    assert "class number 1 belongs to several class folders" in text
    assert "1_fake in train/1_fake, val/1_fake" in text
    assert "1_fakes in val/1_fakes" in text


@pytest.mark.parametrize(
    ("stray", "expected"),
    [
        ("val/fake/a.png", "'fake' is not named <number>_<name>"),
        ("val/1_Fake/a.png", "'1_Fake' is not named <number>_<name>"),
        ("val/2_fake/a.png", "class name 'x' belongs to several class folders"),
        ("val/2_real/a.png", "number 0 and the name 'real' go together"),
        ("val/0_photo/a.png", "number 0 and the name 'real' go together"),
        ("val/01_fake/a.png", "leading zeros"),
        ("test/1_fake/a.png", "expected only folders train/ and val/"),
        ("readme.md", "expected only folders train/ and val/"),
        ("val/1_fake/more/a.png", "a folder inside class folder 1_fake"),
        ("val/horse/brown/1_fake/a.png", "too deep"),
        ("val/1_fake/notes.txt", "not an image by its extension: val/1_fake/notes.txt"),
        ("val/1_fake/paper.pdf", "not an image by its extension"),
    ],
)
def test_what_does_not_belong_is_named(stray: str, expected: str) -> None:
    text = complaint("x", [*PLAIN, stray])
    assert expected in text
    assert stray.rpartition("/")[0] in text


def test_one_error_lists_everything_found_wrong() -> None:
    text = complaint("x", ["train/0_real/a.png", "train/1_fake/b.txt", "train/1_fake/c.csv", "val/real/d.png"])
    assert "train/1_fake/b.txt, train/1_fake/c.csv" in text
    assert "'real' is not named" in text
    assert "class 0_real has no image in val/" in text
    assert "no synthetic class" in text


def test_a_folder_of_several_tasks_is_recognised() -> None:
    assert "several tasks" in complaint("x", [f"{task}/{path}" for task in ("gaugan", "biggan") for path in PLAIN])


def test_listing_gives_sorted_relative_paths_without_hidden_files(tmp_path: Path) -> None:
    for path in ("b/2.png", "b/.DS_Store", "a.png", ".git/config"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    assert list_files(tmp_path) == ["a.png", "b/2.png"]


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").touch()
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "y.png").symlink_to(tmp_path / "a" / "x.png")
    assert list_files(tmp_path) == ["a/x.png", "b/x.png", "y.png"]


def test_every_entry_that_can_not_land_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    (folder / "deep").mkdir(parents=True)
    (folder / "file.png").symlink_to("/etc/hostname")
    (folder / "deep" / "folder").symlink_to(tmp_path)
    (folder / "deep" / "loop").symlink_to(folder)
    (folder / "gone").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    (folder / "line\nbreak.png").touch()
    (folder / os.fsdecode(b"\xff.png")).touch()
    with pytest.raises(LayoutError) as caught:
        list_files(folder)
    for expected in (
        "file.png: a symbolic link out of the folder, to /etc/hostname",
        f"deep/folder: a symbolic link out of the folder, to {tmp_path}",
        "deep/loop: a symbolic link back up",
        "gone: a broken symbolic link",
        "pipe: neither a file nor a folder",
        r"'line\nbreak.png': its name",
        r"'\udcff.png': its name",
    ):
        assert expected in str(caught.value)


def test_a_split_goes_by_content_alone() -> None:
    low, high = "0" * 32, "f" * 32
    below, above = f"{int(0.8 * 16**8) - 1:08x}" + "0" * 24, f"{int(0.8 * 16**8) + 1:08x}" + "0" * 24
    given = {"0_real/a": low, "0_real/b": high, "horse/1_fake/c": below, "horse/1_fake/d": above}
    assert split_by_content(given, 0.8) == {
        "0_real/a": "train/0_real/a",
        "0_real/b": "val/0_real/b",
        "horse/1_fake/c": "train/horse/1_fake/c",
        "horse/1_fake/d": "val/horse/1_fake/d",
    }
    nested = split_by_content({f"train/{path}": md5 for path, md5 in given.items()}, 0.8)
    assert list(nested.values()) == list(split_by_content(given, 0.8).values())


def test_a_split_of_data_that_has_val_is_refused() -> None:
    with pytest.raises(LayoutError, match="has a val/ folder already"):
        split_by_content(files(*PLAIN), 0.8)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 80.0])
def test_a_split_that_leaves_one_side_empty_is_refused(fraction: float) -> None:
    with pytest.raises(LayoutError, match="between 0 and 1"):
        split_by_content(files("0_real/a.png"), fraction)
