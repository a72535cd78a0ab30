from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lorax.commands.predict import print_verdicts, version_record
from lorax.data.walk import Found, files_named
from lorax.errors import printable
from lorax.learning.relatives import Relatives
from lorax.verdicts.predictor import Predictor
from tests.tiny_learner import Learned, calibrated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calibrated_predictor(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.open(calibrated(learned.state_dir, tmp_path_factory.mktemp("states") / "calibrated"), "cpu")


@pytest.fixture(scope="module")
def predictor(calibrated_predictor: Predictor) -> Predictor:
    """Of a version from before there was calibration."""
    return Predictor(calibrated_predictor.network, replace(calibrated_predictor.state, calibration=None))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images, of which the third is broken and the fifth is large."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, side in enumerate((20, 16, 8, 24, 48)):
        Image.fromarray(random.integers(0, 256, (side, side + 2, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    broken = folder / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    return folder


def told(predictor: Predictor, *names: object, as_json: bool = True, explain: bool = False) -> tuple[str, str, int]:
    """What is printed on stdout and on stderr, and how many files were bad."""
    out, err = (Console(file=io.StringIO(), highlight=False, soft_wrap=True) for _ in range(2))
    version = version_record(predictor, 7, "d" * 64)
    files = files_named([str(name) for name in names])
    bad = print_verdicts(predictor, version, files, out, err, as_json=as_json, explain=explain)
    return out.file.getvalue(), err.file.getvalue(), bad


def lines(predictor: Predictor, *names: object, explain: bool = False) -> list[dict[str, Any]]:
    return [json.loads(line) for line in told(predictor, *names, explain=explain)[0].splitlines()]


def test_each_file_has_its_line_in_order_and_a_bad_one_is_told_in_its_place(predictor: Predictor, photos: Path) -> None:
    out, err, bad = told(predictor, photos, photos / "*.gif", photos / "missing.png")
    found = [json.loads(line) for line in out.splitlines()]
    assert [Path(line["file"]).name for line in found] == [*(f"{n}.png" for n in range(5)), "*.gif", "missing.png"]
    assert [index for index, line in enumerate(found) if "error" in line] == [2, 5, 6]
    assert bad == 3
    *told_bad, summary = err.splitlines()
    assert [line.startswith("lorax: skipped: ") for line in told_bad] == [True] * 3
    assert summary.startswith("lorax: 4 judged (")
    assert summary.endswith(", 3 bad")


def test_a_line_says_what_was_judged_by_which_version_and_how(predictor: Predictor, photos: Path) -> None:
    small, *_, large = lines(predictor, photos)
    [expected] = predictor.predict([photos / "0.png"])
    assert small["verdict"] == expected.verdict
    assert small["probabilities"] == pytest.approx(dict(expected.probabilities))
    assert (small["calibrated"], small["strangeness"], small["threshold"]) == (False, None, None)
    assert (small["crops"], small["width"], small["height"]) == (1, 22, 20)
    assert (small["version"], small["state"]) == (7, "d" * 64)
    assert small["data"] == {"digest": "0" * 32, "commit": "c0ffee"}
    assert (large["crops"], large["width"]) == (5, 50)


def test_a_calibrated_version_s_line_says_how_strange_the_image_is(
    calibrated_predictor: Predictor, photos: Path
) -> None:
    threshold = calibrated_predictor.calibration.threshold
    for line in lines(calibrated_predictor, photos / "0.png", photos / "4.png"):
        assert (line["calibrated"], line["threshold"]) == (True, threshold)
        is_strange = line["strangeness"] > threshold
        assert not is_strange or line["verdict"] in ("synthetic:unknown", "undecided")
    [row, *_] = told(calibrated_predictor, photos / "0.png", as_json=False)[0].splitlines()
    assert f" {threshold:.2f}  {photos}" in row


def test_where_generators_are_confused_a_line_names_all_of_them(calibrated_predictor: Predictor, photos: Path) -> None:
    state = calibrated_predictor.state
    is_real = torch.tensor(state.classes.is_real)
    fitted = replace(
        state.calibration,
        bias=torch.where(is_real, -50.0, 0.0).double(),  # such a small learner may call everything real
        scores=torch.tensor([1e9]),
        relatives=Relatives(0.1, (tuple((~is_real).nonzero().flatten().tolist()),), torch.ones(len(is_real)) - 1e-6),
    )
    confused = Predictor(calibrated_predictor.network, replace(state, calibration=fitted))
    [line] = lines(confused, photos / "0.png", explain=True)
    assert (line["verdict"], line["generator"], line["one_of"]) == ("synthetic", None, ["alpha", "beta"])
    assert line["evidence"]["answer"] == "one of alpha, beta"
    assert told(confused, photos / "0.png", as_json=False)[0].startswith("synthetic: one of alpha, beta  ")


def test_of_a_large_image_the_crops_are_averaged(predictor: Predictor, photos: Path) -> None:
    pixels = np.asarray(Image.open(photos / "4.png"))
    quarters = [pixels[top : top + 16, left : left + 16] for top in (4, 28) for left in (4, 29)]
    alone = predictor.judge([pixels[16:32, 17:33], *quarters], list("cabde"))
    [whole] = predictor.judge([pixels], ["whole"])
    for label, value in whole.probabilities.items():
        assert value == pytest.approx(np.mean([verdict.probabilities[label] for verdict in alone]), abs=1e-6)


def test_the_explanation_is_shown_apart_and_changes_no_number(predictor: Predictor, photos: Path) -> None:
    exif = Image.Exif()
    exif[0x0131] = "An AI generator"
    noted = photos / "noted.png"
    Image.open(photos / "0.png").save(noted, exif=exif)
    files = photos / "0.png", noted
    plain, explained = lines(predictor, *files), lines(predictor, *files, explain=True)
    assert [set(line.pop("evidence")) for line in explained] == [
        {"answer", "log_odds", "branches", "texture", "rest", "perturbation"}
    ] * 2
    assert [line.pop("container")["exif"] for line in explained] == [[], ["Software"]]
    assert explained == plain
    for line in plain:
        assert line["probabilities"] == pytest.approx(plain[0]["probabilities"])
    text = told(predictor, noted, as_json=False, explain=True)[0].splitlines()
    assert text[1].startswith("    evidence for ")
    assert text[2] == "    in the file, not used for the verdict: PNG; EXIF Software"


def test_lines_come_before_the_last_file_is_known(predictor: Predictor, photos: Path) -> None:
    out, err = (Console(file=io.StringIO()) for _ in range(2))
    seen: list[int] = []

    def files() -> Iterator[Found]:
        for _ in range(400):
            seen.append(len(out.file.getvalue().splitlines()))
            yield Found(photos / "1.png")

    print_verdicts(predictor, {}, files(), out, err, as_json=True, explain=False)
    assert seen[-1] >= 400 - 3 * predictor.batch_size - 20  # two batches ahead, and one being judged


def test_names_may_hold_anything(predictor: Predictor, photos: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), "new\nline.png", "\x1b[31mred.png", "-x.png", "日本.png"]
    for name in names:
        (photos / name).write_bytes((photos / "0.png").read_bytes())
    found = lines(predictor, *(photos / name for name in names))
    assert [Path(line["file"]).name for line in found] == names  # json gives back the very name
    text = told(predictor, *(photos / name for name in names), as_json=False)[0]
    assert len(text.splitlines()) == len(names)
    assert "\x1b" not in text
    assert "日本.png" in text
    assert printable("\udce9 \x07") == "\\udce9 \\x07"


def test_the_program_ends_quietly_when_its_reader_leaves(learned: Learned, photos: Path) -> None:
    code = (
        "import itertools, sys; from pathlib import Path; from rich.console import Console; import typer\n"
        "from lorax.commands.predict import print_verdicts; from lorax.data.walk import Found\n"
        "from lorax.verdicts.predictor import Predictor; from lorax.commands.predict import reader_may_leave\n"
        "p, file = Predictor.open(Path(sys.argv[1]), 'cpu'), Found(Path(sys.argv[2]))\n"
        "out, err, sys.argv = Console(), Console(stderr=True), sys.argv[:1]\n"
        "def run():\n"
        "  with reader_may_leave():\n"
        "    print_verdicts(p, {}, itertools.repeat(file), out, err, as_json=True, explain=False)\n"
        "typer.run(run)"
    )
    command = [sys.executable, "-c", code, str(learned.state_dir), str(photos / "0.png")]
    done = subprocess.run(["sh", "-c", '"$@" | head -1; ', "-", *command], capture_output=True, text=True, timeout=120)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
