from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from lorax.data import walk
from lorax.data.reading import read_image
from lorax.data.walk import Found, files_named, names_from


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(root: Path, *names: str) -> list[str]:
    asked = files_named([str(root / name) for name in names])
    return [str(f.path.relative_to(root)) for f in asked if not f.problem]


def pipe(data: bytes, at_once: int) -> Callable[[int], bytes]:
    parts = [data[i : i + at_once] for i in range(0, len(data), at_once)]
    return lambda most: parts.pop(0) if parts else b""


def test_a_folder_stands_for_the_files_below_it_that_are_not_hidden_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "in/b.png", "in/a/c.png", "in/a-b.png", "in/.hidden.png", "in/.git/x.png", "lone.png")
    assert found(tmp_path, "lone.png", "in") == ["lone.png", "in/a/c.png", "in/a-b.png", "in/b.png"]
    assert found(tmp_path, "in/.git") == ["in/.git/x.png"]


def test_only_the_folders_on_the_way_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(walk.os, "scandir", lambda folder: listed.append(Path(folder).name) or scandir(folder))
    files = files_named([str(tmp_path)])
    next(files), next(files)
    assert listed == [tmp_path.name, "a", "b"]


def test_patterns_are_expanded_through_folders_each_file_once(tmp_path: Path) -> None:
    write(tmp_path, "a/1.png", "a/b/2.png", "a/b/3.jpg", "4.png", "a[1].png")
    assert found(tmp_path, "**/*.png") == ["4.png", "a/1.png", "a/b/2.png", "a[1].png"]
    assert found(tmp_path, "a/*") == ["a/1.png", "a/b/2.png", "a/b/3.jpg"]
    assert found(tmp_path, "a/**") == ["a/1.png", "a/b/2.png", "a/b/3.jpg"]
    assert found(tmp_path, "a[1].png") == ["a[1].png"]  # a file of that very name is meant itself


def test_what_is_not_there_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    none, missing, file = files_named([str(tmp_path / name) for name in ("*.gif", "missing.png", "a.png")])
    assert "matches no file" in none.problem
    assert (missing, file) == (Found(tmp_path / "missing.png"), Found(tmp_path / "a.png"))
    assert found(tmp_path, "") == ["a.png", "gone.png"]  # reading it says that the link leads nowhere
    assert list(files_named(["*.gif"], patterns=False)) == [Found(Path("*.gif"))]


def test_links_to_folders_pipes_and_endless_loops_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "in/a.png", "out/b.png")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/out").symlink_to(tmp_path / "out")
    (tmp_path / "in/c.png").symlink_to(tmp_path / "out/b.png")
    os.mkfifo(tmp_path / "in/pipe")
    assert found(tmp_path, "in") == ["in/a.png", "in/c.png"]
    assert found(tmp_path, "in/out") == ["in/out/b.png"]  # named itself, it is followed


def test_a_link_that_can_t_be_followed_is_one_bad_file(tmp_path: Path) -> None:
    write(tmp_path, "in/a.png")
    (tmp_path / "in/self").symlink_to("self")
    (tmp_path / "in/x").symlink_to("x" * 300)  # refused as a folder without permission is, but to root, too
    assert found(tmp_path, "in") == ["in/a.png", "in/self", "in/x"]
    assert found(tmp_path, "in/self", "in/x", "in/x/y") == ["in/self", "in/x", "in/x/y"]
    errors = [read_image(f, 16).error for f in files_named([str(tmp_path / "in")])]
    assert "symbolic links" in errors[1]
    assert "too long" in errors[2]


def test_a_folder_that_can_t_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/1.png", "b/2.png")

    def refuse(folder: Path) -> Iterable[os.DirEntry[str]]:
        if Path(folder).name == "a":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    scandir = os.scandir
    monkeypatch.setattr(walk.os, "scandir", refuse)  # root, whom the tests may run as, may list everything
    bad, good = files_named([str(tmp_path)])
    assert bad.problem == f"{tmp_path / 'a'} can't be listed: Permission denied."
    assert good == Found(tmp_path / "b" / "2.png")


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_names_come_from_a_pipe_whatever_its_pieces(at_once: int) -> None:
    assert list(names_from(pipe(b"a b.png\n\n\xff.png\nlast", at_once))) == [
        "a b.png",
        os.fsdecode(b"\xff.png"),
        "last",
    ]
    assert list(names_from(pipe(b"two\nlines.png\0b\0", at_once), b"\0")) == ["two\nlines.png", "b"]
