from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.data.perturbations import CARD
from lorax.errors import LayoutError
from lorax.learning.assessment import (
    ALL,
    Assessment,
    assess,
    calibration_error,
    kept_assessment,
    reliability,
    sample_of,
    sampling_floor,
)
from lorax.learning.folder import EpisodeFolder
from lorax.learning.state_files import load_state, save_state
from lorax.params import Params, RobustnessParams
from lorax.registry.assessment_log import assessment_metrics
from lorax.stream import check_task_name
from tests.learning.conftest import Learn, opened, plan_of


@pytest.fixture(scope="module")
def last_but_one(learn: Learn, learned: list[EpisodeFolder], tmp_path_factory) -> EpisodeFolder:
    """The episode of the second task, in a folder of its own."""
    return learn(tmp_path_factory.mktemp("assessed"), learned[0].state_dir, 1)


@pytest.fixture(scope="module")
def assessed(last_but_one: EpisodeFolder, learned: list[EpisodeFolder], stream, params: Params) -> Assessment:
    return assess(opened(stream, showing(params, 3), last_but_one.root.parent, learned[0].state_dir, 1))


def showing(params: Params, per_class: int) -> Params:
    """Parameters that have the robustness card ask for so many images of each class."""
    return params.model_copy(update={"robustness": RobustnessParams(per_class=per_class)})


def test_the_card_has_a_row_for_each_perturbation_and_task(assessed: Assessment) -> None:
    names = [(row.perturbation, row.task, row.images) for row in assessed.card]
    tasks = (("stripes", 6), ("bars", 6), (ALL, 12))
    assert names == [(change.name, task, images) for change in CARD for task, images in tasks]
    assert assessed.row("png").accuracy == assessed.row("clean").accuracy  # nothing is lost by PNG
    assert assessed.row("png", "bars").unknown == assessed.row("clean", "bars").unknown


def test_robustness_is_the_mean_accuracy_as_a_share_of_the_clean_one(assessed: Assessment) -> None:
    changed = [row.accuracy for row in assessed.card if row.task == ALL and row.perturbation != "clean"]
    clean = assessed.row("clean").accuracy
    assert assessed.robustness == pytest.approx(sum(changed) / len(changed) / clean)


def test_a_task_of_any_name_leaves_robustness_as_it_is(assessed: Assessment) -> None:
    def renamed(name: str) -> Assessment:
        return replace(assessed, card=[replace(r, task=name) if r.task == "bars" else r for r in assessed.card])

    assert len(renamed("all").overall) == len(CARD)
    assert renamed("all").robustness == assessed.robustness
    assert assessment_metrics(renamed("all")) == assessment_metrics(assessed)
    with pytest.raises(LayoutError):
        check_task_name(ALL)


def test_reliability_is_told_clean_and_under_jpeg(assessed: Assessment) -> None:
    clean, recompressed = assessed.reliability
    assert (clean.perturbation, clean.images) == ("clean", 24)
    assert (recompressed.perturbation, recompressed.images) == ("jpeg-75", 12)
    assert sum(b.images for b in clean.bins) == 24
    assert None not in (clean.loss_after, clean.error_after)


def test_the_version_before_is_asked_about_the_new_generator(
    assessed: Assessment, last_but_one: EpisodeFolder, learned: list[EpisodeFolder]
) -> None:
    found, base = assessed.foreseen, load_state(learned[0].state_dir)
    assert found is not None
    assert 0 <= found.auroc <= 1
    assert found.stated_false_alarms == base.calibration.false_alarms


def test_the_first_task_was_foreseen_by_nobody(stream, params: Params, learn: Learn, tmp_path: Path) -> None:
    learn(tmp_path, None, 0)
    found = assess(opened(stream, showing(params, 0), tmp_path, None, 0))
    assert (found.foreseen, found.card, found.robustness) == (None, [], None)


def test_an_assessment_is_kept_and_read_again(assessed: Assessment, last_but_one: EpisodeFolder) -> None:
    assert Assessment.read(last_but_one.assessment_path) == assessed


def test_assessing_again_asks_nothing(
    assessed: Assessment, last_but_one: EpisodeFolder, stream, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lorax.learning.episode.open_network", pytest.fail)
    assert assess(stream.open(last_but_one)) == assessed


@pytest.mark.parametrize("drop", ["per_class", "reliability", "everything", "the end", "all"])
def test_an_assessment_that_can_t_be_understood_is_measured_anew(
    assessed: Assessment, last_but_one: EpisodeFolder, params: Params, tmp_path: Path, drop: str
) -> None:
    folder = EpisodeFolder(tmp_path)
    whole = last_but_one.assessment_path.read_text()
    shutil.copy(last_but_one.plan_path, folder.plan_path)
    folder.assessment_path.write_text(whole)
    assert kept_assessment(folder) == assessed
    record = {key: value for key, value in json.loads(whole).items() if key != drop}
    damaged = {"everything": "[]", "the end": whole[:-9], "all": whole.replace(f'"{ALL}"', '"all"')}
    folder.assessment_path.write_text(damaged.get(drop) or json.dumps(record))
    assert kept_assessment(folder) is None


def test_another_card_is_measured_anew(stream, params: Params, learn: Learn, tmp_path: Path) -> None:
    learn(tmp_path, None, 0)
    for per_class in (0, 2):
        found = assess(opened(stream, showing(params, per_class), tmp_path, None, 0))
        assert (found.robustness is None) == (per_class == 0)


def test_the_cards_sample_is_always_the_same_images_of_each_class(stream) -> None:
    task = stream.tasks[0]
    chosen = sample_of(task, 2)
    assert [sample.class_index for sample in chosen] == [0, 0, 1, 1]
    assert chosen == [s for s in sample_of(task, 4) if s in chosen]


def test_an_uncalibrated_version_is_assessed_as_far_as_it_goes(
    last_but_one: EpisodeFolder, stream, params: Params, tmp_path: Path
) -> None:
    base = Path(last_but_one.plan().base_dir)
    folder = EpisodeFolder.open(tmp_path, plan_of(base, stream.tasks[1], showing(params, 1)))
    shutil.copy(last_but_one.report_path, folder.report_path)
    save_state(replace(load_state(last_but_one.state_dir), calibration=None), folder.state_dir)
    found = assess(stream.open(folder))
    assert not found.calibrated
    assert {row.unknown for row in found.card} == {None}
    assert found.reliability[0].error_after is None
    assert torch.isfinite(torch.tensor(found.reliability[0].error_before))


def test_the_calibration_error_by_hand() -> None:
    confident = torch.tensor([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, dtype=torch.double)
    right = torch.tensor([0] * 8 + [1] * 2 + [0] * 6 + [1] * 4)  # 0.9 is right in 8 of 10, 0.6 in 6 of 10
    bins = reliability(confident, right)
    assert sum(b.images for b in bins) == 20
    coarse = reliability(confident.repeat(100, 1), right.repeat(100))  # each bin holds one confidence only
    assert calibration_error(coarse) == pytest.approx(0.1 / 2)


def test_calibrated_answers_show_an_error_about_their_floor_and_overconfident_ones_more() -> None:
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(2000, generator=generator, dtype=torch.double) / 2 + 0.5
    answers = torch.stack([confidence, 1 - confidence], dim=1)
    right = (torch.rand(2000, generator=generator, dtype=torch.double) > confidence).long()
    floor = sampling_floor(answers)
    assert 0.5 * floor < calibration_error(reliability(answers, right)) < 1.8 * floor
    sure = torch.tensor([[0.99, 0.01]], dtype=torch.double).repeat(2000, 1)
    assert calibration_error(reliability(sure, right)) > 5 * sampling_floor(sure)


def test_the_floor_falls_with_the_number_of_images() -> None:
    answers = torch.tensor([[0.7, 0.3]], dtype=torch.double)
    assert sampling_floor(answers.repeat(50, 1)) > 2 * sampling_floor(answers.repeat(2000, 1))
