"""Episodes on the shipped residual backbone, of images that are mirrored to its crop; reopened, and in an atlas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lorax.atlas.formats import read_all
from lorax.atlas.index import Atlas
from lorax.atlas.searching import search
from lorax.data.images import Images
from lorax.learning.folder import EpisodeFolder
from lorax.learning.state import open_network
from lorax.learning.state_files import load_state, state_digest
from lorax.network import traces
from lorax.params import Params
from lorax.verdicts.predictor import Predictor
from tests.learning.conftest import Stream, learn_one


@pytest.fixture(scope="module")
def residual(params: Params) -> Params:
    settings = params.model_dump(exclude={"backbone", "lora"})
    return Params.model_validate(settings | {"backbone": {"name": "residual", "crop": 128}, "lora": {"rank": 2}})


@pytest.fixture(scope="module")
def episodes(stream: Stream, residual: Params, tmp_path_factory: pytest.TempPathFactory) -> list[EpisodeFolder]:
    """Two tasks learned one after the other."""
    home = tmp_path_factory.mktemp("residual")
    first = learn_one(stream, residual, home / "0", None, 0)
    return [first, learn_one(stream, residual, home / "1", first.state_dir, 1)]


def test_an_episode_again_without_kept_features_gives_the_same_state(
    episodes: list[EpisodeFolder], stream: Stream, residual: Params, tmp_path: Path
) -> None:
    again = learn_one(stream, residual, tmp_path / "again", episodes[0].state_dir, 1)
    assert state_digest(again.state_dir) == state_digest(episodes[1].state_dir)


def test_its_state_is_reopened_by_identity_and_judges_with_its_texture(
    episodes: list[EpisodeFolder], stream: Stream
) -> None:
    state = load_state(episodes[1].state_dir)
    assert (state.backbone.name, state.backbone.source, state.backbone.crop) == ("lorax_residual", "shipped", 128)
    assert [len(branch.weights) for branch in state.branches] == [12, 12]  # qkv, fc1 and fc2 of two blocks
    predictor = Predictor.open(episodes[1].state_dir, "cpu")
    assert state.calibration is not None and predictor.network.backbone.texture_width == 1051
    verdicts = predictor.predict([stream.paths[s.md5] for s in stream.tasks[1].test])
    assert all(verdict.strangeness is not None and np.isfinite(verdict.strangeness) for verdict in verdicts)


def test_an_image_smaller_than_the_crop_lies_mirrored_around_its_centre(
    episodes: list[EpisodeFolder], stream: Stream
) -> None:
    network = open_network(load_state(episodes[1].state_dir), "cpu")
    samples = stream.tasks[0].test[:3]
    images = Images.load(samples, stream.fetch(samples), network.crop)
    crops = images.batch(np.arange(3), images.center()[:, 0])
    residuals = traces.residuals(crops.float())[:, 2]  # Laplacian: the same mirrored
    top, left = (128 - 20) // 2, (128 - 18) // 2  # of the images' 20 x 18 pixels
    assert torch.equal(residuals[:, top - 5], residuals[:, top + 5])
    assert torch.equal(residuals[:, :, left - 5], residuals[:, :, left + 5])
    assert torch.isfinite(network.features(crops)).all()


def test_an_atlas_takes_its_branches_and_finds_the_nearest(episodes: list[EpisodeFolder], tmp_path: Path) -> None:
    atlas = Atlas.open(tmp_path / "atlas")
    atlas.add(read_all(episodes[1].state_dir))
    assert [(entry.name, entry.kind) for entry in atlas.entries] == [("stripes", "branch"), ("bars", "branch")]
    [nearest] = search(atlas, "bars", 1).neighbours
    assert (nearest.name, nearest.kind) == ("stripes", "branch") and abs(nearest.similarity) < 1
