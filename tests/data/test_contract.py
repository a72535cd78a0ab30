from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorax.data import pins, versions
from lorax.data.admission import LandingOptions, check_landing
from lorax.data.container import Container
from lorax.data.contract import Report, check
from lorax.data.duplicates import Landed
from lorax.data.examine import Examined
from lorax.data.findings import Finding
from lorax.data.incoming import Incoming
from lorax.data.landing import land
from lorax.data.layout import READY
from lorax.data.simulate import simulate
from lorax.errors import ContractError
from lorax.params import LandingParams
from lorax.workspace import Workspace
from tests.conftest import WriteTask

RULES = LandingParams(min_train=1, min_val=1)
SAN = {"train": 130, "val": 45}


def incoming(files: dict[str, Examined], *complaints: str) -> Incoming:
    return Incoming("new", "digest", {}, files, complaints)


PNG = Container("lossless", "colour", 9, 9)
JPEG = Container("JPEG 4:2:0", "colour", 9, 9, (16,) * 128)


def image(md5: str, fingerprint: int = 0, container: Container = PNG) -> Examined:
    return Examined(md5, container, fingerprint, pixels=f"of {md5}")


def of_kind(report: Report, kind: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.kind == kind]


def san(**containers: Container) -> dict[str, Examined]:
    """A task of the size of CDDB's SAN; the given class folders are stored in containers of their own."""
    return {
        f"{split}/{folder}/{n}.png": image(
            f"{split}{folder}{n}", hash((split, folder, n)) % 2**64, containers.get(folder, PNG)
        )
        for split, count in SAN.items()
        for folder in ("0_real", "1_fake")
        for n in range(count)
    }


def test_fakes_alone_are_refused_until_real_images_have_landed() -> None:
    files = {path: file for path, file in san().items() if "1_fake" in path}
    [finding] = of_kind(check(incoming(files), Landed({"other/train/1_fake/0.png": "x"}), RULES), "no-real")
    assert finding.severity == "refused"
    assert "0_real folder first" in finding.message
    assert not of_kind(check(incoming(files), Landed({"other/train/0_real/0.png": "x"}), RULES), "no-real")


def test_cddbs_smallest_task_is_admitted_by_default_and_one_image_less_is_not() -> None:
    assert check(incoming(san()), Landed(), LandingParams()).findings == ()
    for short in ("train/0_real/0.png", "val/1_fake/0.png"):
        files = {path: file for path, file in san().items() if path != short}
        [finding] = check(incoming(files), Landed(), LandingParams()).refused
        assert finding.kind == "too-few"


def test_a_damaged_image_does_not_count() -> None:
    files = san() | {"val/0_real/0.png": Examined("x", Container("", "", 0, 0), problem="val/0_real/0.png is bad")}
    report = check(incoming(files), Landed(), LandingParams())
    assert [finding.kind for finding in report.refused] == ["undecodable", "too-few"]


def test_the_same_bytes_in_train_and_val_are_refused() -> None:
    files = {"train/1_fake/a.png": image("1"), "val/1_fake/b.png": image("1"), "val/1_fake/c.png": image("2", 255)}
    report = check(incoming(files), Landed(), RULES)
    [finding] = of_kind(report, "same-in-train-and-val")
    assert (finding.severity, finding.paths) == ("refused", ("val/1_fake/b.png",))
    assert of_kind(report, "near-duplicates") == []


def test_the_same_bytes_under_two_labels_are_refused() -> None:
    files = {"train/0_real/a.png": image("1"), "train/horse/1_fake/b.png": image("1"), "val/0_real/c.png": image("2")}
    [finding] = of_kind(check(incoming(files), Landed(), RULES), "conflicting-labels")
    assert (finding.severity, finding.paths) == ("refused", ("train/0_real/a.png", "train/horse/1_fake/b.png"))


@pytest.mark.parametrize(
    ("folder", "elsewhere", "kind", "severity"),
    [
        ("0_real", "crn/train/0_real/x.png", "shared-reals", "warned"),
        ("1_fake", "crn/train/1_fake/x.png", "landed-elsewhere", "warned"),  # one of two
        ("1_fake", "crn/train/0_real/x.png", "conflicting-labels", "refused"),
        ("0_real", "crn/val/horse/2_gan/x.png", "conflicting-labels", "refused"),
    ],
)
def test_bytes_that_other_tasks_have_are_told(folder: str, elsewhere: str, kind: str, severity: str) -> None:
    files = {f"train/{folder}/a.png": image("1"), f"val/{folder}/b.png": image("2", 255)}
    report = check(incoming(files), Landed({elsewhere: "1", "wild/train/0_real/y.png": "3"}), RULES)
    [finding] = of_kind(report, kind)
    assert (finding.severity, finding.paths) == (severity, (f"train/{folder}/a.png",))
    assert finding.message.endswith("task crn.")


def test_a_generator_that_landed_under_another_name_is_refused() -> None:
    theirs = {f"crn/{path}": file.md5 for path, file in san().items()}
    more = {f"{split}/1_fake/more{n}.png": image(f"more {split}{n}", n) for split in SAN for n in range(3)}
    [finding] = of_kind(check(incoming(san() | more), Landed(theirs), RULES), "landed-elsewhere")
    assert finding.severity == "refused"
    assert "They are most of 1_fake: one generator under two names" in finding.message
    of_its_own = Landed(theirs, family={"crn"})  # which it extends
    [finding] = of_kind(check(incoming(san() | more), of_its_own, RULES), "landed-elsewhere")
    assert finding.severity == "warned"


def test_near_duplicates_across_splits_are_warned_of_up_to_the_set_distance() -> None:
    files = {"train/1_fake/a.png": image("1", 0), "val/1_fake/b.png": image("2", 0b1111)}
    [finding] = of_kind(check(incoming(files), Landed(), RULES), "near-duplicates")
    assert (finding.severity, finding.paths) == ("warned", ("val/1_fake/b.png ~ train/1_fake/a.png",))
    strict = RULES.model_copy(update={"near_bits": 3})
    assert of_kind(check(incoming(files), Landed(), strict), "near-duplicates") == []


def test_a_generator_that_another_task_has_is_named_and_how_it_grows() -> None:
    files = {f"{split}/{folder}/a.png": image(split + folder) for split in SAN for folder in ("0_real", "1_gaugan")}
    landed = Landed({"gaugan/train/1_fake/x.png": "x", "gaugan/train/0_real/y.png": "y"})
    [finding] = of_kind(check(incoming(files), landed, RULES), "known-generator")
    assert finding.severity == "warned"
    assert "--task gaugan --extend" in finding.message
    extension = dataclasses.replace(incoming(files), extends="gaugan")
    assert not of_kind(check(extension, landed, RULES), "known-generator")
    assert not of_kind(check(incoming(files), Landed({"gaugan/train/2_crn/x.png": "x"}), RULES), "known-generator")


def test_reals_that_were_jpeg_once_are_warned_of_where_their_format_tells_nothing() -> None:
    files = {
        path: dataclasses.replace(file, blocks=(0.1, 0.1) if "0_real" in path else (0.0, 0.01))
        for path, file in san().items()
    }
    [finding] = check(incoming(files), Landed(), RULES).findings
    assert (finding.kind, finding.severity) == ("was-jpeg", "warned")
    assert finding.message.startswith("real images show the blocks of 8 pixels that JPEG leaves, 1_fake ones do not")


def test_what_keeps_it_out_comes_first_and_what_is_harmless_last() -> None:
    files = san(**{"0_real": PNG, "1_fake": JPEG})
    files |= {"train/0_real/bad.png": Examined("x", Container("", "", 0, 0), problem="train/0_real/bad.png is bad")}
    landed = Landed({"new2/train/0_real/x.png": "train0_real0", "new/train/1_fake/y.png": "y"})
    kinds = [finding.kind for finding in check(incoming(files), landed, RULES).findings]
    assert kinds == ["undecodable", "format-leak", "known-generator", "shared-reals", "not-compared"]


LEAKS = {
    "codec": (PNG, JPEG),
    "grey": (PNG, dataclasses.replace(PNG, look="grey")),
    "size": (PNG, dataclasses.replace(PNG, width=10)),
    "quantisation tables": (JPEG, dataclasses.replace(JPEG, tables=(16,) * 64 + (17,) * 64)),
}


@pytest.mark.parametrize("what", LEAKS)
def test_what_tells_real_from_synthetic_by_format_alone_is_refused(what: str) -> None:
    real, fake = LEAKS[what]
    report = check(incoming(san(**{"0_real": real, "1_fake": fake})), Landed(), RULES)
    assert report.leaks == {"1_fake": pytest.approx(1)}
    assert [finding.kind for finding in report.refused] == ["format-leak"]


def test_an_accepted_leak_is_only_warned_of_with_its_reason() -> None:
    files = san(**{"0_real": PNG, "1_fake": JPEG})
    report = check(incoming(files), Landed(), RULES, accept_leak="the camera writes PNG")
    assert report.refused == ()
    assert report.warned[0].message.endswith("Accepted: the camera writes PNG")


def test_a_partial_leak_is_warned_of() -> None:
    files = san(**{"0_real": PNG, "1_fake": PNG})
    fakes = [path for path in files if "1_fake" in path]
    files |= {path: dataclasses.replace(files[path], container=JPEG) for path in fakes[::2]}
    [finding] = check(incoming(files), Landed(), RULES).findings
    assert (finding.kind, finding.severity) == ("format-leak", "warned")
    assert "0.75 accuracy" in finding.message


def test_sizes_that_vary_alike_are_no_leak() -> None:
    sizes = np.random.default_rng(0).integers(200, 600, (2, 350))
    files = {
        path: dataclasses.replace(file, container=Container("lossless", "colour", int(width), int(height)))
        for (path, file), width, height in zip(san().items(), *sizes, strict=True)
    }
    assert check(incoming(files), Landed(), LandingParams()).findings == ()


def test_a_leak_of_one_generator_among_several_is_found() -> None:
    files = san()
    fakes = {path: file for path, file in files.items() if "1_fake" in path}
    files |= {
        path.replace("1_fake", "2_other"): image(f"{file.md5}+", ~file.fingerprint % 2**64, JPEG)
        for path, file in fakes.items()
    }
    report = check(incoming(files), Landed(), RULES)
    assert report.leaks == {"1_fake": 0.5, "2_other": pytest.approx(1)}


def test_all_findings_are_told_at_once_and_a_dry_run_changes_nothing(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    source = write_task(tmp_path / "in", {"0_real": 4, "1_fake": 4}, seed=3)
    (source / "train/0_real/0.png").write_bytes(b"not an image")
    shutil.copy(source / "train/0_real/1.jpg", source / "val/0_real/same.jpg")
    shutil.copy(source / "train/1_fake/2.png", source / "train/0_real/torn.png")
    (source / "notes.txt").write_text("!")
    with Image.open(source / "train/1_fake/0.png") as near:
        near.putpixel((0, 0), (1, 2, 3))
        near.save(source / "val/1_fake/near.png")
    before = sorted(landed_workspace.root.rglob("*"))
    _, [report] = check_landing(
        landed_workspace, source, "beta", LandingOptions(contract=LandingParams(min_train=5, min_val=5))
    )
    assert {finding.kind for finding in report.refused} == {
        *("taken", "layout", "undecodable", "too-few", "same-in-train-and-val", "conflicting-labels")
    }
    assert {finding.kind for finding in report.warned} == {"near-duplicates", "format-leak"}
    assert json.loads(json.dumps(report.record()))["refused"] is True
    assert sorted(landed_workspace.root.rglob("*")) == before


def test_a_leak_needs_a_reason_to_land_and_the_reason_is_kept(workspace: Workspace, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for folder, suffix in (("0_real", "png"), ("1_fake", "jpg")):
        for split, count in (("train", 20), ("val", 5)):
            place = tmp_path / "in" / split / folder
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.{suffix}")
    (tmp_path / "in" / READY).touch()
    with pytest.raises(ContractError, match="--accept-leak"):
        land(workspace, tmp_path / "in", "leaky")
    assert versions.landed(workspace) == ()
    land(workspace, tmp_path / "in", "leaky", options=LandingOptions(accept_leak="it is: all that there is"))
    assert [notes.accepted_leak for notes in pins.committed(workspace).notes.values()] == ["it is: all that there is"]
    land(workspace, tmp_path / "in", "leaky")  # the same bytes again need no reason
    assert [notes.accepted_leak for notes in pins.committed(workspace).notes.values()] == ["it is: all that there is"]
    assert "_READY" not in str(dict(versions.manifest(workspace)))


def test_the_mini_cddb_lands_without_overrides(workspace: Workspace, tmp_path: Path) -> None:
    for name in simulate(tmp_path / "raw", train_per_class=130, val_per_class=45):
        _, [report] = check_landing(workspace, tmp_path / "raw" / name, name, LandingOptions(contract=LandingParams()))
        assert report.findings == ()
