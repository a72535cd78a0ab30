from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorax.data.crops import crops_of
from lorax.data.images import decode
from lorax.errors import ImageError, StateError
from lorax.learning.calibration import answers_of
from lorax.learning.relatives import Relatives
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state, save_state
from lorax.learning.student import Student, margins
from lorax.stream import ClassEntry, ClassTable
from lorax.verdicts.predictor import TOO_LITTLE, Predictor, Verdict, check_predicts, decide
from tests.tiny_learner import Learned, calibrated, learn_stream, tiny_params

CLASSES = ClassTable(
    (
        ClassEntry(0, "a", 0, "real"),
        ClassEntry(1, "a", 1, "a"),
        ClassEntry(2, "b", 0, "real"),
        ClassEntry(3, "b", 1, "b"),
        ClassEntry(4, "b", 2, "other"),
    )
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = tmp_path_factory.mktemp("learned")
    return learn_stream(folder, tiny_params(folder), ["alpha", "beta"])[-1]


@pytest.fixture(scope="module")
def predictor(learned: Learned) -> Predictor:
    """Of a version from before there was calibration."""
    found = Predictor.open(learned.state_dir, "cpu")
    return Predictor(found.network, replace(found.state, calibration=None))


@pytest.fixture(scope="module")
def calibrated_predictor(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor.open(calibrated(learned.state_dir, tmp_path_factory.mktemp("states") / "calibrated"), "cpu")


@pytest.fixture
def files(learned: Learned) -> list[Path]:
    return sorted(learned.files.values())


def test_real_classes_compete_as_one() -> None:
    found = decide("x", torch.tensor([0.25, 0.4, 0.25, 0.05, 0.05]), CLASSES)
    assert (found.verdict, found.generator, found.probability) == ("real", None, pytest.approx(0.5))


def test_synthetic_classes_compete_one_by_one() -> None:
    found = decide("x", torch.tensor([0.15, 0.3, 0.2, 0.1, 0.36]), CLASSES)
    assert (found.verdict, found.generator, found.probability) == ("synthetic:b/other", "b/other", pytest.approx(0.36))
    assert list(found.probabilities) == ["a/real", "a", "b/real", "b", "b/other"]


@pytest.mark.parametrize(
    ("row", "ood_score", "expected"),
    [
        ([0.1, 0.7, 0.1, 0.05, 0.05], 1.0, ("synthetic:a", "a", 0.7)),
        ([0.1, 0.7, 0.1, 0.05, 0.05], 1.1, ("synthetic:unknown", None, 0.8)),
        ([0.4, 0.2, 0.2, 0.1, 0.1], 1.1, ("undecided", None, 0.6)),
        ([0.2, 0.4, 0.2, 0.1, 0.1], 1.0, ("undecided", None, 0.4)),
        ([0.25, 0.3, 0.25, 0.1, 0.1], 1.0, ("real", None, 0.5)),
        ([0.25, 0.2, 0.25, 0.1, 0.2], 1.1, ("synthetic:unknown", None, 0.5)),
    ],
)
def test_what_is_ood_is_no_known_class_and_what_is_unlikely_is_left_open(
    row: list[float], ood_score: float, expected: tuple[str, str | None, float]
) -> None:
    settings = {"ood_score": ood_score, "threshold": 1.0, "undecided_below": 0.45}
    found = decide("x", torch.tensor(row, dtype=torch.float64), CLASSES, **settings)
    assert (found.verdict, found.generator, pytest.approx(found.probability)) == expected
    assert found.is_ood == (ood_score > 1)
    assert (found.calibrated, found.real) == (True, pytest.approx(row[0] + row[2]))


PAIR = Relatives(0.1, ((3, 4),), torch.tensor([0.0, 0.0, 0.0, 0.9, 0.9], dtype=torch.double))


@pytest.mark.parametrize(
    ("row", "ood_score", "expected"),
    [
        ([0.02, 0.9, 0.02, 0.03, 0.03], 1.0, ("synthetic:a", "a", (), 0.9)),
        ([0.02, 0.04, 0.02, 0.52, 0.4], 1.0, ("synthetic", None, ("b", "b/other"), 0.92)),
        ([0.02, 0.02, 0.0, 0.9, 0.06], 1.0, ("synthetic:b", "b", (), 0.9)),
        ([0.02, 0.3, 0.02, 0.4, 0.26], 1.0, ("synthetic", None, (), 0.96)),
        ([0.2, 0.0, 0.2, 0.3, 0.3], 1.0, ("synthetic", None, ("b", "b/other"), 0.6)),
        ([0.25, 0.0, 0.25, 0.3, 0.2], 1.0, ("real", None, (), 0.5)),
        ([0.02, 0.04, 0.02, 0.52, 0.4], 1.1, ("synthetic:unknown", None, (), 0.96)),
    ],
)
def test_of_an_image_by_relatives_as_much_is_said_as_is_sure(
    row: list[float], ood_score: float, expected: tuple[str, str | None, tuple[str, ...], float]
) -> None:
    settings = {"ood_score": ood_score, "threshold": 1.0, "undecided_below": 0.45, "relatives": PAIR}
    found = decide("x", torch.tensor(row, dtype=torch.float64), CLASSES, **settings)
    assert (found.verdict, found.generator, found.one_of, pytest.approx(found.probability)) == expected


def test_synthetic_by_no_generator_for_sure_is_undecided_where_that_is_too_unlikely() -> None:
    row = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2], dtype=torch.float64)
    found = decide("x", row, CLASSES, ood_score=0.0, threshold=1.0, undecided_below=0.7, relatives=PAIR)
    assert (found.verdict, found.generator, found.one_of) == ("undecided", None, ())


@pytest.mark.parametrize("calibrated", [False, True])
def test_what_hardly_shows_anything_is_left_undecided(
    predictor: Predictor, calibrated_predictor: Predictor, calibrated: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 3000, 3), dtype=np.uint8)
    grey = np.full((64, 64, 3), 128, np.uint8)
    shown = {
        "one colour": (grey, False),
        "nearly one colour": (grey + (noise[:, :64] > 254), False),
        "a strip": (noise[:1], False),
        "a strip upright": (noise[:1].transpose(1, 0, 2), False),
        "a few pixels": (noise[:15, :15], False),
        "rows alike": (np.repeat(noise[:1, :64], 64, axis=0), False),
        "small": (noise[:16, :16], True),
        "a quarter of it": (np.where(np.indices((64, 64)).max(0)[..., None] < 32, noise[:, :64], grey), True),
    }  # fmt: skip
    judge = calibrated_predictor if calibrated else predictor
    found = judge.judge([image for image, _ in shown.values()], list(shown))
    assert {v.source: v.verdict != TOO_LITTLE for v in found} == {name: tells for name, (_, tells) in shown.items()}
    for verdict in found:
        if verdict.verdict == TOO_LITTLE:
            assert verdict.generator is None
            assert not verdict.is_ood
            assert verdict.probability >= max(verdict.real, *(p for p in verdict.probabilities.values()))


def test_probabilities_sum_to_one_and_the_verdict_is_theirs(predictor: Predictor, files: list[Path]) -> None:
    verdicts = predictor.predict(files[:5])
    assert [v.source for v in verdicts] == [str(path) for path in files[:5]]
    for verdict in verdicts:
        assert sum(verdict.probabilities.values()) == pytest.approx(1, abs=1e-6)
        row = torch.tensor(list(verdict.probabilities.values()), dtype=torch.float64)
        assert decide(verdict.source, row, predictor.classes) == verdict
        assert (verdict.calibrated, verdict.strangeness, verdict.threshold, verdict.crops) == (False, None, None, 1)


def test_the_batch_size_changes_no_verdict(predictor: Predictor, files: list[Path]) -> None:
    small = Predictor(predictor.network, predictor.state, batch_size=2)
    for one, other in zip(small.predict(files), predictor.predict(files), strict=True):
        assert (one.source, one.verdict, one.generator) == (other.source, other.verdict, other.generator)
        assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_a_calibrated_version_says_what_is_like_nothing_known(calibrated_predictor: Predictor) -> None:
    random = np.random.default_rng(2)
    known = [(random.integers(0, 128, (16, 16, 3)) + 120 * (i % 2)).astype(np.uint8) for i in range(40)]
    odd = [np.array([255, 0, 0]) - random.integers(0, 20, (16, 16, 1)) * np.array([1, 0, 0])] * 2
    odd = [image.astype(np.uint8) for image in odd]
    verdicts = calibrated_predictor.judge([*known, *odd], [""] * 42)
    assert all(v.calibrated and v.threshold == calibrated_predictor.calibration.threshold for v in verdicts)
    assert sum(v.is_ood for v in verdicts[:40]) <= 8  # 5 % are expected
    assert all(v.is_ood and v.verdict in ("synthetic:unknown", "undecided") for v in verdicts[40:])
    plain = Predictor(calibrated_predictor.network, replace(calibrated_predictor.state, calibration=None))
    [other] = plain.judge(odd[:1], [""])
    logits = torch.tensor(list(other.probabilities.values()), dtype=torch.double).log()
    expected = calibrated_predictor.calibration.probabilities(logits[None])[0].tolist()
    assert list(verdicts[40].probabilities.values()) == pytest.approx(expected, abs=1e-6)


def test_the_student_answers_where_it_is_sure_and_all_branches_else(calibrated_predictor: Predictor) -> None:
    network, state = calibrated_predictor.network, calibrated_predictor.state
    assert calibrated_predictor.calibration is not None
    random = np.random.default_rng(3)
    sizes = [(16, 16, 3)] * 30 + [(40, 40, 3)] * 10
    images = [(random.integers(0, 128, size) + 120 * (i % 2)).astype(np.uint8) for i, size in enumerate(sizes)]
    whole = calibrated_predictor.look([crops_of(image, 16) for image in images], [""] * 40)
    textures = torch.stack([each.texture for each in whole])
    student = Student.fit(textures, network.head(torch.stack([each.features for each in whole])))
    told = calibrated_predictor.calibration.probabilities(student.answer(textures, None)[0])
    student = replace(student, ahead=float(margins(answers_of(told, state.classes)).median()))
    state = replace(state, calibration=replace(calibrated_predictor.calibration, student=student))
    found = Predictor(network, state, batch_size=7).look([crops_of(image, 16) for image in images], [""] * 40)
    by = Counter(each.verdict.answered_by for each in found)
    assert min(by["student"], by["branches"]) > 5 and by.total() == 40
    for one, other in zip(found, whole, strict=True):
        assert one.verdict.strangeness == pytest.approx(other.verdict.strangeness, rel=1e-4)
        if one.verdict.answered_by == "branches":
            assert one.features is not None and torch.allclose(one.features, other.features, atol=1e-5)
            expected = list(other.verdict.probabilities.values())
            assert list(one.verdict.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        else:
            assert one.features is None and one.verdict.probability > 0.5
    exact = Predictor(network, state, exact=True).look([crops_of(image, 16) for image in images], [""] * 40)
    assert [each.verdict for each in exact] == [each.verdict for each in whole]


def test_decoded_images_get_the_verdicts_of_their_files(predictor: Predictor, files: list[Path]) -> None:
    pixels = [decode(path) for path in files]
    assert predictor.judge(pixels, [str(path) for path in files]) == predictor.predict(files)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 200, 3), (16, 16, 3), (97, 33, 3)])
def test_an_image_of_any_size_is_judged(predictor: Predictor, shape: tuple[int, int, int]) -> None:
    (verdict,) = predictor.judge([np.zeros(shape, np.uint8)], ["black"])
    assert isinstance(verdict, Verdict)


def test_predicting_a_bad_file_is_an_error(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.png"):
        predictor.predict([tmp_path / "missing.png"])


def test_a_state_that_knows_nothing_yet_can_t_predict(learned: Learned, tmp_path: Path) -> None:
    save_state(LearnerState(load_state(learned.state_dir).backbone), tmp_path / "empty")
    with pytest.raises(StateError, match="knows no task yet"):
        Predictor.open(tmp_path / "empty")


def test_a_learner_whose_answers_are_no_probabilities_is_found_out(learned: Learned, tmp_path: Path) -> None:
    check_predicts(Predictor.open(learned.state_dir, "cpu"))
    state = load_state(learned.state_dir)
    save_state(replace(state, head_bias=state.head_bias * float("nan")), tmp_path / "broken")
    with pytest.raises(StateError, match="does not predict: its probabilities for an image add up to nan"):
        check_predicts(Predictor.open(tmp_path / "broken", "cpu"))
