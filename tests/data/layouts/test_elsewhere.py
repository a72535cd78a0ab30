"""Public sets that nobody had in mind when the layouts were written, made as their pages tell."""

from __future__ import annotations

from pathlib import Path

from tests.data.layouts.images import pack, write_tree
from tests.data.layouts.plans import Plan, both, counts, totals
from tests.data.layouts.test_tables import shared, struct


def test_deepfakeface_is_four_archives_with_the_folders_of_imdb_wiki(plan: Plan, tmp_path: Path) -> None:
    """https://huggingface.co/datasets/OpenRL/DeepFakeFace: three generators, wiki.zip has the real images."""
    for name in ("inpainting", "insight", "text2img", "wiki"):
        folder = write_tree(tmp_path / name, dict.fromkeys(("00", "01"), 40 if name == "wiki" else 6), "jpg")
        pack(folder, tmp_path / f"in/{name}.zip", name)
    assert "is called real or synthetic: inpainting/00" in plan("--split", "0.5")
    found = totals(plan("--real", "wiki", "--split", "0.5"))
    assert {name: n["1_fake"] for name, n in found.items()} == {"inpainting": 12, "insight": 12, "text2img": 12}
    assert sum(n["0_real"] for n in found.values()) == 80


def test_ai_detector_benchmark_calls_a_generator_real(plan: Plan, tmp_path: Path) -> None:
    """https://huggingface.co/datasets/ash12321/ai-detector-benchmark-test-data: `ai` or `real`, one split."""
    features = {"image": "image", **dict.fromkeys(("label", "generator", "source", "filename"), "string")}
    rows = [
        {"image": struct("jpg"), "label": "real" if name == "real" else "ai", "generator": name, "source": source}
        for name, source in (("flux", "flux"), ("nano", "nano"), ("real", "coco"), ("real", "wikiart"))
        for _ in range(30)
    ]
    shared(tmp_path / "in", {"train": rows}, features)
    assert "layout" in plan()["error"]
    found = totals(plan("--split", "0.5"))
    assert {name: n["1_fake"] for name, n in found.items()} == {"flux": 30, "nano": 30}
    assert sum(n["0_real"] for n in found.values()) == 60


def test_a_label_may_name_the_generator(plan: Plan, tmp_path: Path) -> None:
    """https://huggingface.co/datasets/zr-zhang/MLLM-Generated-Image-Detection-Dataset: three, `0: GPT-Image2-fake`."""
    labels = ("GPT-Image2-fake", "NanoBanana-fake", "real")
    for split in ("train", "test"):
        rows = [{"image": struct("jpg"), "label": n % 3 if n < 24 else 2} for n in range(60)]
        shared(tmp_path / "in" / split, {split: rows}, {"image": "image", "label": labels})
    said = plan()
    assert "GPT-Image2-fake, NanoBanana-fake" in said
    assert "If they name generators, give their column as --generator-column, too." in said
    found = counts(plan("--generator-column", "label", "--label", "*=fake"))
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == {
        "gpt-image2-fake": (8, 8), "nanobanana-fake": (8, 8)
    }  # fmt: skip
    assert sum(n["train/0_real"] for n in found.values()) == 44


def test_sid_set_has_masks_and_kinds_of_synthetic_images_by_number(plan: Plan, tmp_path: Path) -> None:
    """https://huggingface.co/datasets/saberzl/SID_Set: 0, 1, 2 stand for real, synthetic as a whole, tampered with."""
    features = {"img_id": "string", "image": "image", "mask": "image", "width": "int64", "label": "int64"}
    rows = [{"image": struct("jpg"), "mask": struct() if n % 3 == 2 else None, "label": n % 3} for n in range(48)]
    shared(tmp_path / "in", {"train": rows[:24], "validation": rows[24:]}, features)
    said = plan("--label", "0=real,*=fake", "--generator-column", "label")
    assert "generators are numbers without names, 1, 2. Name them: --generators 1=NAME,2=NAME" in said
    options = ("--label", "0=real,*=fake", "--generator-column", "label", "--generators", "1=full,2=tampered")
    found = counts(plan(*options))
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == {
        "full": (8, 8),
        "tampered": (8, 8),
    }
    assert sum(n["train/0_real"] for n in found.values()) == 8


def test_opensdi_calls_its_files_by_their_generators(plan: Plan, tmp_path: Path) -> None:
    """https://huggingface.co/datasets/nebula/OpenSDI_test: data/sd15-00000-of-00001.parquet; no column tells that."""
    rows = [{"key": str(n), "image": struct("jpg"), "label": n % 2} for n in range(90)]
    parts = {"sd2": rows[:30], "sd-3": rows[30:60], "flux": rows[60:]}
    shared(tmp_path / "in", parts, {"key": "string", "image": "image", "label": ("real", "fake")})
    record = plan("--split", "0.5")
    assert totals(record) == {"in": {"0_real": 45, "1_fake": 45}}
    assert record["told"] == [
        "no column tells generators. If the files' names do, flux, sd-3, sd2: --levels '*/generator'."
    ]
    found = totals(plan("--split", "0.5", "--levels", "*/generator"))
    assert {name: n["1_fake"] for name, n in found.items()} == {"sd2": 15, "sd-3": 15, "flux": 15}
    parts = {"part1": rows[:30], "part2": rows[30:]}
    shared(tmp_path / "parts", parts, {"key": "string", "image": "image", "label": ("real", "fake")})
    assert plan("--split", "0.5", path="parts")["told"] == []
    assert "'data' is no split" in plan("--levels", "split/generator")
    assert "have no class by their path; expected generator, split, *" in plan("--levels", "class/generator")


def test_ai_challenge_lists_names_and_labels_apart_by_a_space(plan: Plan, tmp_path: Path) -> None:
    """https://github.com/AI-Challange/AI-Challenge2020: data/train/train_label.txt beside the images that it lists."""
    lists = []
    for split in ("train", "validate", "test"):
        folder = write_tree(tmp_path / "in" / split, {".": 8})
        (folder / f"{split}_label.txt").write_text("".join(f"{n:03d}.png {n % 2}\n" for n in range(8)))
        lists += ["--list", str(folder / f"{split}_label.txt")]
    assert counts(plan(*lists, "--label-column", "2", "--label", "0=real,1=fake")) == {"in": both(8, 4)}


def test_what_the_hubs_client_downloads_are_links_into_its_cache(plan: Plan, tmp_path: Path) -> None:
    """`hf download SET --repo-type dataset` ends with the path of a snapshot, whose files are links to blobs."""
    files = tmp_path / "files"
    rows = [{"image": struct(), "label": n % 2} for n in range(8)]
    shared(files, {"train": rows[:4], "test": rows[4:]}, {"image": "image", "label": ("real", "fake")})
    write_tree(files / "images", dict.fromkeys(("train", "val"), 4))
    listed = [(f"images/{split}/{n:03d}.png", n % 2) for split in ("train", "val") for n in range(4)]
    (files / "metadata.csv").write_text(
        "file_name,label\n" + "".join(f"{p},{('real', 'fake')[n]}\n" for p, n in listed)
    )
    for name, kept in (("tables", "*.parquet"), ("list", "*.*g"), ("list", "*.csv")):
        for number, path in enumerate(files.rglob(kept)):
            blob = tmp_path / f"datasets--{name}/blobs/{kept[-1]}{number}"
            link = tmp_path / f"datasets--{name}/snapshots/0a1b" / path.relative_to(files)
            blob.parent.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            path.rename(blob)
            link.symlink_to(blob)
    for name in ("tables/snapshots/0a1b", "list/snapshots/0a1b", "list/snapshots/0a1b/metadata.csv"):
        assert counts(plan("--task", "x", path=f"datasets--{name}")) == {"x": both(2, 2)}
    elsewhere = tmp_path / "others/snapshots/0a1b/data/train.parquet"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.symlink_to(tmp_path / "datasets--tables/blobs/t0")
    assert "a symbolic link out of the folder" in plan(path="others/snapshots/0a1b")
