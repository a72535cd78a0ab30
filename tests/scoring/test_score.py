"""Whole collections, judged by one embedded Ray that all tests of this file share."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lorax.data.walk import files_named
from lorax.errors import LayoutError, ScoringError
from lorax.learning.state_files import load_state, state_digest
from lorax.scoring.engine import Engine, engine
from lorax.scoring.output import Asked
from lorax.scoring.places import place_of
from lorax.scoring.run import Outcome, score_all
from lorax.verdicts.answers import answers
from lorax.verdicts.predictor import Predictor
from tests.tiny_learner import calibrated, learn_stream, tiny_params

pytestmark = pytest.mark.slow
BAD = 5
ENDS_S = 30
"""Ray's workers end by themselves once they see that their node has: moments later."""


@pytest.fixture(scope="module")
def ray() -> Iterator[Engine]:
    others = {*psutil.Process().children(recursive=True)}  # of other tests, that go on
    with engine(None, wants_gpu=False) as started:
        yield started
        own = {*psutil.Process().children(recursive=True)} - others
    assert own
    _, left = psutil.wait_procs(own, timeout=ENDS_S)
    assert [process.name() for process in left if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    learned = learn_stream(folder, tiny_params(folder), ["alpha", "beta"])[-1]
    return calibrated(learned.state_dir, folder / "calibrated")


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    """Name -> bytes of twelve images of several sizes, of which one is broken."""
    random, made = np.random.default_rng(0), {}
    for number in range(12):
        side, file = (16, 20, 48)[number % 3], io.BytesIO()
        Image.fromarray(random.integers(0, 256, (side, side + 2, 3), dtype=np.uint8)).save(file, "PNG")
        made[f"{number % 2}/{number:02d}.png"] = file.getvalue()[: 60 if number == BAD else None]
    return dict(sorted(made.items()))


@pytest.fixture(scope="module")
def photos(images: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images as a folder."""
    folder = tmp_path_factory.mktemp("photos")
    for name, data in images.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def scored(ray: Engine, state_dir: Path, source: object, out: Path, **other: Any) -> Outcome:
    state, place = load_state(state_dir), place_of(str(source))
    classes = tuple(entry.label for entry in state.classes.entries)
    progress = other.pop("progress", lambda *_: None)
    asked = replace(Asked(place.source, None, 5, 3, state_digest(state_dir), False, classes), **other)
    connect = lambda: nullcontext(ray)  # noqa: E731
    return score_all(place, out, asked, state_dir, state.revision, device="cpu", connect=connect, progress=progress)


def rows(out: Path) -> list[dict[str, Any]]:
    """As any reader of Parquet folders finds them."""
    return pyarrow.dataset.dataset(out).to_table().to_pylist()


def test_rows_are_what_predict_says_in_order_with_bad_images_in_their_place(
    ray: Engine, state_dir: Path, photos: Path, images: dict[str, bytes], tmp_path: Path
) -> None:
    outcome = scored(ray, state_dir, photos, tmp_path / "out")
    found = rows(tmp_path / "out")
    predictor = Predictor.open(state_dir, "cpu")
    expected = [answer for batch in answers(predictor, files_named([str(photos)])) for answer in batch]
    assert [row["name"] for row in found] == [*images]
    assert [row["md5"] for row in found] == [hashlib.md5(data).hexdigest() for data in images.values()]
    assert [row["sha256"] for row in found] == [hashlib.sha256(data).hexdigest() for data in images.values()]
    for row, answer in zip(found, expected, strict=True):
        assert (row["version"], row["state"], row["data"]["commit"]) == (3, state_digest(state_dir), "c0ffee")
        assert (row["error"] is None, row["verdict"] is None) == ((True, False) if answer.judged else (False, True))
        if answer.judged:
            verdict = answer.judged.verdict
            assert (row["verdict"], row["generator"], row["crops"]) == (
                verdict.verdict,
                verdict.generator,
                verdict.crops,
            )
            assert row["probabilities"] == pytest.approx(dict(verdict.probabilities), abs=1e-6)
            assert (row["strangeness"], row["threshold"]) == pytest.approx((verdict.strangeness, verdict.threshold))
    assert (outcome.images, outcome.bad, outcome.partitions, outcome.skipped) == (12, 1, 3, 0)
    assert sum(outcome.verdicts.values()) == 11


def test_an_unfinished_run_goes_on_where_it_was(ray: Engine, state_dir: Path, photos: Path, tmp_path: Path) -> None:
    whole = scored(ray, state_dir, photos, tmp_path)
    before = rows(tmp_path)
    lost, damaged, kept = sorted(tmp_path.glob("part-*"))
    lost.rename(tmp_path / f".{lost.name}-0a0a0a0a")  # as a kill leaves a draft
    damaged.write_bytes(damaged.read_bytes()[:-20])
    written = kept.stat().st_mtime_ns
    (photos / "0" / "zz-came-later.txt").write_text("no image")
    again = scored(ray, state_dir, photos, tmp_path)
    (photos / "0" / "zz-came-later.txt").unlink()
    assert rows(tmp_path) == before
    assert (again.skipped, again.bad, again.verdicts) == (1, whole.bad, whole.verdicts)
    assert kept.stat().st_mtime_ns == written


def test_a_folder_of_other_verdicts_is_refused(ray: Engine, state_dir: Path, photos: Path, tmp_path: Path) -> None:
    scored(ray, state_dir, photos, tmp_path)
    with pytest.raises(ScoringError, match=r"version 3, not version 4: go on with --version 3, or name another --out"):
        scored(ray, state_dir, photos, tmp_path, version=4, state="e" * 64)
    with pytest.raises(ScoringError, match=r"--partition 5, not 6"):
        scored(ray, state_dir, photos, tmp_path, size=6)
    with pytest.raises(ScoringError, match=r"was begun with .*photos"):
        scored(ray, state_dir, photos / "0", tmp_path)
    with pytest.raises(ScoringError, match="holds other files, such as 0"):
        scored(ray, state_dir, photos, photos)
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        with pytest.raises(ScoringError, match="holds no images"):
            scored(ray, state_dir, tmp_path / "empty", tmp_path / "none")


def test_images_of_parquet_and_tar_files_are_judged_as_files_are(
    ray: Engine, state_dir: Path, photos: Path, images: dict[str, bytes], tmp_path: Path
) -> None:
    scored(ray, state_dir, photos, tmp_path / "files")
    tables, archives = tmp_path / "tables", tmp_path / "tars"
    for number, part in enumerate(np.array_split([*images], 2)):
        tables.mkdir(exist_ok=True)
        column = [{"bytes": images[name], "path": name} for name in part]
        pq.write_table(
            pa.table({"label": [0] * len(part), "image": column}), tables / f"{number}.parquet", row_group_size=4
        )
        archives.mkdir(exist_ok=True)
        with tarfile.open(archives / f"{number}.tar", "w") as archive:
            for name in part:
                for ending, data in ((".png", images[name]), (".cls", b"0")):
                    member = tarfile.TarInfo(name.removesuffix(".png") + ending)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    (tables / "README.md").write_text("about them")
    of_files = rows(tmp_path / "files")
    for source, of, third in (
        (tables, f"file://{tables}", "0.parquet, row 2"),
        (archives, archives, "0.tar, 0/04.png"),
    ):
        out = tmp_path / f"of-{source.name}"
        assert scored(ray, state_dir, of, out).images == 12
        found = rows(out)
        assert found[2]["name"] == third
        for row, file in zip(found, of_files, strict=True):
            assert (row["sha256"], row["verdict"], row["strangeness"]) == (
                file["sha256"],
                file["verdict"],
                pytest.approx(file["strangeness"]),
            )
    (archives / "1.tar").write_bytes((archives / "1.tar").read_bytes()[:700])
    with pytest.raises(LayoutError, match=r"1\.tar is damaged"):
        scored(ray, state_dir, archives, tmp_path / "damaged")


def test_a_process_that_is_killed_loses_nothing(ray: Engine, state_dir: Path, photos: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(done: int, *_: object) -> None:
        if done == 0 or killed:
            return
        workers = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::score")]
        for worker in workers[:1]:  # another takes seconds to import what it needs
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

    outcome = scored(ray, state_dir, photos, tmp_path, size=1, progress=kill)
    assert killed
    assert (outcome.images, len(rows(tmp_path)), len({row["name"] for row in rows(tmp_path)})) == (12, 12, 12)


def test_ray_listens_on_loopback_alone(ray: Engine) -> None:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) > 3
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
