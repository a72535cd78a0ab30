"""The same picture twice is found by its pixels and by its looks, whatever files hold it, here and in landed tasks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorax.data import forgetting, prints, versions, withdrawal
from lorax.data.admission import LandingOptions, check_landing
from lorax.data.contract import Report
from lorax.data.findings import Finding
from lorax.data.landing import land
from lorax.workspace import Workspace

SIDE = 64


def photograph(seed: int, side: int = SIDE) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def put(folder: Path, seed: int, name: str, image: Image.Image | None = None, **options: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (image or photograph(seed)).save(folder / name, **options)


def data_set(folder: Path, first: int, count: int = 6) -> Path:
    """Pictures of consecutive seeds: real in train, synthetic in train, real in val, synthetic in val."""
    for place, part in enumerate(("train/0_real", "train/1_fake", "val/0_real", "val/1_fake")):
        for number in range(count):
            put(folder / part, first + place * count + number, f"{number}.png")
    return folder


def found(report: Report, kind: str) -> Finding | None:
    return next((finding for finding in report.findings if finding.kind == kind), None)


def looked_at(workspace: Workspace, folder: Path) -> Report:
    _, [report] = check_landing(workspace, folder, "new")
    return report


@pytest.fixture
def landed(workspace: Workspace, tmp_path: Path) -> Workspace:
    land(workspace, data_set(tmp_path / "first", 0), "first")
    return workspace


def test_reals_saved_anew_among_the_fakes_are_told_with_the_right_reason(workspace: Workspace, tmp_path: Path) -> None:
    folder = data_set(tmp_path / "in", 100)
    for number in range(3):
        put(folder / "train/1_fake", 100 + number, f"anew{number}.png", compress_level=number)
    put(folder / "train/1_fake", 103, "anew3.bmp")
    put(folder / "val/1_fake", 104, "anew4.webp", lossless=True)
    report = looked_at(workspace, folder)
    torn, both = found(report, "conflicting-labels"), found(report, "same-in-train-and-val")
    assert torn is not None
    assert torn.message.startswith("5 images in several classes, pixel for pixel")
    assert {path for path in torn.paths if "anew" in path} == {
        *(f"train/1_fake/anew{number}.png" for number in range(3)), "train/1_fake/anew3.bmp", "val/1_fake/anew4.webp"
    }  # fmt: skip
    assert both is not None
    assert both.paths == ("val/1_fake/anew4.webp",)
    assert report.findings[0].severity == "refused"


def test_the_same_pictures_of_another_task_are_known_in_any_file(landed: Workspace, tmp_path: Path) -> None:
    folder = data_set(tmp_path / "in", 100)
    put(folder / "train/0_real", 0, "shared.bmp")  # real there, too
    put(folder / "train/1_fake", 6, "again.bmp")  # synthetic there, too
    put(folder / "val/1_fake", 1, "torn.bmp")  # real there
    report = looked_at(landed, folder)
    for kind, path in (
        ("shared-reals", "train/0_real/shared.bmp"),
        ("landed-elsewhere", "train/1_fake/again.bmp"),
        ("conflicting-labels", "val/1_fake/torn.bmp"),
    ):
        finding = found(report, kind)
        assert finding is not None, kind
        assert finding.paths == (path,)
        assert finding.message.startswith(("1 image ", "1 real image ", "1 synthetic image "))
        assert finding.message.endswith("task first.")


def test_pictures_that_look_like_another_task_s_are_told(landed: Workspace, tmp_path: Path) -> None:
    folder = data_set(tmp_path / "in", 100)
    put(folder / "train/0_real", 0, "smaller.png", photograph(0).resize((48, 48)))
    put(folder / "val/1_fake", 1, "compressed.jpg", quality=80)
    put(folder / "val/0_real", 106, "own.jpg", quality=80)  # a fake of this very set
    report = looked_at(landed, folder)
    alike, torn = found(report, "near-landed-elsewhere"), found(report, "near-conflicting-labels")
    assert alike is not None
    assert torn is not None
    assert alike.paths == ("train/0_real/smaller.png ~ first/train/0_real/0.png",)
    assert set(torn.paths) == {
        "val/1_fake/compressed.jpg ~ first/train/0_real/1.png", "train/1_fake/0.png ~ val/0_real/own.jpg"
    }  # fmt: skip
    assert {alike.severity, torn.severity} == {"warned"}
    assert [finding.message[:14] for finding in (alike, torn)] == ["1 image like o", "2 images like "]


def test_what_landed_looks_like_is_made_anew_from_the_images_that_are_here(landed: Workspace, tmp_path: Path) -> None:
    [table] = landed.prints_dir.iterdir()
    kept = table.read_bytes()
    folder = data_set(tmp_path / "in", 100)
    put(folder / "train/0_real", 0, "smaller.png", photograph(0).resize((48, 48)))
    put(folder / "train/1_fake", 6, "again.bmp")
    expected = looked_at(landed, folder).findings
    assert {finding.kind for finding in expected} >= {"near-landed-elsewhere", "landed-elsewhere"}
    table.write_bytes(kept[:100])
    assert looked_at(landed, folder).findings == expected
    stream, files = versions.landed(landed), versions.manifest(landed)
    assert prints.known(landed, stream, files).keys() == set(files.values())
    table.unlink()
    shutil.rmtree(landed.data_dir)  # DVC's cache has them
    assert looked_at(landed, folder).findings == expected
    table.unlink()
    shutil.rmtree(landed.root / ".dvc" / "cache" / "files" / "md5" / next(iter(files.values()))[:2])
    missing = found(looked_at(landed, folder), "not-compared")
    assert missing is not None
    assert "1 image of first neither in data/ nor in DVC's cache" in missing.message
    assert not table.exists()


def test_a_broken_image_of_a_task_that_lands_beside_is_not_missed(workspace: Workspace, tmp_path: Path) -> None:
    data_set(tmp_path / "both/bad", 100)
    data_set(tmp_path / "both/good", 200)
    (tmp_path / "both/bad/train/1_fake/0.png").write_bytes(b"no image")
    _, reports = check_landing(workspace, tmp_path / "both")
    assert [found(report, "undecodable") is not None for report in reports] == [True, False]
    assert not any(found(report, "not-compared") for report in reports)


def test_of_what_no_longer_is_in_the_stream_no_table_stays(landed: Workspace, tmp_path: Path) -> None:
    [before] = landed.prints_dir.iterdir()
    land(landed, data_set(tmp_path / "other", 200), "first", options=LandingOptions(replace=True))
    [after] = landed.prints_dir.iterdir()
    assert before != after


def test_what_forgotten_images_looked_like_goes_with_them(landed: Workspace) -> None:
    gone = set(versions.manifest(landed).values())
    assert prints.kept(landed) == gone
    withdrawal.prepared(landed, "first", "why")
    withdrawal.carry_out(landed, "first")
    assert {"work/prints/"} <= {place.name for place in forgetting.look_for(landed, gone) if place.found}
    forgetting.remove(landed, gone)
    assert [place for place in forgetting.look_for(landed, gone) if place.found] == []
