from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.data.layouts.images import image, write_tree
from tests.data.layouts.plans import Plan, both, counts, totals


def write(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar file of these members, whatever they are called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(key: str, **said: object) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", image()), (f"{key}.json", json.dumps(said).encode())]


def shards(root: Path, name: str, samples: Sequence[Mapping[str, Any]], most: int = 100) -> None:
    """Tar files of the `webdataset` library, with so many samples each."""
    from webdataset import ShardWriter  # two seconds, of which torch has most

    root.mkdir(parents=True, exist_ok=True)
    with ShardWriter(str(root / name), maxcount=most, verbose=0) as writer:
        for sample in samples:
            writer.write(sample)


def test_dragon_has_fakes_of_many_models_and_no_reals(plan: Plan, tmp_path: Path) -> None:
    for split, each in (("train", 8), ("test", 4)):
        samples = [{"__key__": f"{m}_{n}", "png": image(), "json": {"model": m, "prompt": "x"}}
                   for m in ("SD-3", "Flash_SDXL") for n in range(each)]  # fmt: skip
        shards(tmp_path / "in" / split, f"dragon_{split}_%03d.tar", samples, most=8)
    real = write_tree(tmp_path / "real", {"train": 20, "val": 20})
    assert "which generators are real is not told: Flash_SDXL, SD-3" in plan()
    found = counts(plan("--real", str(real)))
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == {
        "sd-3": (8, 4), "flash_sdxl": (8, 4)
    }  # fmt: skip
    assert sum(n["train/0_real"] for n in found.values()) == 20


def test_semi_truths_and_classes_in_members_of_their_own(plan: Plan, tmp_path: Path) -> None:
    shards(tmp_path / "in", "train-%d.tar", [{"__key__": f"{n}", "png": image()} for n in range(16)])
    real = write_tree(tmp_path / "real", {".": 30})
    found = totals(plan("--real", str(real), "--split", "0.5", "--task", "semi-truths"))
    assert found == {"semi-truths": {"0_real": 30, "1_fake": 16}}
    for name in ("flux", "sd-3"):
        shards(tmp_path / "by", f"{name}_%03d.tar", [{"__key__": f"{n}", "png": image()} for n in range(8)], most=5)
    found = totals(plan("--real", str(real), "--split", "0.5", "--levels", "generator", path="by"))
    assert {name: n["1_fake"] for name, n in found.items()} == {"flux": 8, "sd-3": 8}
    for split in ("train", "test"):
        samples = [{"__key__": f"of/{split}/{n}", "jpg": image("jpg"), "cls": n % 2} for n in range(8)]
        shards(tmp_path / "cls", f"{split}-%d.tar", samples)
    assert "not told by their names: 0, 1" in plan(path="cls")
    assert counts(plan("--label", "0=fake,1=real", "--task", "x", path="cls")) == {"x": both(4, 4)}


def test_an_archive_that_is_wrong_is_one_clear_error(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "in/train.tar"
    cases = {
        "has a member called '../up.png', which leads out of it": [*sample("a", label="fake"), ("../up.png", image())],
        "has two members called a.png": [("a.png", image()), ("a.png", image())],
        "has two images under one name, a": [*sample("a", label="fake"), *sample("b", label="real"),
                                             *sample("a", label="fake")],
        "has 0 images (json); expected one": [("a.json", b"{}")],
        "is a folder that was packed, with train.tar, x/real/a, and no WebDataset": [("x/real/a.png", image())],
        "what is said of a can't be read": [("a.png", image()), ("a.json", b"{")],
    }  # fmt: skip
    for said, members in cases.items():
        write(path, members)
        assert said in plan(), said
    assert not (tmp_path / "up.png").exists()
    write(path, [*sample("a", label="fake"), *sample("b", label="real")])
    path.write_bytes(path.read_bytes()[:700])
    assert "is damaged" in plan()
