from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.data.layouts.images import image, pack, write_tree
from tests.data.layouts.plans import Plan, both, counts
from tests.data.layouts.test_lists import write


def test_an_archive_may_be_the_data_set_and_lie_beside_what_it_was_unpacked_to(plan: Plan, tmp_path: Path) -> None:
    folders = {f"{split}/{kind}": 3 for split in ("train", "test") for kind in ("REAL", "FAKE")}
    write_tree(tmp_path / "CIFAKE", folders)
    pack(write_tree(tmp_path / "again", folders), tmp_path / "CIFAKE.zip")
    assert counts(plan(path="CIFAKE.zip")) == counts(plan(path="CIFAKE")) == {"cifake": both(3, 3)}
    write(tmp_path / "told/train.csv", [{"path": "a/000.png", "label": "real"}])
    pack(write_tree(tmp_path / "told", {"a": 1}), tmp_path / "told.zip")
    assert "told/train.csv tells what images are: unpack told.zip, then --list reads it." in plan(path="told.zip")
    (tmp_path / "CIFAKE/train.zip").write_bytes(b"")
    record = plan(path="CIFAKE")
    assert counts(record) == {"cifake": both(3, 3)}
    assert "train.zip stays behind, since train/ lies beside it: unpacked, by its name." in record["told"]
    layout = {f"{split}/{kind}": 3 for split in ("train", "val") for kind in ("0_real", "1_fake")}
    pack(write_tree(tmp_path / "sd", layout), tmp_path / "sd.zip")
    record = plan(path="sd.zip")
    assert "CDDB" in record["taken_for"]
    assert counts(record) == {"sd": both(3, 3)}


def test_an_archive_that_is_wrong_is_one_clear_error(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "in/train.zip"
    path.parent.mkdir()
    cases: dict[str, list[tuple[str, bytes]]] = {
        "has a member called '../up.png', which leads out of it": [("../up.png", image())],
        "has two members called real/a.png. Rename one.": [("real/a.png", image()), (r"real\a.png", image())],
        "holds data/x.parquet, which is not read in there: unpack it first": [
            ("real/a.png", image()),
            ("data/x.parquet", b""),
        ],
    }
    for said, members in cases.items():
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members:
                archive.writestr(name, data)
        assert said in plan(), said
    assert not (tmp_path / "up.png").exists()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("real/a.png", image())
    data = bytearray(path.read_bytes())
    size = data.index(b"PK\x01\x02") + 24  # as the list at the end tells it
    data[size : size + 4] = (3 * 10**9).to_bytes(4, "little")
    path.write_bytes(data)
    assert "real/a.png takes 3.0 GB; no member of more than 1 GB is read" in plan()
    path.write_bytes(b"PK")
    assert "is damaged, or one part of several" in plan()


@pytest.mark.parametrize(("name", "top"), [("metadata.csv", ""), ("labels.jsonl", "in/")])
def test_a_list_in_an_archive_is_read_as_one_beside_its_images(plan: Plan, tmp_path: Path, name: str, top: str) -> None:
    """Unpacked, packed whole, and an archive for each split, which the list beside them names the images of."""
    folder = write_tree(tmp_path / "in", dict.fromkeys(("train", "test"), 12))
    rows = [
        {"file_name": f"{split}/{n:03d}.png", "label": ("real", "fake")[n % 2], "model": ("", "sd")[n % 2]}
        for split in ("train", "test")
        for n in range(12)
    ]
    write(folder / name, rows)
    (folder / "read.me").write_text("of no use\n")
    record = plan()
    assert counts(record) == {"sd": both(6, 6)}
    pack(folder, tmp_path / "in.zip", top)
    assert counts(plan(path="in.zip")) == counts(record)
    with zipfile.ZipFile(tmp_path / "in.zip") as archive:
        archive.extractall(tmp_path / "again")
    for split in ("train", "test"):
        pack(tmp_path / "again" / top / split, tmp_path / f"again/{top}{split}.zip", split)
    assert counts(plan(path=f"again/{top}")) == counts(record)
    write(tmp_path / "again" / top / name, [*rows, {**rows[0], "file_name": "test/012.png"}])
    assert f"1 files of {name} are neither below" in plan(path=f"again/{top}")
    (tmp_path / "again" / top / "test.zip").write_bytes(b"PK")
    said = plan(path=f"again/{top}")
    assert f"25 files of {name} are neither below" in said and "test.zip is damaged, or one part of several" in said
    write(tmp_path / "again" / top / name, rows)
    write_tree(tmp_path / "again" / top, dict.fromkeys(("train", "test"), 12))
    (tmp_path / "again" / top / "other.zip").write_bytes(b"PK")
    assert counts(plan(path=f"again/{top}")) == counts(record), "which names nothing in there"


@pytest.mark.parametrize("at", [0.3, 0.8])
def test_an_image_that_was_damaged_in_its_archive_is_told(plan: Plan, tmp_path: Path, at: float) -> None:
    write_tree(tmp_path / "apart", {f"{split}/{kind}": 2 for split in ("train", "test") for kind in ("real", "fake")})
    path = pack(tmp_path / "apart", tmp_path / "in.zip")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        ends = archive.start_dir
    data[int(ends * at)] ^= 0xFF
    path.write_bytes(data)
    assert "in.zip is damaged" in plan(path="in.zip")
