from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.layouts.images import image, pack, write_tree
from tests.data.layouts.plans import Plan, both, counts, totals


def test_genimage(plan: Plan, tmp_path: Path) -> None:
    for folder in ("Midjourney/imagenet_midjourney", "ADM/imagenet_ai_0508_adm", "stable_diffusion_v_1_4"):
        write_tree(tmp_path / "in" / folder, {"train/ai": 3, "train/nature": 2, "val/ai": 2, "val/nature": 1})
    assert counts(plan()) == dict.fromkeys(("adm", "midjourney", "stable_diffusion_v_1_4"), both(2, 1, (3, 2)))


def test_forensynths_training_set_is_one_task_of_many_subjects(plan: Plan, tmp_path: Path) -> None:
    kinds = [f"{split}/{subject}" for split in ("train", "val") for subject in ("airplane", "bird")]
    write_tree(tmp_path / "in", {f"{place}/{kind}": 2 for place in kinds for kind in ("0_real", "1_fake")})
    assert counts(plan("--task", "progan")) == {"progan": both(4, 4)}
    assert "If they are subjects of one generator, name it with --task NAME" in plan()
    assert set(counts(plan("--levels", "split/generator/class"))) == {"airplane", "bird"}


def test_forensynths_test_set_and_aigcdetectbenchmark(plan: Plan, tmp_path: Path) -> None:
    folders = ("biggan", "san", "progan/airplane", "progan/bird")
    write_tree(tmp_path / "in/test", {f"{place}/{kind}": 8 for place in folders for kind in ("0_real", "1_fake")})
    (tmp_path / "in/test/san/0_real/x.bmp").write_bytes(image("bmp"))
    expected = {"biggan": (8, 8), "progan": (16, 16), "san": (9, 8)}
    for path in ("in", "in/test"):
        found = totals(plan("--split", "0.5", path=path))
        assert found == {name: {"0_real": real, "1_fake": fake} for name, (real, fake) in expected.items()}
    subjects = ("airplane", "bird", "train")  # the vehicle, too
    folders = tuple(f"{split}/{subject}" for split in ("train", "val") for subject in subjects)
    write_tree(tmp_path / "in", {f"{place}/{kind}": 2 for place in folders for kind in ("0_real", "1_fake")})
    assert "is two data sets: test/ holds biggan, progan, san" in plan("--split", "0.5")
    write_tree(tmp_path / "in", {f"test/progan/train/{kind}": 8 for kind in ("0_real", "1_fake")})
    record = plan("--split", "0.5")
    assert "progan's subjects in train and val" in record["taken_for"]
    assert counts(record)["progan"] == both(12, 24)
    assert {name: totals(record)[name] for name in ("biggan", "san")} == {
        "biggan": {"0_real": 8, "1_fake": 8}, "san": {"0_real": 9, "1_fake": 8}
    }  # fmt: skip


def test_universal_fake_detect_with_its_reals_elsewhere(plan: Plan, tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"imagenet/0_real": 12, "laion/0_real": 12, "guided/1_fake": 8, "ldm_100/1_fake": 8})
    found = totals(plan("--split", "0.5"))
    assert {name: kinds["1_fake"] for name, kinds in found.items()} == {"guided": 8, "ldm_100": 8}
    assert sum(kinds["0_real"] for kinds in found.values()) == 24
    plain = write_tree(tmp_path / "plain", {"imagenet": 12, "laion": 12, "guided": 8, "ldm_100": 8})
    assert "Which is real?" in plan("--split", "0.5", path=plain.name)
    again = totals(plan("--split", "0.5", "--real", "imagenet", "--real", "laion", path=plain.name))
    assert {name: kinds["1_fake"] for name, kinds in again.items()} == {"guided": 8, "ldm_100": 8}


def test_diffusionforensics(plan: Plan, tmp_path: Path) -> None:
    for split, images in (("train", 4), ("val", 2), ("test", 3)):
        for subject in ("lsun_bedroom", "imagenet"):
            write_tree(tmp_path / "in/images" / split / subject, {"real": images, "adm": images, "sdv1": images})
    write_tree(tmp_path / "in/dire/train/imagenet", {"real": 1, "adm": 1})
    assert "has dire beside its images" in plan()
    record = plan(path="in/images")
    found = counts(record)
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == {
        "adm": (12, 6),
        "sdv1": (12, 6),
    }
    assert sum(n["train/0_real"] + n["val/0_real"] for n in found.values()) == 18
    assert "test is what is tested with; val joins train." in record["told"]


def test_drct_with_coco_lent(plan: Plan, tmp_path: Path) -> None:
    splits = ("train2017", "val2017")
    write_tree(tmp_path / "in/images", {f"{g}/{split}": 4 for g in ("ldm-text2im", "sdxl-turbo") for split in splits})
    coco = write_tree(tmp_path / "coco", dict.fromkeys(splits, 20))
    record = plan("--real", str(coco))
    assert "none of them real" in record["taken_for"]
    found = counts(record)
    assert {n["train/1_fake"] for n in found.values()} == {n["val/1_fake"] for n in found.values()} == {4}
    assert sum(n["train/0_real"] for n in found.values()) == sum(n["val/0_real"] for n in found.values()) == 20
    assert set(found) == {"ldm-text2im", "sdxl-turbo"}


def test_susy_imaginet_and_other_class_folders(plan: Plan, tmp_path: Path) -> None:
    kinds = {"coco": 24, "dalle-3-images": 2, "midjourney_tti": 2, "realisticSDXL": 2}
    for split in ("train", "val", "test"):
        write_tree(tmp_path / "in" / split, kinds)
    found = counts(plan("--real", "coco"))
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == dict.fromkeys(
        ("dalle-3-images", "midjourney_tti", "realisticsdxl"), (4, 2)
    )
    assert sum(n["train/0_real"] for n in found.values()) == 48
    for split, top in (("train", "train"), ("val", ""), ("test", "test")):  # as shared, whatever was packed
        pack(tmp_path / "in" / split, tmp_path / f"packed/data/{split}.zip", top)
    assert counts(plan("--real", "coco", path="packed")) == found
    flat = write_tree(tmp_path / "imaginet", {"wikiart": 40, "wikiart_stylegan": 20, "dalle3/a": 20})
    assert set(totals(plan("--real", "wikiart", "--split", "0.5", path=flat.name))) == {"wikiart_stylegan", "dalle3"}


@pytest.mark.parametrize("is_packed", [False, True])
def test_wildfake(plan: Plan, tmp_path: Path, is_packed: bool) -> None:
    folder = write_tree(
        tmp_path / "in/GAN_based", {f"Typical/{g}": 9 for g in ("BigGAN/574", "BigGAN/575", "StyleGAN/1")}
    )
    real = write_tree(tmp_path / "real", {".": 30}, "jpg")
    if is_packed:
        pack(folder, tmp_path / "in/GAN_based.zip", "GAN_based")
    options = ("--real", str(real), "--split", "0.5")
    assert "which are the generators? Say what each level of folders is" in plan(*options)
    found = totals(plan(*options, "--levels", "*/*/generator/subject"))
    assert {name: n["1_fake"] for name, n in found.items()} == {"biggan": 18, "stylegan": 9}
    assert sum(n["0_real"] for n in found.values()) == 30


def test_truefake_with_classes_first(plan: Plan, tmp_path: Path) -> None:
    for share in ("PreSocial", "Facebook"):
        folders = {"Fake/StyleGAN3/conf-a": 20, "Fake/FLUX.1": 20, "Real/FFHQ": 20, "Real/FORLAB": 20}
        write_tree(tmp_path / "in" / share, folders)
    found = totals(plan("--split", "0.5", path="in/PreSocial"))
    assert {name: n["1_fake"] for name, n in found.items()} == {"flux-1": 20, "stylegan3": 20}
    assert sum(n["0_real"] for n in found.values()) == 40
    assert "which are the generators?" in plan("--split", "0.5")
    both_shares = totals(plan("--split", "0.5", "--levels", "subject/class/generator"))
    assert {name: n["1_fake"] for name, n in both_shares.items()} == {"flux-1": 40, "stylegan3": 40}


def test_truefakes_own_split_names_files_without_their_share_and_ending(plan: Plan, tmp_path: Path) -> None:
    folders = ("Fake/StyleGAN2/conf-f-psi-1", "Fake/FLUX.1/faces", "Real/FFHQ", "Real/FORLAB")
    for share, kind in (("PreSocial", "png"), ("Facebook", "jpg")):
        write_tree(tmp_path / "in" / share, dict.fromkeys(folders, 21), kind)
    parts = {"train": range(9), "val": range(9, 12), "test": range(12, 18)}
    names = [folder.partition("/")[2] for folder in folders]
    told = {split: [f"{name}/{n:03d}" for name in names for n in numbers] for split, numbers in parts.items()}
    (tmp_path / "split.json").write_text(json.dumps(told))
    lists = ("--split-list", str(tmp_path / "split.json"))
    record = plan(*lists, path="in/PreSocial")
    found = counts(record)
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == dict.fromkeys(
        ("flux-1", "stylegan2"), (12, 6)
    )
    assert sum(n["train/0_real"] for n in found.values()) == 24
    assert any("12 images are in no list and left out" in said for said in record["told"])
    found = counts(plan(*lists, "--levels", "subject/class/generator"))
    assert {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()} == dict.fromkeys(
        ("flux-1", "stylegan2"), (24, 12)
    )
    (tmp_path / "split.json").write_text(json.dumps(told | {"train": told["test"]}))
    assert "is listed for test, and for train" in plan(*lists, path="in/PreSocial")
    (tmp_path / "split.json").write_text(json.dumps({"train": ["elsewhere/1"]}))
    assert "names no image of the data set: it has such as elsewhere/1" in plan(*lists, path="in/PreSocial")
    (tmp_path / "split.json").write_text("[]")
    assert "expected a list of paths for each of train, val and test" in plan(*lists, path="in/PreSocial")


def test_osmas_own_lists_name_files_from_a_folder_above(plan: Plan, tmp_path: Path) -> None:
    osma = tmp_path / "dataset/OSMA"
    write_tree(osma, {"fake/ProGAN/bus": 6, "fake/ProGAN/cat": 6, "fake/SNGAN/celeba": 6, "real/lsun/bus": 96})
    everything = plan("--split", "0.5", path="dataset/OSMA")
    assert totals(everything)["progan"]["1_fake"] == 12
    lists = []
    for split, numbers in (("train", range(3)), ("val", range(3, 4)), ("test", range(4, 5))):
        path = tmp_path / f"dataset/split1_{split}/annotations/split1_{split}.txt"
        path.parent.mkdir(parents=True)
        places = {
            "fake/ProGAN/bus": (14, 1),
            "fake/ProGAN/cat": (7, 1),
            "fake/SNGAN/celeba": (5, 1),
            "real/lsun/bus": (0, 16),
        }
        lines = [
            f"./dataset/OSMA/{place}/{n:03d}.png\t{label}"
            for place, (label, times) in places.items()
            for n in (m + 6 * t for m in numbers for t in range(times))
        ]
        path.write_text("\n".join(lines))
        lists += ["--split-list", str(path)]
    found = counts(plan(*lists, path="dataset/OSMA"))
    fakes = {name: (n["train/1_fake"], n["val/1_fake"]) for name, n in found.items()}
    assert fakes == {"progan": (8, 2), "sngan": (4, 1)}
    (osma / ".kept").mkdir()
    for number, image_path in enumerate(sorted(osma.glob("*/*/*/*.png"))):
        image_path.symlink_to(image_path.rename(osma / f".kept/{number}"))
    assert counts(plan(*lists, path="dataset/OSMA")) == found, "links go by their own names"
    assert sum(n["train/0_real"] for n in found.values()) == 64
    (tmp_path / "some.txt").write_text("x.png")
    assert "its name tells no split" in plan("--split-list", str(tmp_path / "some.txt"), path="dataset/OSMA")


def test_cifake_and_the_local_form_of_community_forensics(plan: Plan, tmp_path: Path) -> None:
    write_tree(tmp_path / "CIFAKE", {f"{split}/{kind}": 3 for split in ("train", "test") for kind in ("REAL", "FAKE")})
    assert counts(plan(path="CIFAKE")) == {"cifake": both(3, 3)}
    assert counts(plan("--task", "sd14", path="CIFAKE")) == {"sd14": both(3, 3)}
    write_tree(tmp_path / "in", {f"{name}/{kind}": 9 for name in ("kandinsky", "pixart") for kind in ("real", "fake")})
    expected = {"kandinsky": {"0_real": 9, "1_fake": 9}, "pixart": {"0_real": 9, "1_fake": 9}}
    assert totals(plan("--split", "0.5")) == expected
    assert set(counts(plan("--split", "0.5", "--generators", "pixart=pixart-alpha"))) == {"pixart-alpha"}


def test_what_cannot_be_told_is_asked_for(plan: Plan, tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"some": 40, "others/of/them": 44})
    said = plan()
    assert "is called real or synthetic: others/of/them, some" in said
    assert all(option in said for option in ("--real NAME", "--real DIR", "--real none", "--levels"))
    assert "is called real or synthetic: the folder itself. Which" in plan(path="in/some")
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "train.7z").write_bytes(b"")
    assert "unpack them first" in plan(path="zips")


def test_two_images_under_one_name_and_two_tasks_under_one_name_are_refused(plan: Plan, tmp_path: Path) -> None:
    for kind in ("images", "recons"):
        write_tree(tmp_path / "in" / kind, {"train/real": 2, "train/adm": 2, "test/real": 2, "test/adm": 2})
    record = plan("--levels", "*/split/generator", "--real", "real")
    assert "layout" in record["error"]
    [finding] = [f for f in record["report"]["findings"] if f["kind"] == "layout"]
    assert (
        "would land under a name that another has: images/test/adm/000.png and recons/test/adm/000.png"
        in finding["message"]
    )
    write_tree(tmp_path / "alike", {f"{name}/{kind}": 2 for name in ("SD 1.5", "sd-1-5") for kind in ("real", "fake")})
    assert "SD 1.5, sd-1-5 would all be called 'sd-1-5'. Name them: --generators" in plan(
        "--split", "0.5", path="alike"
    )


def test_a_limit_is_drawn_by_content_from_each_class_of_each_split(plan: Plan, tmp_path: Path) -> None:
    write_tree(tmp_path / "in", {"adm/train/ai": 9, "adm/train/nature": 9, "adm/val/ai": 9, "adm/val/nature": 3})
    first = plan("--limit", "4")
    assert counts(first) == {"adm": both(4, 3, (4, 4))}
    (tmp_path / "in/adm/val/ai").rename(tmp_path / "in/adm/val/kept")
    write_tree(tmp_path / "in/adm/val/ai", {})
    (tmp_path / "in/adm/val/kept").rename(tmp_path / "in/adm/val/ai")
    assert plan("--limit", "4")["digest"] == first["digest"]
