"""False positives: real photographs that no task brought, and what a version's verdicts say of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorax.data.reals import Reals
from lorax.learning.assessment import Assessment, assess, kept_assessment
from lorax.learning.folder import EpisodeFolder
from lorax.learning.state import open_network
from lorax.learning.state_files import load_state
from lorax.learning.unknown import SLICES
from lorax.params import Params, RealsParams, RobustnessParams
from lorax.stream import Sample
from lorax.verdicts.predictor import REAL, Predictor
from tests.learning.conftest import Learn, Stream, opened

PHOTOGRAPHS = 30


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photographs of the network's size by md5, with stripes as the tasks' synthetic ones have, fainter."""
    folder, found = tmp_path_factory.mktemp("photographs"), {}
    for number in range(PHOTOGRAPHS):
        pixels = np.random.default_rng(100 + number).integers(60, 196, (16, 16, 3), dtype=np.uint8)
        pixels[:, :: 2 + number % 5] //= 2 + number % 3
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        found[hashlib.md5(path.read_bytes()).hexdigest()] = path
    return found


@pytest.fixture(scope="module")
def asked(params: Params) -> Params:
    return params.model_copy(
        update={"robustness": RobustnessParams(per_class=0), "reals": RealsParams(path="photographs", images=25)}
    )


def reals(files: Mapping[str, Path], also: Iterable[Sample] = ()) -> Reals:
    own = tuple(Sample(f"photographs/{path.name}", md5, "", 0) for md5, path in files.items())
    return Reals("photographs", "digest.dir", (*own, *(replace(sample, task="") for sample in also)))


@pytest.fixture(scope="module")
def folder(learn: Learn, learned: list[EpisodeFolder], tmp_path_factory: pytest.TempPathFactory) -> EpisodeFolder:
    return learn(tmp_path_factory.mktemp("assessed"), learned[0].state_dir, 1)


@pytest.fixture(scope="module")
def found(
    folder: EpisodeFolder, learned: list[EpisodeFolder], stream: Stream, asked: Params, files: dict[str, Path]
) -> Assessment:
    episode = opened(stream, asked, folder.root.parent, learned[0].state_dir, 1)
    episode.fetch = lambda samples: {s.md5: (files | stream.paths)[s.md5] for s in samples}
    return assess(episode, reals(files, also=stream.tasks[0].train[:4]))


def test_what_is_counted_is_what_the_predictor_says(
    found: Assessment, folder: EpisodeFolder, files: dict[str, Path]
) -> None:
    predictor = Predictor(open_network(state := load_state(folder.state_dir), "cpu"), state)
    assert state.calibration is not None
    chosen = [files[md5] for md5 in sorted(files)[:25]]
    for change in SLICES:
        pixels = [change.apply(np.asarray(Image.open(path))) for path in chosen]
        verdicts = [verdict.verdict for verdict in predictor.judge(pixels, [str(path) for path in chosen])]
        undecided = sum(verdict.startswith("undecided") for verdict in verdicts)
        counted = found.false_positives.of(change.name)
        assert counted.synthetic == len(verdicts) - undecided - verdicts.count(REAL)
        assert (counted.undecided, counted.unknown) == (undecided, verdicts.count("synthetic:unknown"))
    assert len({(one.synthetic, one.undecided) for one in found.false_positives.slices}) > 1  # the slices differ


def test_images_that_a_task_brought_are_left_out_and_no_more_are_looked_at_than_asked(found: Assessment) -> None:
    told = found.false_positives
    assert (told.folder, told.digest, told.asked, told.brought) == ("photographs", "digest.dir", 25, 4)
    assert [(one.perturbation, one.images) for one in told.slices] == [(change.name, 25) for change in SLICES]
    assert told.worst.share == max(one.share for one in told.slices)


def test_other_photographs_are_looked_at_anew(
    found: Assessment,
    folder: EpisodeFolder,
    learned: list[EpisodeFolder],
    stream: Stream,
    asked: Params,
    files: dict[str, Path],
) -> None:
    own = reals(files)
    assert Assessment.read(folder.assessment_path) == kept_assessment(folder, own) == found
    assert kept_assessment(folder, replace(own, digest="other.dir")) is None
    assert kept_assessment(folder) is None
    more = asked.model_copy(update={"reals": RealsParams(path="photographs", images=26)})
    assert opened(stream, more, folder.root.parent, learned[0].state_dir, 1).folder == folder
    assert kept_assessment(folder, own) is None


def test_an_assessment_from_before_there_were_photographs_is_read(found: Assessment, folder: EpisodeFolder) -> None:
    text = folder.assessment_path.read_text()
    start = text.index('"false_positives"')
    old = EpisodeFolder(folder.root / "old")
    old.root.mkdir()
    old.assessment_path.write_text(text[:start] + text[text.index('"foreseen"') :])
    assert Assessment.read(old.assessment_path) == replace(found, false_positives=None)
