from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.data.layouts.images import write_tree
from tests.data.layouts.plans import Plan, both, counts, totals


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """A list of files in the format that its ending tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        else:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_a_list_of_files_with_path_label_generator_and_split(plan: Plan, tmp_path: Path, ending: str) -> None:
    folders = {"r/a": "real", "r/b": "real", "sd/a": "fake", "sd/b": "fake", "flux/a": "fake", "flux/b": "fake"}
    write_tree(tmp_path / "in", dict.fromkeys(folders, 12))
    splits, rows = {"a": "train", "b": "test"}, []
    for folder, label in folders.items():
        generator = folder.split("/")[0] if label == "fake" else ""
        prompt = "two\nlines\x0c, and what some take\u2028for more"
        row = {"label": label, "generator": generator, "split": splits[folder[-1]], "prompt": prompt}
        rows += [{"path": f"{folder}/{number:03d}.png", **row} for number in range(12)]
    write(tmp_path / f"in/list.{ending}", rows)
    found = counts(plan(path=f"in/list.{ending}"))
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == {
        "sd": (12, 12),
        "flux": (12, 12),
    }
    assert sum(n["train/0_real"] for n in found.values()) == 12
    renamed = [{"where": row["path"], "is": row["label"], "by": row["generator"], "part": row["split"]} for row in rows]
    write(tmp_path / f"in/other.{ending}", renamed)
    options = ("--path-column", "where", "--label-column", "is", "--generator-column", "by", "--split-column", "part")
    assert counts(plan(*options, path=f"in/other.{ending}")) == found
    assert "no column for the images' paths among " in plan(path=f"in/other.{ending}")


def test_artifact_has_a_list_in_each_folder(plan: Plan, tmp_path: Path) -> None:
    for folder, target in (("coco", 0), ("ffhq", 0), ("glide", 6), ("latent_diffusion", 6)):
        write_tree(tmp_path / "in" / folder / "images", {".": 16}, "jpg")
        rows = [
            {"filename": "x", "image_path": f"images/{n:03d}.jpg", "target": target, "category": "cat"}
            for n in range(16)
        ]
        write(tmp_path / "in" / folder / "metadata.csv", rows)
    assert "--label" in plan("--split", "0.5")
    found = totals(plan("--split", "0.5", "--label", "0=real,*=fake"))
    assert {name: n["1_fake"] for name, n in found.items()} == {"glide": 16, "latent_diffusion": 16}
    assert sum(n["0_real"] for n in found.values()) == 32


def test_lists_in_the_folders_of_splits_name_no_generator(plan: Plan, tmp_path: Path) -> None:
    """The Hub's imagefolder: a list in train/ and one in test/, whose names would be two generators."""
    for folder in ("sd-1.5", "sets/a", "sets/b"):
        for split, images in (("train", 8), ("test", 4)):
            write_tree(tmp_path / folder / split, {".": images})
            rows = [{"file_name": f"{n:03d}.png", "label": ("real", "fake")[n % 2]} for n in range(images)]
            write(tmp_path / folder / split / "metadata.csv", rows)
    assert counts(plan(path="sd-1.5")) == {"sd-1-5": both(4, 2)}
    assert totals(plan(path="sets")).keys() == {"a", "b"}


def test_where_folders_tell_a_list_of_labels_is_passed_over(plan: Plan, tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {f"{split}/{kind}": 4 for split in ("train", "val") for kind in ("real", "fake")})
    write(tmp_path / "in/labels.csv", [{"path": "train/real/000.png", "label": 1}])
    assert counts(plan()) == {"in": both(4, 4)}


def test_df40_as_deepfakebench_lists_it(plan: Plan, tmp_path: Path) -> None:
    """A list for each method, all with the same real images, from a folder that only its author has."""
    real, splits = "FaceForensics++/original_sequences/youtube/c23/frames", {"train": 16, "val": 2, "test": 16}
    begins = {split: 100 * number for number, split in enumerate(splits)}
    for split, images in splits.items():
        write_tree(tmp_path / "in", {f"{real}/{split}_01": images})
    for method in ("simswap", "sd2.1"):
        told: dict[str, dict[str, object]] = {f"{method}_Real": {}, f"{method}_Fake": {}}
        for split, images in splits.items():
            fake = write_tree(tmp_path / "in", {f"DF40/{method}/ff/frames/{split}_01": 4}, begin=begins[split])
            for label, folder, numbers in (
                (f"{method}_Real", real, range(images)),
                (f"{method}_Fake", f"DF40/{method}/ff/frames", range(begins[split], begins[split] + 4)),
            ):
                frames = [rf"deepfakes\rgb\{folder}\{split}_01\{n:03d}.png".replace("/", "\\") for n in numbers]
                told[label][split] = {f"{split}_01": {"label": label, "frames": frames}}
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / f"lists/{method}_ff.json").write_text(json.dumps({f"{method}_ff": told}))
    record = plan("--list", str(tmp_path / "lists"))
    found = counts(record)
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == {
        "simswap_ff": (8, 4), "sd2-1_ff": (8, 4)
    }  # fmt: skip
    assert [sum(n[f"{split}/0_real"] for n in found.values()) for split in ("train", "val")] == [18, 16]
    assert any("by the ends of their paths" in said for said in record["told"])
    (fake / "DF40/sd2.1/ff/frames/test_01/200.png").unlink()
    assert "1 files of 2 lists are neither below" in plan("--list", str(tmp_path / "lists"))


def test_imaginets_lists_have_no_line_of_names(plan: Plan, tmp_path: Path) -> None:
    """Path, synthetic or not, content, kind of model, model: all numbers; real images are lent by other sets."""
    folders = {"train2017": (0, 0), "wikiart": (0, 0), "sdxl_faces_fake": (1, 5), "dalle3": (1, 8)}
    write_tree(tmp_path / "in", dict.fromkeys(folders, 30))
    for name, numbers in (("train_all", range(20)), ("test_all", range(20, 28))):
        rows = [f"./{folder}/{n:03d}.png,{label},1,{label},{model}" for folder, (label, model) in folders.items()
                for n in numbers]  # fmt: skip
        (tmp_path / f"{name}.txt").write_text("\n".join(rows))
    lists = ("--list", str(tmp_path / "train_all.txt"), "--list", str(tmp_path / "test_all.txt"))
    columns = ("--label-column", "2", "--generator-column", "5", "--label", "0=real,1=fake")
    found = counts(plan(*lists, *columns, "--generators", "5=sdxl,8=dalle3"))
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == dict.fromkeys(
        ("sdxl", "dalle3"), (20, 8)
    )
    assert sum(n["train/0_real"] for n in found.values()) == 40
    assert "generators are numbers without names, 5, 8" in plan(*lists, *columns)
    assert "--list nowhere.csv: no list of files" in plan("--list", "nowhere.csv")


def test_a_list_beside_the_folder_of_the_images_that_it_names(plan: Plan, tmp_path: Path) -> None:
    """Deepfake-Eval-2024's form: names of files alone."""
    write_tree(tmp_path / "in/image-data", {".": 24}, "jpg")
    rows = [
        {
            "Filename": f"{n:03d}.jpg",
            "Ground Truth": ("Real", "Fake")[n % 2],
            "Finetuning Set": ("Train", "Test")[n // 12],
        }
        for n in range(24)
    ]
    listing = write(tmp_path / "in/image-metadata-publish.csv", rows)
    options = ("--list", str(listing), "--label-column", "Ground Truth", "--split-column", "Finetuning Set")
    assert counts(plan(*options, "--task", "wild")) == {"wild": both(6, 6)}
    telling = write(tmp_path / "in/train.csv", [{"file": f"{n:03d}.jpg", "label": n % 2} for n in range(24)])
    assert f" {telling} tells what images are: --list reads it." in plan()
    write_tree(tmp_path / "in/other", {".": 1}, "jpg")
    assert "000.jpg could be image-data/000.jpg, other/000.jpg" in plan(*options)


def test_a_list_that_is_wrong_is_one_clear_error(plan: Plan, tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"a": 3})
    (tmp_path / "out.png").write_bytes(b"")
    good = {"path": "a/000.png", "label": "real"}
    cases: dict[str, list[dict[str, str]]] = {
        "nor beside the list: a/7.png, a/8.png": [
            good,
            *({**good, "path": f"a/{n}.png"} for n in (7, 8)),
        ],
        "is listed twice, with labels in conflict (0_real, 1_fake list). Leave one.": [good, {**good, "label": "fake"}],
        "a/000.png is listed twice. Leave one.": [good, good],
        "../out.png lies outside": [good, {**good, "path": "../out.png"}],
        "not told by their names: dubious": [good, {"path": "a/001.png", "label": "dubious"}],
    }
    for said, rows in cases.items():
        write(tmp_path / "in/list.csv", rows)
        assert said in plan(path="in/list.csv")
    (tmp_path / "in/list.csv").write_text("path,label\na/000.png,real,more\n")
    assert "row 1 has more or fewer columns" in plan(path="in/list.csv")
    (tmp_path / "in/metadata.csv").write_bytes("path,label,prompt\na/000.png,real,caf\u00e9\n".encode("latin-1"))
    assert "in/metadata.csv can't be read as a list of files: it is not in UTF-8. Save it so." in plan()
