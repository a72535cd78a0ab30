"""What is built of the repository, installed by itself: it must bring all that it reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


@pytest.mark.slow
def test_a_wheel_built_of_the_source_archive_works_in_a_clean_folder(tmp_path: Path) -> None:
    source = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", source, tmp_path, cwd=ROOT)
    [archive] = tmp_path.glob("*.tar.gz")
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, archive, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    run(*PIP, "install", "--no-deps", "--target", installed, wheel, cwd=tmp_path)

    assert not [name for name in run("tar", "-tzf", archive, cwd=tmp_path).split() if "/tests/" in name]
    assert files_of("lorax", installed) == files_of("lorax", ROOT)
    assert files_of("flows", installed) == files_of("flows", ROOT)
    command = (sys.executable, "-P", "-m", "lorax")
    said = run(*command, "--version", cwd=tmp_path, PYTHONPATH=str(installed))
    assert said == f"lorax {wheel.name.split('-')[1]}\n"
    run(*command, "init", "workspace", cwd=tmp_path, PYTHONPATH=str(installed))
    assert (tmp_path / "workspace" / "params.yaml").is_file()


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(package: str, home: Path) -> set[str]:
    """All files of a package but what Python leaves beside them."""
    files = (path.relative_to(home) for path in (home / package).rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts}
