from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lorax.data import pins, versions
from lorax.data.admission import LandingOptions, check_landing
from lorax.data.landing import land
from lorax.data.pins import TaskNotes
from lorax.errors import ContractError, DataVersionError, LoraxError
from lorax.stream import TaskClass
from lorax.workspace import Workspace
from tests.conftest import WriteTask

pytestmark = pytest.mark.slow

MORE = LandingOptions(extend=True)


def test_more_of_a_generator_lands_beside_it_as_images_of_its_classes(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace, source = landed_workspace, write_task(tmp_path / "in", seed=3)
    before = dict(versions.manifest(workspace))
    [landed] = land(workspace, source, "alpha", options=MORE)
    assert landed.name == "alpha-2"
    assert pins.committed(workspace).notes[landed] == TaskNotes(extends="alpha")
    assert dict(versions.manifest(workspace)).items() > before.items()
    task = versions.read_task(workspace, "alpha-2")
    assert (task.extends, task.classes) == ("alpha", (TaskClass(0, "real"), TaskClass(1, "alpha")))
    assert {(s.task, s.path.partition("/")[0]) for s in (*task.train, *task.test)} == {("alpha", "alpha-2")}

    assert land(workspace, source, "alpha", options=MORE) == (landed,)  # the same files are the same extension
    [other] = land(workspace, write_task(tmp_path / "third", seed=4), "alpha-2", options=MORE)
    assert (other.name, pins.committed(workspace).notes[other].extends) == ("alpha-3", "alpha")

    mended = write_task(tmp_path / "mended", seed=5)
    [again] = land(workspace, mended, "alpha-2", options=LandingOptions(replace=True))
    assert pins.committed(workspace).notes[again].extends == "alpha"  # still


def test_a_folder_that_grew_lands_as_more_of_its_generator_and_under_no_other_name(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    source = write_task(tmp_path / "in", seed=1)  # alpha's own
    for number, split in enumerate(("train", "val")):
        Image.new("RGB", (9, 9), (7, number, 7)).save(source / split / "1_fake" / "more.png")
    with pytest.raises(ContractError, match="landed-elsewhere"):
        land(landed_workspace, source, "gamma")
    [landed] = land(landed_workspace, source, "alpha", options=MORE)
    assert landed.name == "alpha-2"


def test_a_new_version_has_classes_of_its_own_and_names_the_older(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace, source = landed_workspace, write_task(tmp_path / "in", seed=3)
    follows = LandingOptions(new_version_of="alpha")
    [landed] = land(workspace, source, "gamma", options=follows)
    assert pins.committed(workspace).notes[landed] == TaskNotes(new_version_of="alpha")
    assert versions.read_task(workspace, "gamma").classes[1] == TaskClass(1, "gamma")
    assert land(workspace, source, "gamma", options=follows) == (landed,)
    with pytest.raises(DataVersionError, match="as a new version of 'alpha', and stays what it is"):
        land(workspace, source, "gamma", options=LandingOptions(new_version_of="beta"))


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("gamma", MORE, "'gamma' has not landed, so it can be neither extended"),
        ("gamma", LandingOptions(new_version_of="delta"), "'delta' has not landed"),
        ("gamma", LandingOptions(new_version_of="gamma"), "a new version of itself"),
        ("alpha", LandingOptions(extend=True, replace=True), "Give --extend or --replace, not both"),
        ("alpha", LandingOptions(extend=True, new_version_of="beta"), "Give --extend or --new-version-of, not both"),
    ],
)
def test_what_can_t_be_extended_is_told_in_one_line_and_changes_nothing(
    shared_landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask, task: str, options: LandingOptions,
    message: str,
) -> None:  # fmt: skip
    before = shared_landed_workspace.data_dvc_path.read_bytes()
    with pytest.raises(LoraxError, match=message):
        land(shared_landed_workspace, write_task(tmp_path / "in", seed=3), task, options=options)
    assert shared_landed_workspace.data_dvc_path.read_bytes() == before


def test_an_extension_brings_no_class_and_no_tested_image_of_its_own(
    landed_workspace: Workspace, tmp_path: Path, write_task: WriteTask
) -> None:
    workspace = landed_workspace
    source = write_task(tmp_path / "in", {"0_real": 2, "1_fake": 2, "2_other": 2}, seed=3)
    tested = next((workspace.data_dir / "alpha" / "val" / "1_fake").iterdir())
    with Image.open(tested) as image:
        image.save(source / "train" / "1_fake" / "tested.bmp")
    _, [report] = check_landing(workspace, source, "alpha", MORE)
    assert [(found.kind, len(found.paths)) for found in report.refused] == [
        ("other-classes", 0),
        ("same-in-train-and-val", 1),
    ]
    assert "class 2_other is none of task 'alpha', which has 0_real, 1_alpha" in report.refused[0].message

    same = write_task(tmp_path / "same", seed=1)
    _, [report] = check_landing(workspace, same, "alpha", MORE)
    assert [(found.kind, len(found.paths)) for found in report.refused] == [("nothing-new", 4)]
    Image.effect_noise((8, 8), 90).convert("RGB").save(same / "train" / "1_fake" / "new.png")
    assert not check_landing(workspace, same, "alpha", MORE)[1][0].refused

    land(workspace, write_task(tmp_path / "more", seed=4), "alpha", options=MORE)
    renamed = write_task(tmp_path / "renamed", {"0_real": 2, "1_other": 2}, seed=5)
    with pytest.raises(ContractError, match="alpha-2 extends alpha: class 1_alpha is none of task 'alpha'"):
        land(workspace, renamed, "alpha", options=LandingOptions(replace=True))
