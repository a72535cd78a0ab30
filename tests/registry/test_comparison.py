"""What MLflow shows of how alike branches are: files, a table, a metric, tags, a section of the card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorax.errors import StateError
from lorax.learning.branch_similarity import NEIGHBOURS, BranchComparison, BranchNeighbours, SimilarBranch
from lorax.registry import ModelVersion, Registry
from lorax.registry.candidate import open_candidate
from lorax.registry.card import model_card
from lorax.storage import write_record
from tests.mlflow_server import Server
from tests.registry.assessments import assessed
from tests.registry.conftest import OPEN, enter
from tests.registry.test_registry import curves, runs, table_of
from tests.tiny_learner import Learned

pytestmark = pytest.mark.slow

ALONE = BranchComparison(0, "alpha", "product", (BranchNeighbours("alpha", "alpha", None),))
PAIR = BranchComparison(
    1,
    "beta",
    "product",
    (
        BranchNeighbours("alpha", "alpha", None, (SimilarBranch("beta", "beta", 0.6251),)),
        BranchNeighbours("beta", "beta", None, (SimilarBranch("alpha", "alpha", 0.6251),)),
    ),
)
DERIVED = replace(PAIR, branches=(PAIR.branches[0], replace(PAIR.branches[1], start="alpha")))


@pytest.fixture(scope="module")
def compared(server: Server, stream: list[Learned], tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """alpha and beta, each with what a comparison left. Tests only read it."""
    registry = Registry(server.uri, f"compared-{stream[0].digest[:8]}")
    for episode, found in zip(stream, (ALONE, PAIR), strict=False):
        register(registry, episode, found, tmp_path_factory.mktemp("atlas"))
    return registry


def register(
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


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write_record(tmp_path / NEIGHBOURS, PAIR)
    assert BranchComparison.read(tmp_path) == PAIR


def test_the_nearest_is_that_of_the_new_branch() -> None:
    assert PAIR.nearest == SimilarBranch("alpha", "alpha", 0.6251)
    assert ALONE.nearest is None


def test_a_branch_that_started_from_another_s_weights_claims_no_nearest() -> None:
    assert DERIVED.nearest is None


def test_a_branch_that_could_not_be_compared_has_no_nearest() -> None:
    assert replace(PAIR, branches=PAIR.branches[:1]).nearest is None


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
    assert compared.client.get_model_version(compared.name, "2").tags["lorax.nearest"] == "alpha 0.63"


def test_registering_again_makes_no_second_row_or_point(
    registry: Registry, stream: list[Learned], tmp_path: Path
) -> None:
    first = register(registry, stream[0], ALONE, tmp_path)
    before = [(run.data.tags, curves(registry, run)) for run in runs(registry, "episode")]
    assert register(registry, stream[0], ALONE, tmp_path) == first
    assert [(run.data.tags, curves(registry, run)) for run in runs(registry, "episode")] == before


def test_a_refused_version_from_before_tells_its_nearest_when_it_is_registered_again(
    registry: Registry, stream: list[Learned], tmp_path: Path
) -> None:
    register(registry, stream[0], None, tmp_path)
    assert register(registry, stream[1], None, tmp_path, robustness=0.99).nearest == ""
    registry.release("beta", by="ann", reason="good enough")
    told = register(registry, stream[1], PAIR, tmp_path)
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
    assert candidate.nearest_tags == {"lorax.start": "alpha"}
