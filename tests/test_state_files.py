"""What the product writes for itself and reads again, damaged: as good as none, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import deployment
from lorax.data import memory, transaction, upstream
from lorax.data.watch import DropFolder
from lorax.errors import DataVersionError, LoraxError, ServiceError, StateError
from lorax.learning.assessment import Assessment
from lorax.learning.folder import EpisodeFolder, Report
from lorax.services import databases, servers
from lorax.workspace import Workspace

DAMAGED = {
    "empty": b"",
    "half": b'{"task": "a", "server": "http:',
    "a list": b"[1]",
    "a number": b"5",
    "other keys": b'{"mlflow": 5}',
    "deep": b"[" * 100_000,
    "binary": b"\xff\xfe\x00\x9f",
}


def is_due(workspace: Workspace) -> bool:
    return DropFolder(workspace.root, lambda *_: None)._is_due(workspace.root / "set")  # type: ignore[arg-type,return-value]


def what_is_read(space: Workspace) -> dict[Path, Callable[[], object]]:
    """File -> who reads it."""
    episode = EpisodeFolder(space.root / "episode")
    return {
        space.services_dir / "deployed.json": lambda: deployment._noted(space.services_dir / "deployed.json"),
        space.services_dir / "databases.json": lambda: databases.check(space, "mlflow"),
        servers.auth_path(space): lambda: servers.auth_string(servers.prefect_home(space)),
        space.work_dir / "landing/undo/notes.json": lambda: transaction.roll_back(space),
        space.work_dir / "landing/not-pushed.txt": lambda: upstream.why_unpushed(space),
        space.memory_dir / "digest.csv": lambda: memory.lacking(space, "digest"),
        space.root / "set.report.json": lambda: is_due(space),
        episode.plan_path: episode.plan,
        episode.report_path: lambda: Report.read(episode.report_path),
        episode.assessment_path: lambda: Assessment.read(episode.assessment_path),
    }


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_as_good_as_none_or_one_clear_error(kind: str, tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    for path, read in what_is_read(space).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(DAMAGED[kind])
        try:
            read()
        except LoraxError as error:
            assert str(path) in str(error), path.name
        assert path.read_bytes() == DAMAGED[kind]


def test_what_must_not_be_taken_for_none_is_an_error(tmp_path: Path) -> None:
    space = Workspace(tmp_path)
    reads = what_is_read(space)
    wanted = {
        "notes.json": DataVersionError,
        "databases.json": ServiceError,
        "auth-string": ServiceError,
        "plan.json": StateError,
    }
    for path, read in reads.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        if path.name in wanted:
            with pytest.raises(wanted.pop(path.name)):
                read()
    assert wanted == {}
