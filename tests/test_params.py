"""params.yaml is a closed schema; its presets and overrides are laid over it in order."""

from __future__ import annotations

import json
import random
from datetime import date
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml

from lorax.data.perturbations import KINDS
from lorax.errors import ParamsError
from lorax.params import HeadParams, Params, load_params

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / "lorax" / "templates" / "params.yaml"


def test_a_file_from_before_a_key_goes_on_as_it_did_and_else_with_a_new_workspaces_values() -> None:
    before = {
        "backbone": {"name": "shipped", "crop": 64},
        "head": {"solver": "gradient", "perturbations": ()},
        "exemplars": {"budget": 250},
        "calibration": {"per_class": 0, "false_positives": 1.0},
    }
    new, old = load_params(TEMPLATE).model_dump(), Params().model_dump()
    assert {name: {**section, **before.get(name, {})} for name, section in new.items()} == old
    assert all(new[name][key] != value for name, section in before.items() for key, value in section.items())


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
    assert paper.head.solver == "gradient"


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
    with pytest.raises(ParamsError, match="no preset 'papers'; it has paper"):
        load_params(TEMPLATE, preset="papers")


@pytest.mark.parametrize("text", ["epochs=2", "training.epochs", "training.epochs 2"])
def test_an_override_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ParamsError, match=r"expected section\.key=value"):
        load_params(TEMPLATE, overrides=[text])


def _values(seed: int) -> list[object]:
    """Values of every wrong kind, and right ones, in an order of the seed's."""
    values: list[object] = [
        *(None, True, "", "x", "1e999", -1, 0, 1, 0.5, 10**30, -(10**30), float("inf"), float("nan"), "\x1b[2J\n"),
        *([], {}, [None], [[]], {"a": {}}, {1: 2}, [10**400], date(2026, 1, 1), b"\xff"),
    ]
    return random.Random(seed).sample(values, len(values))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_stands_in_params_yaml_is_understood_or_refused_in_one_clear_line(tmp_path: Path, seed: int) -> None:
    path, sound = tmp_path / "params.yaml", yaml.safe_load(TEMPLATE.read_text())
    drawn, refused = random.Random(seed), 0
    places = [(section, key) for section in (*sound, "unknown") for key in (None, "unknown", *sound.get(section, ()))]
    for section, key in places:
        value = _values(drawn.randrange(10**9))[0]
        raw = {**sound, section: value} if key is None else {**sound, section: {**sound.get(section, {}), key: value}}
        path.write_text(yaml.safe_dump(raw))
        try:
            params = load_params(path, preset=drawn.choice([None, "paper"]))
        except ParamsError as error:
            refused += 1
            assert str(error).isprintable() and str(path) in str(error), (section, key, value)
        else:
            text = json.dumps(params.learning(), allow_nan=False)  # goes into a learner state
            assert Params.model_validate(json.loads(text)).learning() == params.learning()
    assert refused > len(places) / 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: 16", "lora: Input should be a valid dict"),
        ("presets: {paper: 3}", "expected sections such as"),
        ("presets: [paper]", "no preset 'paper'; it has none"),
        ("training: {epochs: yes}", "training.epochs: Value error, expected a number, found True"),
        ("backbone: {crop: 1000000}", "backbone.crop"),
        ("[" * 5000, "can't be read as YAML"),
        ("a: " + "9" * 5000, "can't be read as YAML"),
        ("a: 2026-99-99", "can't be read as YAML"),
        ("? [a]\n: 1", "can't be read as YAML"),
        ("1: {}", "1: "),
        ("a: &a [*a]", "a: Extra inputs"),
    ],
)
def test_mistyped_files_are_refused_also_with_a_preset(tmp_path: Path, text: str, message: str) -> None:
    path, presets = tmp_path / "params.yaml", "" if "presets" in text else "\npresets: {paper: {lora: {rank: 2}}}"
    path.write_text(text + (presets if text[0] not in "[?&" else ""))
    with pytest.raises(ParamsError) as refusal:
        load_params(path, preset="paper")
    assert message in str(refusal.value)


def test_a_section_whose_keys_are_all_commented_out_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("training:\n  # epochs: 3\n")
    assert load_params(path) == Params()
    with pytest.raises(ParamsError, match=r"has a value that can't be read as YAML"):
        load_params(path, overrides=["lora.rank=[1"])


@pytest.mark.parametrize("old", ["floor", "max_drop", "max_forgetting"])
def test_a_gate_of_before_detection_was_judged_apart_is_told_the_new_keys(tmp_path: Path, old: str) -> None:
    (tmp_path / "params.yaml").write_text(f"gate: {{{old}: 0.5, approval: true}}\n")
    with pytest.raises(ParamsError) as caught:
        load_params(tmp_path / "params.yaml")
    told = str(caught.value)
    assert f" {old}: " in told
    for figure in ("detection", "attribution"):
        assert all(f"{figure}_{limit}" in told for limit in ("floor", "drop", "forgetting"))
    assert told.count(";") == 0, "one error"


def test_every_kind_of_perturbation_can_be_named() -> None:
    kind, _ = get_args(get_type_hints(HeadParams)["perturbations"])
    assert set(get_args(kind)) == set(KINDS)
