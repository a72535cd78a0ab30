"""params.yaml is a closed schema; its presets and overrides are laid over it in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lorax.errors import ParamsError
from lorax.params import Params, load_params

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "lorax" / "templates" / "params.yaml"


def test_a_new_workspaces_file_holds_the_defaults() -> None:
    assert load_params(TEMPLATE, overrides=["calibration.per_class=0"]) == Params()
    assert load_params(TEMPLATE).calibration.per_class > 0  # a file from before calibration goes on without


def test_the_repositorys_own_workspace_has_a_new_workspaces_files() -> None:
    for name in ("params.yaml", "dvc.yaml", "prefect.yaml"):
        assert (ROOT / name).read_text() == (TEMPLATE.parent / name).read_text()


def test_the_reproducer_depends_on_all_that_a_scenario_is_a_function_of() -> None:
    stage = yaml.safe_load((TEMPLATE.parent / "dvc.yaml").read_text())["stages"]["scenario"]
    assert set(stage["params"]) == {*Params().learning(), "atlas"}  # by which a branch's start may be chosen


def test_the_paper_preset_is_the_published_one() -> None:
    paper = load_params(TEMPLATE, preset="paper")
    assert (paper.lora.rank, paper.lora.alpha, paper.lora.dropout) == (64, 16.0, 0.1)
    assert all("mlp" not in target for target in paper.lora.targets)
    assert paper.training.views == paper.training.epochs == 50
    assert paper.training.learning_rate_first == pytest.approx(1e-4 * 32 / 512)
    assert paper.training.learning_rate == pytest.approx(5e-4 * 32 / 512)
    assert (paper.training.batch_size, paper.training.drop_last, paper.exemplars.budget) == (32, True, 500)
    assert (paper.training.warmup_epochs, paper.training.warmup_rate, paper.training.minimum_rate) == (5, 1e-4, 1e-5)
    assert paper.backbone.crop == 224


def test_an_override_goes_over_the_preset() -> None:
    params = load_params(TEMPLATE, preset="paper", overrides=["training.epochs=2"])
    assert (params.training.epochs, params.training.batch_size) == (2, 32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epoch: 3}", "training.epoch: Extra inputs"),
        ("training: {epochs: 0}", "training.epochs"),
        ("trainings: {}", "trainings"),
        ("atlas: {probe_images: 4}", "atlas.probe_images"),
        ("registry: {model: team.detector}", "can't register a model called 'team.detector'"),
        ("registry: {model: team/detector}", "can't register a model called 'team/detector'"),
        ('registry: {model: "the team\'s"}', "can't register a model called"),
        ('registry: {model: " "}', "can't register a model called"),
        ('registry: {model: "a\\tb"}', "can't register a model called"),
        ("- 1", "expected sections"),
        ("training: [", "can't be read as YAML"),
    ],
)
def test_what_the_schema_does_not_know_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=message):
        load_params(path)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ParamsError, match=r"no preset 'papers'; it has \['paper', 'robust'\]"):
        load_params(TEMPLATE, preset="papers")


@pytest.mark.parametrize("text", ["epochs=2", "training.epochs", "training.epochs 2"])
def test_an_override_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ParamsError, match=r"expected section\.key=value"):
        load_params(TEMPLATE, overrides=[text])
