"""The learner state on disk: whole, checksummed, refused when damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorax.errors import StateError, StorageError
from lorax.learning.folder import EpisodeFolder
from lorax.learning.state_files import load_state, save_state, state_digest

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def state_dir(learned: list[EpisodeFolder], tmp_path: Path) -> Path:
    return Path(shutil.copytree(learned[1].state_dir, tmp_path / "state"))


def test_a_state_saved_again_has_the_same_bytes(state_dir: Path, tmp_path: Path) -> None:
    digest = save_state(load_state(state_dir), tmp_path / "again")
    assert digest == state_digest(state_dir)
    names = sorted(p.relative_to(state_dir) for p in state_dir.rglob("*") if p.is_file())
    assert len(names) == 6 + 2 * 2
    assert all((state_dir / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in names)


def test_saving_an_equal_state_changes_nothing_and_another_is_refused(state_dir: Path) -> None:
    state = load_state(state_dir)
    assert save_state(state, state_dir) == state_digest(state_dir)
    with pytest.raises(StateError, match="another learner state"):
        save_state(replace(state, head_bias=state.head_bias + 1), state_dir)


@pytest.mark.parametrize("name", ["head.safetensors", "exemplars.csv", "branches/01-bars/adapter_model.safetensors"])
def test_a_changed_byte_is_refused(state_dir: Path, name: str) -> None:
    data = bytearray((state_dir / name).read_bytes())
    data[-3] ^= 1
    (state_dir / name).write_bytes(data)
    with pytest.raises(StateError, match=rf"{Path(name).name} is damaged"):
        load_state(state_dir)


def test_a_missing_file_is_refused(state_dir: Path) -> None:
    (state_dir / "calibration.csv").unlink()
    with pytest.raises(StateError, match=r"calibration\.csv can't be read"):
        load_state(state_dir)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', "null"])
def test_a_damaged_record_is_refused(state_dir: Path, text: str) -> None:
    (state_dir / "learner.json").write_text(text)
    with pytest.raises(StateError):
        load_state(state_dir)


def test_an_unknown_format_is_refused_by_name(state_dir: Path) -> None:
    record = json.loads((state_dir / "learner.json").read_text())
    (state_dir / "learner.json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(StateError, match="has format 99; this version of lorax reads"):
        load_state(state_dir)


def test_parts_of_different_states_are_refused(state_dir: Path) -> None:
    record = json.loads((state_dir / "learner.json").read_text())
    (state_dir / "learner.json").write_text(json.dumps(record | {"tasks": record["tasks"][:1]}))
    with pytest.raises(StateError, match="don't belong together"):
        load_state(state_dir)


def test_a_branch_name_cannot_leave_the_directory(state_dir: Path) -> None:
    record = json.loads((state_dir / "learner.json").read_text())
    record["branches"][0]["task"] = "../../etc"
    (state_dir / "learner.json").write_text(json.dumps(record))
    with pytest.raises(StateError, match="not usable"):
        load_state(state_dir)


def _deep(depth: int) -> str:
    return '{"format": 3, "parameters": ' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize(
    "values",
    [
        {"backbone.crop": 10**6},
        {"backbone.crop": "64"},
        {"backbone.crop": None},
        {"backbone.std": [0, 1, 1]},
        {"backbone.mean": [0.5]},
        {"backbone.arguments": []},
        {"branches": {}},
        {"branches": [{"task": "stripes", "seed": -1}] * 2},
        {"branches": [{"task": 7, "seed": 0}] * 2},
        {"classes": [None] * 4},
        {"classes": [{"id": 10**30, "task": "a", "index": 0, "name": "a"}] * 4},
        {"tasks": 3},
        {"accuracy": [["x"], [0, 0]]},
        {"accuracy": [[2.0], [0, 0]]},
        {"data": "root"},
        {"parameters": {"backbone": 3}},
        {"parent": 7},
        {"files": []},
        {"format": [3]},
        {"format": {"a": 1}},
    ],
    ids=str,
)
def test_a_crafted_record_is_one_clear_error(state_dir: Path, values: dict[str, object]) -> None:
    record = json.loads((state_dir / "learner.json").read_text())
    for place, value in values.items():
        *inside, key = place.split(".")
        (record[inside[0]] if inside else record)[key] = value
    (state_dir / "learner.json").write_text(json.dumps(record))
    with pytest.raises(StateError) as refusal:
        load_state(state_dir)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 500


@pytest.mark.parametrize("text", [_deep(100_000), '{"format": 3', "\xff", '{"format": NaN}', '{"format": 1e999}'])
def test_a_record_that_is_no_json_is_one_clear_error(state_dir: Path, text: str) -> None:
    (state_dir / "learner.json").write_text(text)
    with pytest.raises(StateError):
        load_state(state_dir)


ADAPTER = "branches/01-bars/adapter_config.json"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (ADAPTER, '{"r": 0, "lora_alpha": 1, "target_modules": "x"}'),
        (ADAPTER, '{"r": 2, "lora_alpha": "a", "target_modules": "x"}'),
        (ADAPTER, '{"r": 2, "lora_alpha": 1, "target_modules": null}'),
        (ADAPTER, "[" * 100_000),
        ("calibration.json", '{"temperature": 0, "unit": 1, "false_alarms": 0.1, "distance_base": 1}'),
        ("calibration.json", '{"temperature": NaN, "unit": 1, "false_alarms": 0.1, "distance_base": 1}'),
        ("calibration.json", '{"temperature": 1}'),
        ("calibration.json", "[]"),
        ("calibration.csv", "md5,path,class_id,rank\n" + "a" * 200_000 + ",p,0,0\n"),
        ("exemplars.csv", "md5,path,class_id,rank\n../../etc/passwd,p,0,0\n"),
        ("exemplars.csv", f"md5,path,class_id,rank\n{'0' * 32},../../p,0,0\n"),
        ("exemplars.csv", f"md5,path,class_id,rank\n{'0' * 32},p,-1,0\n"),
        ("exemplars.csv", f"md5,path,class_id,rank\n{'0' * 32},p,99,0\n"),
        ("exemplars.csv", f"md5,path,class_id,rank\n{'0' * 32},p,0,{'9' * 5000}\n"),
        ("exemplars.csv", f"md5,path\n{'0' * 32},p\n"),
        ("exemplars.csv", f"md5,path,class_id,rank\n{'0' * 32},p,0,0,more\n"),
    ],
    ids=lambda text: text[:60],
)
def test_a_crafted_file_with_the_right_checksum_is_one_clear_error(state_dir: Path, name: str, text: str) -> None:
    record = json.loads((state_dir / "learner.json").read_text())
    (state_dir / name).write_text(text)
    record["files"][name] = hashlib.sha256(text.encode()).hexdigest()
    (state_dir / "learner.json").write_text(json.dumps(record))
    with pytest.raises(StateError) as refusal:
        load_state(state_dir)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 500


def test_a_full_disk_leaves_nothing_behind(
    learned: list[EpisodeFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = load_state(learned[0].state_dir)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="free space"):
        save_state(state, tmp_path / "states" / "new")
    assert list((tmp_path / "states").iterdir()) == []


@pytest.mark.parametrize("directory", sorted(FIXTURES.glob("state-format-*")), ids=lambda p: p.name)
def test_every_released_format_stays_readable(directory: Path) -> None:
    state = load_state(directory)
    extends = directory.name in ("state-format-6", "state-format-7")
    assert (state.student is None) == (directory.name != "state-format-7")
    assert [t.name for t in state.tasks] == ["stripes", "bars", *(["stripes-2"] if extends else [])]
    assert state.extensions == ({"stripes-2": "stripes"} if extends else {})
    assert state.head_weight.shape == (4, 2 * 16)
    assert torch.isfinite(state.head_weight).all()
    assert len(state.exemplars) == 12
    assert len(state.branches) == 2
    assert (state.calibration is None) == (directory.name == "state-format-1")
    is_older = directory.name in ("state-format-1", "state-format-2")
    kinds = {4: ["clean"]}.get(version := int(directory.name[-1]), ["clean", "jpeg"] if version > 4 else [])
    assert list(state.statistics) == kinds and (state.texture_head is None) == (kinds == [])
    started = [None, None] if extends else [None, "stripes"]
    assert [branch.start for branch in state.branches] == (["", ""] if is_older else started)
    relatives = state.calibration.relatives if state.calibration else None
    has_sets = directory.name not in ("state-format-1", "state-format-2", "state-format-3")
    assert (relatives.groups if relatives else None) == (((1, 3),) if has_sets else None)


@pytest.mark.parametrize("change", [{"groups": [[0, 1]]}, {"groups": [[1, 9]]}, {"error": 0.0}, {"groups": [["1"]]}])
def test_relatives_that_are_no_generators_of_the_state_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    directory = tmp_path / "state"
    shutil.copytree(FIXTURES / "state-format-4", directory)
    found = json.loads((directory / "calibration.json").read_text())
    text = json.dumps({**found, "relatives": found["relatives"] | change})
    (directory / "calibration.json").write_text(text)
    learner = json.loads((directory / "learner.json").read_text())
    learner["files"]["calibration.json"] = hashlib.sha256(text.encode()).hexdigest()
    (directory / "learner.json").write_text(json.dumps(learner))
    with pytest.raises(StateError, match=r"don't belong together|is damaged"):
        load_state(directory)


def test_there_is_a_fixture_of_the_current_format() -> None:
    from lorax.learning.state_files import FORMAT

    assert (FIXTURES / f"state-format-{FORMAT}").is_dir()
