"""What is built of the repository, installed by itself: it must bring all that it reads."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
LORAX = (sys.executable, "-P", "-m", "lorax")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ON_RAY = """
import sys
from lorax.errors import ExtraError
from lorax.scoring.engine import engine
try: engine(None, wants_gpu=False).__enter__()
except ExtraError as error: sys.exit(str(error))
"""
HIDING = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent)
"""


@pytest.mark.slow
def test_a_wheel_built_of_the_source_archive_works_in_a_clean_folder_with_the_base_alone(
    tmp_path: Path, base_alone: Path
) -> None:
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
    path = os.pathsep.join(map(str, (base_alone, installed)))
    assert run(*LORAX, "--version", cwd=tmp_path, PYTHONPATH=path) == f"lorax {wheel.name.split('-')[1]}\n"
    assert "serve" in run(*LORAX, "--help", cwd=tmp_path, PYTHONPATH=path)
    run(*LORAX, "init", "workspace", cwd=tmp_path, PYTHONPATH=path)
    assert (tmp_path / "workspace" / "params.yaml").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "extra", "lacking"),
    [
        ((*LORAX, "serve"), "serve", "httptools"),
        ((*LORAX, "simulate", "images"), "demo", "skimage"),
        ((sys.executable, "-c", ON_RAY), "scale", "ray"),
    ],
)
def test_what_needs_an_extra_ends_by_saying_which(
    command: tuple[str, ...], extra: str, lacking: str, tmp_path: Path, base_alone: Path
) -> None:
    done = ended(*command, cwd=tmp_path, PYTHONPATH=os.pathsep.join(map(str, (base_alone, ROOT))))
    assert (done.returncode, done.stdout) == (1, "")
    said = f"needs the extra '{extra}' (No module named '{lacking}'): pip install 'lorax-pipeline[{extra}]', then run"
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert extra in PROJECT["optional-dependencies"]


def test_every_pinned_release_runs_on_the_oldest_python_that_the_package_takes() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    here = [one.metadata for one in distributions() if pinned.get(canonicalize_name(one.name)) == one.version]
    assert len(here) > 100
    assert not [one["Name"] for one in here if oldest not in SpecifierSet(one.get("Requires-Python") or "")]


@pytest.fixture(scope="module")
def base_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH: where it is there, Python finds nothing that an install without extras doesn't bring."""
    folder = tmp_path_factory.mktemp("base_alone")
    brought = closure(PROJECT["dependencies"])
    hidden = [top for top, owners in packages_distributions().items() if brought.isdisjoint(map(name_of, owners))]
    hidden = sorted({*hidden} - {"lorax", "flows"})
    (folder / "sitecustomize.py").write_text(HIDING.format(hidden=hidden))
    return folder


def closure(requirements: Iterable[str]) -> set[str]:
    """What pip installs for them, of what is installed here."""
    installed = {name_of(one.name): one.requires or [] for one in distributions()}
    waiting, seen = [*map(Requirement, requirements)], set[tuple[str, frozenset[str]]]()
    while waiting:
        wanted = waiting.pop()
        name, extras = name_of(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        waiting.extend(
            one
            for one in map(Requirement, installed.get(name, ()))
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        )
    return {name for name, _ in seen}


def name_of(distribution: str) -> str:
    return str(canonicalize_name(distribution))


def ended(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = ended(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_of(package: str, home: Path) -> set[str]:
    """All files of a package but what Python leaves beside them."""
    files = (path.relative_to(home) for path in (home / package).rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts}
