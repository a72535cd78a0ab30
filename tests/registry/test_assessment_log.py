"""What MLflow shows of how far a version can be trusted, and of how alike its branches are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorax.errors import StateError
from lorax.learning.assessment import Assessment
from lorax.learning.branch_similarity import NEIGHBOURS, BranchComparison
from lorax.learning.state_files import load_state
from lorax.learning.unknown import Slice
from lorax.registry import ModelVersion, Registry
from lorax.registry.assessment_log import assessment_metrics
from lorax.registry.candidate import open_candidate
from lorax.registry.card import model_card
from lorax.storage import write_record
from tests.mlflow_server import Server
from tests.registry.assessments import ACCURACY, ALONE, DERIVED, FALSE_POSITIVES, FORESEEN, PAIR, assessed
from tests.registry.conftest import OPEN, enter
from tests.registry.test_registry import curves, runs, table_of
from tests.tiny_learner import Learned, calibrated

pytestmark = pytest.mark.slow

BETA = assessed(1, "beta", foreseen=FORESEEN, false_positives=FALSE_POSITIVES)
ROBUSTNESS = (0.9 + 0.57 + 0.8) / 3 / 0.95


@pytest.fixture(scope="module")
def trusted(server: Server, stream: list[Learned]) -> Registry:
    """alpha without an assessment, as before there were any; beta with one. Tests only read it."""
    registry = Registry(server.uri, f"trusted-{stream[0].digest[:8]}")
    register(registry, stream[0], None)
    register(registry, stream[1], BETA)
    return registry


def register(registry: Registry, episode: Learned, assessment: Assessment | None, **gate: Any) -> ModelVersion:
    given = OPEN.model_copy(update=gate)
    return enter(registry, episode, gate=given, assessment=assessment)


def files(registry: Registry, run: Any, into: Path) -> list[str]:
    registry.client.download_artifacts(run.info.run_id, "", str(into))
    return sorted(p.relative_to(into).as_posix() for p in into.rglob("*") if p.is_file())


def test_an_assessment_s_figures_are_metrics() -> None:
    found = assessment_metrics(BETA)
    assert found["calibration_error"] == 0.02
    assert found["calibration_error_before"] == pytest.approx(0.12)
    assert found["calibration_error_floor"] == found["jpeg-75/calibration_error_floor"] == 0.015
    assert (found["log_loss"], found["log_loss_before"], found["jpeg-75/log_loss"]) == (0.4, 0.50004, 0.4)
    assert found["jpeg-75/calibration_error"] == 0.3
    assert {name: value for name, value in found.items() if name.startswith("unknown")} == {
        "unknown_auroc": 0.91,
        "unknown_detection": 0.62,
        "unknown_detection_at_5": 0.55,
        "unknown_false_alarms": 0.17,
    }
    assert found["robustness"] == pytest.approx(ROBUSTNESS)
    assert (found["named/one"], found["named/missed"]) == (0.75, 0.05)
    told = {f"robustness_accuracy/{name}": value for name, value in ACCURACY.items()}
    assert {name: value for name, value in found.items() if name.startswith("robustness_")} == told
    told = {"false_positives/clean": 0.01, "false_positives/jpeg-75": 0.12}
    assert {name: value for name, value in found.items() if name.startswith("false_positives")} == told


def test_what_was_not_measured_is_no_metric() -> None:
    found = assessment_metrics(assessed(0, "alpha", calibrated=False, accuracy={}))
    assert set(found) == {
        f"{under}{name}"
        for name in ("calibration_error_before", "calibration_error_floor", "log_loss_before")
        for under in ("", "jpeg-75/")
    }
    assert assessment_metrics(None) == {}


def test_the_figures_are_on_the_version_its_run_and_the_timeline(trusted: Registry) -> None:
    figures = assessment_metrics(BETA)
    assert figures.items() <= trusted.version(2).metrics.items()
    run = runs(trusted, "episode")[-1]
    assert figures.items() <= run.data.metrics.items()
    (timeline,) = runs(trusted, "timeline")
    found = curves(trusted, timeline)
    assert found["robustness"] == [(1, pytest.approx(ROBUSTNESS))]  # the first version has none
    assert found["unknown_auroc"] == [(1, 0.91)]
    assert run.data.tags["mlflow.parentRunId"] == timeline.info.run_id


def test_the_card_s_rows_are_a_table_of_mlflow_s(trusted: Registry) -> None:
    run = runs(trusted, "episode")[-1]
    table = table_of(trusted, run, "robustness.json")
    assert list(table.columns)[:4] == ["perturbation", "task", "images", "accuracy"]
    row = table[(table.perturbation == "jpeg-75") & (table.task == "beta")].iloc[0]
    assert (row.images, row.accuracy, row.unknown) == (50, pytest.approx(0.56), 0.04)
    assert len(table) == 8
    table = table_of(trusted, run, "calibration.json")
    assert list(table.error_after) == pytest.approx([0.02, 0.3])
    assert set(table.loss_before) == {0.5}  # rounded for the page
    table = table_of(trusted, run, "false_positives.json")
    assert (list(table.perturbation), list(table.share)) == (["clean", "jpeg-75"], pytest.approx([0.01, 0.12]))


def test_the_run_holds_the_assessment_its_figures_and_the_card(trusted: Registry, tmp_path: Path) -> None:
    before, after = runs(trusted, "episode")
    assert "assessment.json" not in files(trusted, before, tmp_path / "before")
    found = files(trusted, after, tmp_path / "after")
    assert {"assessment.json", "model_card.md", "robustness.json", "calibration.json"} <= set(found)
    assert Assessment.read(tmp_path / "after" / "assessment.json") == BETA
    for name in ("reliability", "robustness"):
        assert (tmp_path / "after" / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_the_card_lies_beside_the_model_too(trusted: Registry, server: Server) -> None:
    model_id = trusted.client.get_model_version(trusted.name, "2").source.removeprefix("models:/")
    (card,) = (p for p in (server.folder / "artifacts").rglob("model_card.md") if model_id in p.parts)
    assert card.read_text().startswith(f"# Model card: {trusted.name}, episode 1 (beta)")


def test_the_description_says_how_far_to_trust_it(trusted: Registry) -> None:
    old, new = (trusted.client.get_model_version(trusted.name, n).description for n in ("1", "2"))
    assert "Calibration error 2.0 % (1.5 % by chance alone)" in new
    assert "with AUROC 0.91" in new
    assert "Robustness 80 %" in new
    assert "False positives on other real photographs 1.0 %." in new
    assert "alibrat" not in old


def test_a_version_says_whether_it_is_calibrated(registry: Registry, stream: list[Learned], tmp_path: Path) -> None:
    given = replace(stream[0], state_dir=calibrated(stream[0].state_dir, tmp_path / "state"))
    assert register(registry, given, assessed(0, "alpha")).calibrated
    registry = Registry(registry.uri, f"{registry.name}-uncalibrated")
    assert load_state(stream[0].state_dir).calibration is None
    assert not register(registry, stream[0], assessed(0, "alpha", calibrated=False)).calibrated
    assert "Uncalibrated" in registry.client.get_model_version(registry.name, "1").description
    registry.client.delete_model_version_tag(registry.name, "1", "mlflow.lorax.calibrated")
    assert not registry.version(1).calibrated  # as those are that were registered before there was calibration


def test_an_assessment_of_another_episode_is_refused(registry: Registry, stream: list[Learned]) -> None:
    with pytest.raises(StateError, match="the assessment is of episode 1"):
        register(registry, stream[0], assessed(1, "beta"))
    assert registry.client.get_experiment_by_name(registry.name) is None


def test_a_challenger_that_is_not_robust_enough_is_refused_and_may_be_judged_anew(
    registry: Registry, stream: list[Learned]
) -> None:
    refused = register(registry, stream[0], assessed(0, "alpha"), robustness=0.85)
    assert refused.outcome == "refused"
    assert refused.reason.startswith("robustness 79.6 %, at least 85.0 % is asked for")
    assert registry.champion() is None
    registry.release("alpha", by="ann", reason="good enough")
    assert register(registry, stream[0], assessed(0, "alpha"), robustness=0.75).outcome == "promoted"


def test_a_challenger_that_calls_too_many_real_photographs_synthetic_is_refused(
    registry: Registry, stream: list[Learned]
) -> None:
    told = replace(FALSE_POSITIVES, slices=[Slice("clean", 200, 12, 0, 0)])
    refused = register(registry, stream[0], assessed(0, "alpha", false_positives=told), false_positives=0.02)
    assert refused.outcome == "refused"
    assert "6.0 % are called synthetic, at most 2.0 % are allowed" in refused.reason
    registry.release("alpha", by="ann", reason="better photographs")
    better = assessed(0, "alpha", false_positives=FALSE_POSITIVES)
    assert register(registry, stream[0], better, false_positives=0.02).outcome == "promoted"


def test_what_was_not_measured_until_the_version_was_refused_is_told_everywhere_afterwards(
    registry: Registry, server: Server, stream: list[Learned], tmp_path: Path
) -> None:
    refused = register(registry, stream[0], assessed(0, "alpha", accuracy={}), robustness=0.75)
    assert (refused.outcome, "robustness" in refused.metrics) == ("refused", False)
    registry.release("alpha", by="ann", reason="robustness was not measured")
    version = register(registry, stream[0], assessed(0, "alpha"), robustness=0.75)
    assert (version.outcome, version.version) == ("promoted", 1)
    assert version.metrics["robustness"] == pytest.approx(ROBUSTNESS)
    found = registry.client.get_model_version(registry.name, "1")
    assert "Robustness 80 %" in found.description
    (run,), (timeline,) = runs(registry, "episode"), runs(registry, "timeline")
    for each in (run, timeline):
        assert {key: len(points) for key, points in curves(registry, each).items() if key[:9] != "training/"} == (
            dict.fromkeys((key for key in each.data.metrics if key[:9] != "training/"), 1)
        )
        assert each.data.metrics["robustness"] == pytest.approx(ROBUSTNESS)
    names = files(registry, run, tmp_path)
    assert {"robustness.json", "figures/robustness.png"} <= set(names)
    assert len(table_of(registry, run, "robustness.json")) == 8
    assert Assessment.read(tmp_path / "assessment.json") == assessed(0, "alpha")
    model_id = found.source.removeprefix("models:/")
    (beside,) = (p for p in (server.folder / "artifacts").rglob("model_card.md") if model_id in p.parts)
    card = (tmp_path / "model_card.md").read_text()
    assert beside.read_text() == card
    assert "79.6 %" in card
    assert "Not measured: `robustness" not in card
    assert registry.download_state(1, tmp_path / "states").name == stream[0].digest


def test_a_figure_measured_twice_is_the_newest_on_the_version_and_one_point_of_its_run(
    registry: Registry, stream: list[Learned]
) -> None:
    register(registry, stream[0], assessed(0, "alpha", accuracy={"clean": 1.0, "jpeg-75": 0.5}), robustness=0.75)
    registry.release("alpha", by="ann", reason="so few images")
    version = register(registry, stream[0], assessed(0, "alpha"), robustness=0.75)
    assert version.metrics["robustness"] == pytest.approx(ROBUSTNESS)
    (run,) = runs(registry, "episode")
    assert curves(registry, run)["robustness"] == [(0, 0.5)]
    (timeline,) = runs(registry, "timeline")
    assert curves(registry, timeline)["robustness"] == [(0, pytest.approx(ROBUSTNESS))]


@pytest.fixture(scope="module")
def compared(server: Server, stream: list[Learned], tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """alpha and beta, each with what a comparison left. Tests only read it."""
    registry = Registry(server.uri, f"compared-{stream[0].digest[:8]}")
    for episode, found in zip(stream, (ALONE, PAIR), strict=False):
        register_compared(registry, episode, found, tmp_path_factory.mktemp("atlas"))
    return registry


def register_compared(
    registry: Registry, episode: Learned, found: BranchComparison | None, folder: Path, **gate: float
) -> ModelVersion:
    return enter(
        registry,
        episode,
        gate=OPEN.model_copy(update=gate),
        assessment=assessed(episode.report.episode, episode.report.task),
        atlas_dir=compared_in(folder, found) if found else None,
    )


def compared_in(folder: Path, found: BranchComparison) -> Path:
    write_record(folder / NEIGHBOURS, found)
    (folder / "map.png").write_bytes(b"a picture")
    return folder


def test_the_run_keeps_the_files_below_atlas(compared: Registry) -> None:
    client, run = compared.client, runs(compared, "episode")[1]
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "atlas")}
    assert names == {"atlas/map.png", "atlas/nearest.json", "atlas/neighbours.json"}


def test_a_run_with_nothing_to_compare_has_the_record_and_no_table(compared: Registry) -> None:
    client, run = compared.client, runs(compared, "episode")[0]
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "atlas")}
    assert names == {"atlas/map.png", "atlas/neighbours.json"}


def test_mlflow_finds_the_table_beside_the_others(compared: Registry) -> None:
    run = runs(compared, "episode")[1]
    table = table_of(compared, run, "atlas/nearest.json")
    assert list(table.branch) == ["alpha", "beta"]
    assert list(table.neighbour) == ["beta", "alpha"]
    assert list(table.similarity) == [0.6251, 0.6251]
    assert len(table_of(compared, run, "calibration.json")) == 2


def test_the_similarity_is_a_metric_of_the_run_and_the_timeline(compared: Registry) -> None:
    assert curves(compared, runs(compared, "episode")[1])["nearest_similarity"] == [(1, 0.6251)]
    (timeline,) = runs(compared, "timeline")
    assert curves(compared, timeline)["nearest_similarity"] == [(1, 0.6251)]


def test_the_version_names_the_nearest_where_there_is_one(compared: Registry) -> None:
    assert [version.nearest for version in compared.versions()] == ["", "alpha"]
    assert compared.client.get_model_version(compared.name, "2").tags["mlflow.lorax.nearest"] == "alpha 0.63"


def test_registering_again_makes_no_second_row_or_point(
    registry: Registry, stream: list[Learned], tmp_path: Path
) -> None:
    first = register_compared(registry, stream[0], ALONE, tmp_path)
    before = [(run.data.tags, curves(registry, run)) for run in runs(registry, "episode")]
    assert register_compared(registry, stream[0], ALONE, tmp_path) == first
    assert [(run.data.tags, curves(registry, run)) for run in runs(registry, "episode")] == before


def test_a_refused_version_from_before_tells_its_nearest_when_it_is_registered_again(
    registry: Registry, stream: list[Learned], tmp_path: Path
) -> None:
    register_compared(registry, stream[0], None, tmp_path)
    assert register_compared(registry, stream[1], None, tmp_path, robustness=0.99).nearest == ""
    registry.release("beta", by="ann", reason="good enough")
    told = register_compared(registry, stream[1], PAIR, tmp_path)
    assert (told.version, told.nearest, told.metrics["nearest_similarity"]) == (2, "alpha", 0.6251)
    assert len(table_of(registry, runs(registry, "episode")[1], "atlas/nearest.json")) == 2


def test_a_comparison_of_another_episode_is_refused(stream: list[Learned], tmp_path: Path) -> None:
    with pytest.raises(StateError, match="comparison is of episode 1"):
        open_candidate(stream[0].state_dir, stream[0].report, None, None, compared_in(tmp_path, PAIR))


def test_the_card_lists_the_nearest_known_generators(stream: list[Learned], tmp_path: Path) -> None:
    candidate = open_candidate(stream[1].state_dir, stream[1].report, None, None, compared_in(tmp_path, PAIR))
    lines = model_card("lorax", candidate).splitlines()
    assert lines[lines.index("## Nearest known generators") + 4 :][:3] == [
        "| task | generators | similarity |",
        "|---|---|---|",
        "| alpha | alpha | 0.63 |",
    ]


def test_the_card_says_what_a_branch_started_from_and_lists_no_nearest(stream: list[Learned], tmp_path: Path) -> None:
    candidate = open_candidate(stream[1].state_dir, stream[1].report, None, None, compared_in(tmp_path, DERIVED))
    *older, newest = candidate.state.branches
    candidate = replace(candidate, state=replace(candidate.state, branches=(*older, replace(newest, start="alpha"))))
    card = model_card("lorax", candidate)
    assert "The newest began at the weights of alpha's." in card
    assert "## Nearest known generators" not in card
    assert candidate.nearest_tags == {"mlflow.lorax.start": "alpha"}
