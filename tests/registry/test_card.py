"""The model card says what was measured, and what follows from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lorax.learning.assessment import Assessment
from lorax.registry.candidate import Candidate, open_candidate
from lorax.registry.card import backbone_licence, model_card
from tests.registry.assessments import FALSE_POSITIVES, FORESEEN, assessed
from tests.tiny_learner import Learned, calibrated


@pytest.fixture
def second(stream: list[Learned], tmp_path: Path) -> Candidate:
    state_dir = calibrated(stream[1].state_dir, tmp_path / "calibrated")
    return open_candidate(state_dir, stream[1].report, assessed(1, "beta", foreseen=FORESEEN), "c0ffee")


def card(candidate: Candidate) -> list[str]:
    return model_card("lorax", candidate).splitlines()


def limits(candidate: Candidate) -> str:
    lines = card(candidate)
    return "\n".join(lines[lines.index("## Limits") : lines.index("## Use")])


def with_assessment(candidate: Candidate, assessment: Assessment | None) -> Candidate:
    return replace(candidate, assessment=assessment)


def test_the_card_names_every_class_with_its_memories_and_the_data(second: Candidate) -> None:
    lines, state = card(second), second.state
    exemplars = Counter(e.class_id for e in state.exemplars)
    held_out = Counter(e.class_id for e in state.calibration_memory)
    for e in state.classes.entries:
        kind = "real" if e.is_real else "synthetic"
        assert f"| {e.label} | {e.task} | {kind} | {exemplars[e.id]} | {held_out[e.id]} |" in lines
    for task in state.tasks:
        assert f"| {task.name} | `{task.digest[:12]}` |" in lines
    told = card(replace(second, origins={"alpha": "from https://example.org/a, licence CC0"}))
    assert [line for line in told if line not in lines] == ["- alpha: from https://example.org/a, licence CC0"]
    assert f"| learner state | `{second.digest}` |" in lines
    assert f"| data | data.dvc `{state.revision.digest}` |" in lines
    assert f"| git commit | `{state.revision.commit}` |" in lines


def test_the_card_s_figures_are_the_measured_ones(second: Candidate) -> None:
    lines, rows, binary = card(second), second.state.accuracy, second.report.binary_accuracy
    old = f"| alpha | {100 * rows[1][0]:.1f} % | {100 * rows[0][0]:.1f} % | {100 * binary['alpha']:.1f} % |"
    assert old in lines
    assert "|  | clean | jpeg-75 |" in lines
    assert "| error before calibration | 12.0 % | 40.0 % |" in lines
    assert "| error after calibration | 2.0 % | 30.0 % |" in lines
    assert "| log loss after calibration | 0.400 | 0.400 |" in lines
    assert "| AUROC of strangeness | 0.910 |" in lines
    assert "| false alarms at the version's own threshold | 17.0 % |" in lines
    assert "| false alarms that the threshold was set for | 5.0 % |" in lines
    assert "| jpeg-75 | 57.0 % | 0.990 | 3.0 % | 4.0 % |" in lines
    assert "- jpeg-75: beta 56.0 %" in lines
    assert any("Mean accuracy under the perturbations: 79.6 % of that" in line for line in lines)


def test_its_limits_follow_from_its_figures(second: Candidate) -> None:
    told = limits(second)
    assert "accuracy falls from 95.0 % to jpeg-75 57.0 %, blur-100 80.0 %" in told  # jpeg-95 loses too little
    assert "On jpeg-75 images probabilities are too sure: 75.2 % on average, where 45.2 %" in told
    assert "On clean images" not in told
    assert "of beta's images, before it was learned, 62.0 % were called strange" in told
    assert "17.0 % instead of 5.0 %" in told
    assert "of beta's, before it was learned, 25.0 % did" in told
    assert "Uncalibrated" not in told


def test_what_is_as_it_should_be_is_no_limit(second: Candidate) -> None:
    good = replace(FORESEEN, false_alarms=0.06, new_reals=0.04)
    sturdy = {"clean": 0.9, "jpeg-75": 0.85}
    told = limits(with_assessment(second, assessed(1, "beta", accuracy=sturdy, foreseen=good)))
    assert "took at most 10% of the clean accuracy" in told
    assert "instead of" not in told
    assert "new source" not in told


def test_calibration_that_made_answers_worse_is_a_limit(second: Candidate) -> None:
    given = assessed(1, "beta")
    worse = replace(given.reliability[0], loss_after=0.7)
    told = limits(with_assessment(second, replace(given, reliability=[worse, given.reliability[1]])))
    assert "Calibration did not help on clean images: log loss 0.700, without it 0.500." in told
    assert "not help on jpeg-75" not in told


def test_an_uncalibrated_version_says_so(second: Candidate) -> None:
    bare = replace(second, state=replace(second.state, calibration=None, calibration_memory=()))
    lines = card(with_assessment(bare, assessed(1, "beta", calibrated=False)))
    assert "| verdicts | **uncalibrated** |" in lines
    assert "| error before calibration | 12.0 % | 40.0 % |" in lines
    assert "| error after calibration |  |  |" in lines
    assert any(line.startswith("- **Uncalibrated**: ") for line in lines)
    assert "Not measured: the version is not calibrated." in lines


def test_a_version_that_was_not_assessed_says_so(second: Candidate) -> None:
    told = model_card("lorax", with_assessment(second, None))
    assert "(calibration, unknown generators, robustness) was not measured." in told
    assert "## Calibration" not in told


def test_false_positives_on_other_photographs_are_told_by_slice(second: Candidate) -> None:
    given = with_assessment(second, assessed(1, "beta", false_positives=FALSE_POSITIVES))
    lines = card(given)
    assert "| clean | 2 of 200 | 1.0 % | 0.3 to 3.6 % | 1 | 7 |" in lines
    assert "| jpeg-75 | 24 of 200 | 12.0 % | 8.2 to 17.2 % | 4 | 9 |" in lines
    assert "are called synthetic, too: 12.0 % of those looked at (jpeg-75, the worst slice)." in limits(given)
    assert "Not measured: `reals.path` names no folder of real photographs." in card(second)
    all_brought = replace(FALSE_POSITIVES, slices=[])
    assert "Not measured: tasks brought all of them." in card(
        with_assessment(second, assessed(1, "beta", false_positives=all_brought))
    )


def test_robustness_that_was_not_measured_is_a_limit(second: Candidate) -> None:
    given = with_assessment(second, assessed(1, "beta", accuracy={}))
    assert "Not measured: `robustness.per_class` was 0." in card(given)
    assert "Robustness was not measured" in limits(given)


def test_the_backbone_s_licence_is_told_where_it_is_known(second: Candidate) -> None:
    own = second.state.backbone
    assert backbone_licence(replace(own, source="shipped")) == "MIT, with lorax"
    assert backbone_licence(replace(own, source="hub", name="convit_tiny.fb_in1k")) == "apache-2.0, by timm's word"
    assert backbone_licence(replace(own, source="hub", name="no-such-model")).startswith("not known here: look it up")
    assert backbone_licence(own).startswith("not known here: look it up")
