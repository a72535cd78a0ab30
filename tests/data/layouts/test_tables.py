from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.layouts.images import image
from tests.data.layouts.plans import Plan, both, counts, totals

IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def struct(kind: str = "png") -> dict[str, Any]:
    return {"bytes": image(kind), "path": None}


def write(path: Path, rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType], group: int = 4) -> Path:
    """A Parquet file as pyarrow writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], pa.schema(list(types.items()))), path,
                   row_group_size=group)  # fmt: skip
    return path


def saved(root: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]], features: Mapping[str, Any]) -> Path:
    """What the `datasets` library keeps of its own: a folder of Arrow files for each split, in two parts."""
    dataset_of(splits, features).save_to_disk(str(root), num_shards=dict.fromkeys(splits, 2))
    return root


def shared(root: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]], features: Mapping[str, Any]) -> Path:
    """What lies on the Hub: a Parquet file of the `datasets` library for each split."""
    (root / "data").mkdir(parents=True)
    for split, dataset in dataset_of(splits, features).items():
        dataset.to_parquet(str(root / f"data/{split}-00000-of-00001.parquet"))
    return root


def dataset_of(splits: Mapping[str, Sequence[Mapping[str, Any]]], features: Mapping[str, Any]) -> Any:
    """A `DatasetDict`; of a feature is given what it is, or, of a ClassLabel, the names."""
    import datasets  # a second

    datasets.disable_progress_bars()
    kinds = {"image": datasets.Image(), **{name: datasets.Value(name) for name in ("string", "int64", "binary")}}
    known = {
        name: kinds[kind] if isinstance(kind, str) else datasets.ClassLabel(names=[*kind])
        for name, kind in features.items()
    }
    own = {split: [{name: row.get(name) for name in features} for row in rows] for split, rows in splits.items()}
    return datasets.DatasetDict({
        split: datasets.Dataset.from_list(rows, datasets.Features(known)) for split, rows in own.items()
    })  # fmt: skip


def test_tiny_genimage(plan: Plan, tmp_path: Path) -> None:
    features = {"image": "image", "label": ("real", "fake"), "generator": ("Real", "ADM", "Wukong")}
    splits = {
        split: [
            {"image": struct("jpg"), "label": int(g > 0), "generator": g} for g in (0, 0, 1, 2) for _ in range(share)
        ]
        for split, share in (("train", 12), ("validation", 8))
    }
    shared(tmp_path / "in", splits, features)
    record = plan()
    found = counts(record)
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == {
        "adm": (12, 8),
        "wukong": (12, 8),
    }
    assert sum(n["train/0_real"] for n in found.values()) == 24
    assert sum(n["val/0_real"] for n in found.values()) == 16
    assert "Parquet" in record["taken_for"]


def test_labels_go_by_their_names_not_by_their_numbers(plan: Plan, tmp_path: Path) -> None:
    for path, names in (("a", ("FAKE", "REAL")), ("b", ("Real", "Fake"))):
        rows = {split: [{"image": struct(), "label": int(n % 3 > 0)} for n in range(6)] for split in ("train", "test")}
        shared(tmp_path / path, rows, {"image": "image", "label": names})
    assert counts(plan("--task", "cifake", path="a")) == {"cifake": both(4, 4, (2, 2))}
    assert counts(plan("--task", "cifake", path="b")) == {"cifake": both(2, 2, (4, 4))}
    shared(tmp_path / "c", {"test": [{"image": struct(), "label": -1}]}, {"image": "image", "label": ("Real", "Fake")})
    assert "not told by their names: (none)" in plan(path="c")


def test_numbers_without_names_are_asked_for(plan: Plan, tmp_path: Path) -> None:
    """Defactify's columns."""
    features = {"Caption": "string", "Image": "image", "Label_A": "int64", "Label_B": "int64"}
    rows = {
        split: [{"Caption": "x", "Image": struct(), "Label_A": int(b > 0), "Label_B": b} for b in range(3)
                for _ in range(6)]
        for split in ("train", "validation", "test")
    }  # fmt: skip
    shared(tmp_path / "in", rows, features)
    said = plan()
    assert "which labels are real and which synthetic is not told by their names: 0, 1. Say so, such as --label" in said
    said = plan("--label", "0=real,1=fake")
    assert "generators are numbers without names, 1, 2. Name them: --generators 1=NAME,2=NAME" in said
    found = counts(plan("--label", "0=real,1=fake", "--generators", "2=sdxl,1=sd21"))
    assert list(found) == ["sdxl", "sd21"]
    assert {(n["train/1_fake"], n["val/1_fake"]) for n in found.values()} == {(12, 6)}


def test_community_forensics_with_its_bytes_as_they_are(plan: Plan, tmp_path: Path) -> None:
    columns = ("image_name", "format", "model_name", "real_source", "subset", "split", "architecture")
    features = {"image_data": "binary", "label": "int64", **dict.fromkeys(columns, "string")}
    for folder in ("systematic", "manual"):
        rows = [
            {
                "label": number % 2, "model_name": f"{folder}-model" if number % 2 else None,
                "image_data": image("jpg"), "image_name": "x.png", "split": ("train", "test")[number // 16],
            }
            for number in range(32)
        ]  # fmt: skip
        shared(tmp_path / "in" / folder, {"part": rows}, features)
    found = counts(plan("--label", "0=real,*=fake"))
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == {
        "manual-model": (8, 8), "systematic-model": (8, 8)
    }  # fmt: skip
    assert sum(n["train/0_real"] for n in found.values()) == 16


def test_openfake_comes_in_the_order_of_release(plan: Plan, tmp_path: Path) -> None:
    features = {"image": "image", **dict.fromkeys(("prompt", "label", "model", "type", "release_date"), "string")}
    models = {"flux.1-dev": "2024-08-01", "sdxl": "2023-07-26", "gpt-image-1": "2025-04"}
    splits: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "test"):
        splits[split] = [{"image": struct(), "label": "real", "model": "laion", "type": "real"} for _ in range(40)]
        for model, date in models.items():
            splits[split] += [
                {"image": struct(), "label": "fake", "model": model, "release_date": date} for _ in range(3)
            ]
    shared(tmp_path / "in/opensource", splits, features)
    record = plan()
    assert list(counts(record)) == ["sdxl", "flux-1-dev", "gpt-image-1"]
    assert [task["released"] for task in record["tasks"]] == ["2023-07-26", "2024-08-01", "2025-04"]
    assert list(counts(plan("--order", "given"))) == ["flux-1-dev", "sdxl", "gpt-image-1"]
    assert list(counts(plan("--order", "name"))) == ["flux-1-dev", "gpt-image-1", "sdxl"]
    older = {name: kind for name, kind in features.items() if name not in ("type", "release_date")}
    shared(tmp_path / "older", splits, older)
    (tmp_path / "older/train_metadata.csv").write_text("prompt,label,model\nx,real,laion\n")
    record = plan(path="older")
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in counts(record).items()} == dict.fromkeys(
        ("flux-1-dev", "sdxl", "gpt-image-1"), (3, 3)
    )
    assert "1 files hold no images and stay behind: train_metadata.csv." in record["told"]


def test_ai_genbench_as_datasets_saves_it(plan: Plan, tmp_path: Path) -> None:
    features = {"image": "image", "height": "int64", "label": ("real", "fake"), "generator": "string"}
    rows = [("", 0)] * 24 + [(generator, 1) for generator in ("CycleGAN", "ProGAN") for _ in range(5)]
    splits = {
        split: [{"image": struct(), "label": label, "generator": generator} for generator, label in rows]
        for split in ("train", "validation")
    }
    saved(tmp_path / "in", splits, features)
    record = plan()
    assert {name: n["1_fake"] for name, n in totals(record).items()} == {"cyclegan": 10, "progan": 10}
    assert sum(n["0_real"] for n in totals(record).values()) == 48
    assert "4 Arrow files" in record["taken_for"]
    assert "5 files hold no images and stay behind" in record["told"][0]
    assert "--order release takes a date for each generator" in plan("--order", "release")


def test_so_fake_ood_and_generators_alone(plan: Plan, tmp_path: Path) -> None:
    features = {"image": "image", "label": "int64", "generator": "string", "filename": "string"}
    rows = [{"image": struct(), "label": int(n > 15), "generator": "ideogram3" if n > 15 else "OpenForensics",
             "filename": f"{n}.png"} for n in range(32)]  # fmt: skip
    shared(tmp_path / "in", {"test": rows}, features)
    assert totals(plan("--label", "0=real,1=fake", "--split", "0.5")) == {"ideogram3": {"0_real": 16, "1_fake": 16}}
    alone = [{"image": row["image"], "generator": row["generator"]} for row in rows]
    write(tmp_path / "alone/test.parquet", alone, {"image": IMAGE, "generator": pa.string()})
    assert "which generators are real is not told: OpenForensics, ideogram3" in plan(path="alone")
    found = plan("--real", "OpenForensics", "--split", "0.5", path="alone")
    assert totals(found) == {"ideogram3": {"0_real": 16, "1_fake": 16}}
    assert "--real openforensic: neither a generator" in plan("--real", "openforensic", path="alone")


def test_bytes_become_files_with_the_ending_that_they_tell(plan: Plan, tmp_path: Path) -> None:
    kinds = ("jpg", "png", "webp", "gif", "bmp", "tiff")
    rows = [{"picture": image(kind), "label": label} for kind in kinds for label in ("real", "fake")]
    rows += [{"picture": b"no image", "label": "real"}]
    for split in ("train", "test"):
        types = {"picture": pa.large_binary(), "label": pa.string()}
        write(tmp_path / f"in/{split}.parquet", [*rows, {"picture": image("png"), "label": "fake"}], types)
    record = plan("--task", "x")
    [finding] = [f for f in record["report"]["findings"] if f["kind"] == "undecodable"]
    assert sorted(finding["paths"]) == ["train/0_real/train-000012.png", "val/0_real/test-000012.png"]


def test_a_broken_row_group_and_a_column_that_is_not_there_are_one_clear_error(plan: Plan, tmp_path: Path) -> None:
    types = {"image": IMAGE, "label": pa.string()}
    path = write(tmp_path / "in/train.parquet", [{"image": struct(), "label": "real"}] * 12, types)
    assert "has no column 'kind'; it has image, label" in plan("--label-column", "kind")
    found = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[found.data_page_offset : found.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(data)
    assert "is damaged: row group 2 of 3 can't be read" in " ".join(plan().split())
    path.write_bytes(data[:100])
    assert "is damaged" in plan()
    rows = pa.Table.from_pylist([{"image": b"pixels" * 99, "label": "real"}])
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(rows, path, write_page_checksum=True, **plain)
    path.write_bytes(path.read_bytes().replace(b"pixels", b"pixelz", 1))
    assert "row group 1 of 1 can't be read" in " ".join(plan().split())


@pytest.mark.parametrize("empty", [{"bytes": None, "path": None}, {"bytes": None, "path": "../up.png"}])
def test_a_row_without_an_image_is_named(plan: Plan, tmp_path: Path, empty: dict[str, Any]) -> None:
    (tmp_path / "up.png").write_bytes(image())
    rows = [{"image": struct(), "label": "real"}, {"image": empty, "label": "fake"}]
    write(tmp_path / "in/train.parquet", rows, {"image": IMAGE, "label": pa.string()})
    said = plan()
    assert "train.parquet, row 1" in said
    assert "has no image" in said or "lies outside" in said
