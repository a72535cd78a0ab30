from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lorax.predictor import UNDECIDED, UNKNOWN, Judged, Predictor
from lorax.reasons import evidence_of
from tests.tiny_learner import learn_stream, tiny_params


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("learned")
    return Predictor.open(learn_stream(folder, tiny_params(folder), ["alpha", "beta"])[-1].state_dir, "cpu")


@pytest.fixture(scope="module")
def judged(predictor: Predictor) -> list[Judged]:
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16, 3), dtype=np.uint8)
    return predictor.look(list(images), [str(i) for i in range(20)])


def test_the_evidence_and_the_rest_add_up_to_the_log_odds_of_the_verdict(
    predictor: Predictor, judged: list[Judged]
) -> None:
    for each in judged:
        found = evidence_of(predictor, each)
        p = each.verdict.probability
        assert found.answer == (each.verdict.generator or "real")
        assert found.log_odds == pytest.approx(math.log(p / (1 - p)), abs=1e-4)
        assert sum(found.branches.values()) + found.rest == pytest.approx(found.log_odds)
        assert list(found.branches) == ["alpha", "beta"]


def test_an_unknown_generator_is_explained_as_synthetic_an_undecided_image_by_its_likeliest_answer(
    predictor: Predictor, judged: list[Judged]
) -> None:
    for each in judged:
        unknown = replace(each, verdict=replace(each.verdict, verdict=UNKNOWN, generator=None))
        odds = (1 - each.verdict.real) / each.verdict.real
        assert evidence_of(predictor, unknown).answer == "synthetic"
        assert evidence_of(predictor, unknown).log_odds == pytest.approx(math.log(odds), abs=1e-4)
        undecided = replace(each, verdict=replace(each.verdict, verdict=UNDECIDED, generator=None))
        assert evidence_of(predictor, undecided) == evidence_of(predictor, each)


def test_a_branch_that_the_head_does_not_listen_to_is_no_evidence(predictor: Predictor, judged: list[Judged]) -> None:
    deaf = torch.nn.Linear(*reversed(predictor.network.head.weight.shape))
    deaf.load_state_dict(predictor.network.head.state_dict())
    deaf.weight.data[:, 4:] = 0  # the second branch's four features
    features = judged[0].features
    network = type("Deaf", (), {"head": deaf, "branches": 2})
    found = evidence_of(Predictor(network, predictor.state), Judged(judged[0].verdict, features))  # type: ignore[arg-type]
    assert found.branches["beta"] == 0
    assert found.branches["alpha"] != 0
