from __future__ import annotations

import json
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


def write(path: Path, rows: Sequence[Mapping[str, Any]], types: Mapping[str, pa.DataType],
          features: Mapping[str, Any] | None = None, group: int = 4) -> Path:  # fmt: skip
    """A Parquet file, or an Arrow stream, with the note of `datasets` on its columns where `features` are given."""
    told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()} if features else None
    schema = pa.schema(list(types.items()), metadata=told)
    table = pa.Table.from_pylist([dict(row) for row in rows], schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=group)
    else:
        with path.open("wb") as file, pa.ipc.new_stream(file, schema) as stream:
            stream.write_table(table, group)
    return path


def names(*values: str) -> dict[str, Any]:
    return {"names": list(values), "_type": "ClassLabel"}


def test_tiny_genimage(plan: Plan, tmp_path: Path) -> None:
    features = {
        "image": {"_type": "Image"},
        "label": names("real", "fake"),
        "generator": names("Real", "ADM", "Wukong"),
    }
    types = {"image": IMAGE, "label": pa.int64(), "generator": pa.int64()}
    for split, share in (("train", 12), ("validation", 8)):
        rows = [
            {"image": struct("jpg"), "label": int(g > 0), "generator": g} for g in (0, 0, 1, 2) for _ in range(share)
        ]
        write(tmp_path / f"in/data/{split}-00000-of-00001.parquet", rows, types, features)
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
    types = {"image": IMAGE, "label": pa.int64()}
    for path, features in (("a", names("FAKE", "REAL")), ("b", names("Real", "Fake"))):
        for split in ("train", "test"):
            rows = [{"image": struct(), "label": n % 3 > 0} for n in range(6)]
            rows = [{**row, "label": int(row["label"])} for row in rows]
            write(tmp_path / path / f"{split}.parquet", rows, types, {"image": {"_type": "Image"}, "label": features})
    assert counts(plan("--task", "cifake", path="a")) == {"cifake": both(4, 4, (2, 2))}
    assert counts(plan("--task", "cifake", path="b")) == {"cifake": both(2, 2, (4, 4))}


def test_numbers_without_names_are_asked_for(plan: Plan, tmp_path: Path) -> None:
    """Defactify's columns."""
    types = {"Caption": pa.string(), "Image": IMAGE, "Label_A": pa.int64(), "Label_B": pa.int64()}
    for split in ("train", "validation", "test"):
        rows = [
            {"Caption": "x", "Image": struct(), "Label_A": int(b > 0), "Label_B": b} for b in range(3) for _ in range(6)
        ]
        write(tmp_path / f"in/{split}-0.parquet", rows, types)
    said = plan()
    assert "which labels are real and which synthetic is not told by their names: 0, 1. Say so, such as --label" in said
    said = plan("--label", "0=real,1=fake")
    assert "generators are numbers without names, 1, 2. Name them: --generators 1=NAME,2=NAME" in said
    found = counts(plan("--label", "0=real,1=fake", "--generators", "2=sdxl,1=sd21"))
    assert list(found) == ["sdxl", "sd21"]
    assert {(n["train/1_fake"], n["val/1_fake"]) for n in found.values()} == {(12, 6)}


def test_community_forensics_with_its_bytes_as_they_are(plan: Plan, tmp_path: Path) -> None:
    columns = ("image_name", "format", "model_name", "real_source", "subset", "split", "architecture")
    types = {"image_data": pa.binary(), "label": pa.int64(), **dict.fromkeys(columns, pa.string())}
    for folder in ("systematic", "manual"):
        rows: list[dict[str, Any]] = []
        for number in range(32):
            told = {"label": number % 2, "model_name": f"{folder}-model" if number % 2 else None}
            rows.append(
                {**told, "image_data": image("jpg"), "image_name": "x.png", "split": ("train", "test")[number // 16]}
            )
        write(tmp_path / f"in/data/{folder}/part-0.parquet", rows, types)
    found = counts(plan("--label", "0=real,*=fake"))
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == {
        "manual-model": (8, 8), "systematic-model": (8, 8)
    }  # fmt: skip
    assert sum(n["train/0_real"] for n in found.values()) == 16


def test_openfake_comes_in_the_order_of_release(plan: Plan, tmp_path: Path) -> None:
    columns = ("prompt", "label", "model", "type", "release_date")
    types = {"image": IMAGE, **dict.fromkeys(columns, pa.string())}
    models = {"flux.1-dev": "2024-08-01", "sdxl": "2023-07-26", "gpt-image-1": "2025-04"}
    for split in ("train", "test"):
        rows = [{"image": struct(), "label": "real", "model": "laion", "type": "real"} for _ in range(40)]
        for model, date in models.items():
            rows += [{"image": struct(), "label": "fake", "model": model, "release_date": date} for _ in range(3)]
        write(tmp_path / f"in/opensource/{split}-00000.parquet", rows, types)
    record = plan()
    assert list(counts(record)) == ["sdxl", "flux-1-dev", "gpt-image-1"]
    assert [task["released"] for task in record["tasks"]] == ["2023-07-26", "2024-08-01", "2025-04"]
    assert list(counts(plan("--order", "given"))) == ["flux-1-dev", "sdxl", "gpt-image-1"]
    assert list(counts(plan("--order", "name"))) == ["flux-1-dev", "gpt-image-1", "sdxl"]


def test_ai_genbench_as_datasets_saves_it(plan: Plan, tmp_path: Path) -> None:
    types = {
        "image": IMAGE,
        "label": pa.int64(),
        "generator": pa.string(),
        "file_id": pa.string(),
        "height": pa.int64(),
    }
    features = {"image": {"_type": "Image"}, "label": names("real", "fake")}
    for split in ("train", "validation"):
        rows = [{"image": struct(), "label": 0, "generator": ""} for _ in range(24)]
        rows += [{"image": struct(), "label": 1, "generator": g} for g in ("CycleGAN", "ProGAN") for _ in range(5)]
        write(tmp_path / f"in/{split}/data-00000-of-00001.arrow", rows, types, features)
        (tmp_path / f"in/{split}/state.json").write_text("{}")
    (tmp_path / "in/dataset_dict.json").write_text("{}")
    record = plan()
    assert {name: n["1_fake"] for name, n in totals(record).items()} == {"cyclegan": 10, "progan": 10}
    assert sum(n["0_real"] for n in totals(record).values()) == 48
    assert "3 files hold no images and stay behind" in record["told"][0]
    assert "--order release takes a date for each generator" in plan("--order", "release")


def test_so_fake_ood_and_generators_alone(plan: Plan, tmp_path: Path) -> None:
    types = {"image": IMAGE, "label": pa.int64(), "generator": pa.string(), "filename": pa.string()}
    rows = [{"image": struct(), "label": int(n > 15), "generator": "ideogram3" if n > 15 else "OpenForensics",
             "filename": f"{n}.png"} for n in range(32)]  # fmt: skip
    write(tmp_path / "in/test.parquet", rows, types)
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
    assert "is damaged: row group 1 of 3 can't be read" in " ".join(plan().split())
    path.write_bytes(data[:100])
    assert "is damaged" in plan()


@pytest.mark.parametrize("empty", [{"bytes": None, "path": None}, {"bytes": None, "path": "../up.png"}])
def test_a_row_without_an_image_is_named(plan: Plan, tmp_path: Path, empty: dict[str, Any]) -> None:
    (tmp_path / "up.png").write_bytes(image())
    rows = [{"image": struct(), "label": "real"}, {"image": empty, "label": "fake"}]
    write(tmp_path / "in/train.parquet", rows, {"image": IMAGE, "label": pa.string()})
    said = plan()
    assert "train.parquet, row 1" in said
    assert "has no image" in said or "lies outside" in said
