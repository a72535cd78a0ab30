"""Small data sets in CDDB's layout, made of real image files, and workspaces that are real git and DVC repositories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorax.data import landing, repository, versions
from lorax.workspace import Workspace
from tests.mlflow_server import server as server

SMALL_CONTRACT = "landing: {min_train: 1, min_val: 1}\n"
WriteTask = Callable[..., Path]
NewWorkspace = Callable[..., Workspace]


LONGEST = (
    *("flows/test_processes", "flows/test_learn", "flows/test_withdraw", "flows/test_sweep"),
    *("registry/test_registry", "registry/test_promotion", "registry/test_assessment_log", "services"),
    *("commands/test_versions", "data/test_landing", "data/test_upstream", "scoring"),
    *("registry", "commands", "flows", ""),
)
"""By the processor time that they take: several processes end together only if the longest files begin first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: [item.nodeid.startswith(f"tests/{name}") for name in LONGEST].index(True))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_machine(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither a person's git and DVC settings nor what DVC remembers of other runs reaches the tests."""
    os.environ |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "DVC_NO_ANALYTICS": "1"}
    for kind in ("SITE_CACHE", "SYSTEM_CONFIG", "GLOBAL_CONFIG"):
        os.environ[f"DVC_{kind}_DIR"] = str(tmp_path_factory.mktemp(kind.lower()))
    import dvc  # noqa: F401  # it logs for ever to the stream that it finds now; a test's own is closed after it


@pytest.fixture(scope="module", autouse=True)
def _environment_of_its_own(_no_settings_of_the_machine: None) -> Iterator[None]:
    """Commands that run in the tests' process point it at their servers; the next module must not find these."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def write_task_files(
    folder: Path, classes: Mapping[str, int] | None = None, *, seed: int = 0, side: int = 8, val: bool = True
) -> Path:
    """Write images to folder/{train,val}/<class folder>, alternating PNG and JPEG, other ones for each `seed`.

    Args:
        classes: class folder (with a subject in front, if wanted) -> images in each split; default 2 real, 2 fake.
        val: False to write `train` only.
    """
    random = np.random.default_rng(seed)
    for split in ("train", "val") if val else ("train",):
        for class_folder, count in (classes or {"0_real": 2, "1_fake": 2}).items():
            place = folder / split / class_folder
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = random.integers(0, 256, (side, side + number % 3, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.{('png', 'jpg')[number % 2]}")
    return folder


@pytest.fixture(scope="session")
def write_task() -> WriteTask:
    return write_task_files


@pytest.fixture(scope="session")
def _empty_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("empty") / "workspace"
    versions.create_repository(root)
    (root / "params.yaml").write_text(SMALL_CONTRACT)
    (root / ".gitignore").write_text("/work/\n/data\n")
    repository.commit(root, ["params.yaml", ".gitignore", ".dvc/config", ".dvc/.gitignore", ".dvcignore"], "Begin")
    return root


@pytest.fixture(scope="session")
def _landed_template(_empty_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landed")
    workspace = Workspace(folder / "workspace")
    shutil.copytree(_empty_template, workspace.root)
    for seed, name in enumerate(("alpha", "beta"), 1):
        landing.land(workspace, write_task_files(folder / name, seed=seed), name)
    return workspace.root


@pytest.fixture
def new_workspace(_empty_template: Path, tmp_path: Path) -> NewWorkspace:
    """Make an empty workspace of the given name below tmp_path."""

    def make(name: str = "workspace") -> Workspace:
        shutil.copytree(_empty_template, tmp_path / name)
        return Workspace(tmp_path / name)

    return make


@pytest.fixture
def workspace(new_workspace: NewWorkspace) -> Workspace:
    """A workspace where nothing has landed."""
    return new_workspace()


@pytest.fixture
def landed_workspace(_landed_template: Path, tmp_path: Path) -> Workspace:
    """A workspace of one's own where tasks alpha and beta have landed (seeds 1 and 2 of `write_task`)."""
    root = tmp_path / "landed"
    shutil.copytree(_landed_template, root)
    return Workspace(root)


@pytest.fixture(scope="session")
def shared_landed_workspace(_landed_template: Path) -> Workspace:
    """The same, for tests that only read."""
    return Workspace(_landed_template)
