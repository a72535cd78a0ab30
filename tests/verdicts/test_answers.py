from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lorax.params import HeadParams
from lorax.stream import ClassTable
from lorax.verdicts.answers import evidence_of
from lorax.verdicts.predictor import UNDECIDED, UNKNOWN, Judged, Predictor, Verdict, decide
from tests.tiny_learner import Learned, calibrated, learn_stream, tiny_params


@pytest.fixture(scope="module", params=["calibrated", "not calibrated", "clean", "jpeg"])
def predictor(request: pytest.FixtureRequest, learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    if request.param in ("clean", "jpeg"):
        folder = tmp_path_factory.mktemp("ridge")
        head = HeadParams(solver="ridge", penalty=1e4, perturbations=("jpeg",))
        params = tiny_params(folder).model_copy(update={"head": head})
        reader = Predictor.open(learn_stream(folder, params, ["alpha", "beta"])[-1].state_dir, "cpu")
        assert reader.network.texture_head
        reader.network.texture_head.kind_bias[request.param == "jpeg"] += 1e6  # whatever an image looks like
        return reader
    found = Predictor.open(calibrated(learned.state_dir, tmp_path_factory.mktemp("states") / "calibrated"), "cpu")
    is_calibrated = request.param == "calibrated"
    return found if is_calibrated else Predictor(found.network, replace(found.state, calibration=None))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = tmp_path_factory.mktemp("learned")
    return learn_stream(folder, tiny_params(folder), ["alpha", "beta"])[-1]


@pytest.fixture(scope="module")
def judged(predictor: Predictor) -> list[Judged]:
    """As if none were strange: what is to be explained then is the verdict's own answer."""
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16, 3), dtype=np.uint8)
    seen = predictor.look(list(images), [str(i) for i in range(20)])
    return [replace(each, verdict=_taken_for_known(each.verdict, predictor)) for each in seen]


def _taken_for_known(verdict: Verdict, predictor: Predictor) -> Verdict:
    return decide(verdict.source, torch.tensor(list(verdict.probabilities.values())).double(), predictor.classes)


def test_the_evidence_and_the_rest_add_up_to_the_log_odds_of_the_verdict(
    predictor: Predictor, judged: list[Judged]
) -> None:
    for each in judged:
        found = evidence_of(predictor, each)
        p = each.verdict.probability
        assert found.answer == (each.verdict.generator or "real")
        assert found.log_odds == pytest.approx(math.log(p / (1 - p)), rel=1e-4, abs=1e-4)
        assert sum(found.branches.values()) + (found.texture or 0) + found.rest == pytest.approx(found.log_odds)
        assert (found.texture is None) == (predictor.network.texture_head is None)
        assert found.perturbation in (("clean", "jpeg") if predictor.network.texture_head else (None,))
        assert any(found.branches.values()) == (found.perturbation != "jpeg")
        assert list(found.branches) == ["alpha", "beta"]


def test_an_unknown_generator_is_explained_as_synthetic_an_undecided_image_by_its_likeliest_answer(
    predictor: Predictor, judged: list[Judged]
) -> None:
    for each in judged:
        unknown = replace(each, verdict=replace(each.verdict, verdict=UNKNOWN, generator=None))
        odds = (1 - each.verdict.real) / each.verdict.real
        assert evidence_of(predictor, unknown).answer == "synthetic"
        assert evidence_of(predictor, unknown).log_odds == pytest.approx(math.log(odds), rel=1e-4, abs=1e-4)
        several = replace(each.verdict, verdict="synthetic", generator=None, one_of=("alpha", "beta"))
        assert evidence_of(predictor, replace(each, verdict=several)).answer == "one of alpha, beta"
        undecided = replace(each, verdict=replace(each.verdict, verdict=UNDECIDED, generator=None))
        assert evidence_of(predictor, undecided) == evidence_of(predictor, each)


def test_a_generator_that_is_called_unknown_is_explained_by_its_name(
    predictor: Predictor, judged: list[Judged]
) -> None:
    entries = [
        replace(e, task="unknown", name="unknown") if e.label == "beta" else e for e in predictor.classes.entries
    ]
    old = Predictor(predictor.network, replace(predictor.state, classes=ClassTable(tuple(entries))))
    probabilities = {e.label: 0.97 if e.label == "unknown" else 0.01 for e in entries}
    verdict = replace(judged[0].verdict, verdict=UNKNOWN, generator="unknown", probabilities=probabilities)
    assert evidence_of(old, replace(judged[0], verdict=verdict)).answer == "unknown"


def test_a_branch_that_the_head_does_not_listen_to_is_no_evidence(predictor: Predictor, judged: list[Judged]) -> None:
    deaf = torch.nn.Linear(*reversed(predictor.network.head.weight.shape))
    deaf.load_state_dict(predictor.network.head.state_dict())
    deaf.weight.data[:, 4:] = 0  # the second branch's four features
    features = judged[0].features
    network = type("Deaf", (), {"head": deaf, "texture_head": None, "branches": 2})
    found = evidence_of(Predictor(network, predictor.state), replace(judged[0], features=features))  # type: ignore[arg-type]
    assert found.branches["beta"] == 0
    assert found.branches["alpha"] != 0
