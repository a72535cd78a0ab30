"""What a scenario leaves: the end that must be the same whatever was killed, and the traces that must not be there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
import psutil

from lorax import reconcile
from lorax.params import load_params
from lorax.registry import ModelVersion, Registry, journal
from lorax.registry.lineage import ancestors
from lorax.services.orphans import FOLDER_VARIABLE
from lorax.workspace import Workspace

MARK = "LORAX_PROOF_PASS"
"""Every process that a pass starts carries this variable."""

_OTHERS = ("torchinductor_",)
"""How temporary folders begin that others make and keep: torch its cache, whenever it is imported."""


@dataclass(frozen=True)
class End:
    """How a scenario ended, as far as it must not depend on what was killed."""

    digests: list[str]
    held: list[tuple[str, str]]
    commits: list[str]
    pins: str
    curves: dict[str, list[int]]
    """Of the champion's line: metric -> steps."""


@dataclass(frozen=True)
class Seen:
    """What is seen of a workspace while its servers are up."""

    end: End
    broken: list[str]
    doubled: list[str]


def look(root: Path) -> Seen:
    """Read the end of a scenario, and what is wrong with it."""
    workspace = Workspace(root)
    registry = reconcile.open_registry(workspace, load_params(workspace.params_path))
    champion, versions, curves = registry.champion(), registry.versions(), bench.timelines(root)
    end = End(
        digests=[version.state_digest for version in ancestors(champion, versions)][::-1] if champion else [],
        held=sorted((hold.task, hold.digest) for hold in registry.quarantined()),
        commits=bench.git("log", "--format=%H %s", cwd=root).splitlines(),
        pins=(root / "data.dvc").read_text(),
        curves=dict(sorted(curves.get(champion.line, {}).items())) if champion else {},
    )
    return Seen(end, _broken(root, registry, champion), _doubled(versions, curves))


def differences(found: End, wanted: End) -> list[str]:
    """The parts in which two ends differ."""
    return [name for name, value in vars(wanted).items() if getattr(found, name) != value]


def _doubled(versions: Sequence[ModelVersion], curves: Mapping[str, Mapping[str, list[int]]]) -> list[str]:
    """Curves of any timeline that have two points at one step, and learner states that were registered twice."""
    points = {key for line in curves.values() for key, steps in line.items() if len(steps) != len(set(steps))}
    states = [version.state_digest for version in versions]
    return sorted(points | {state for state in states if states.count(state) > 1})


def _broken(root: Path, registry: Registry, champion: ModelVersion | None) -> list[str]:
    """Where journal and alias disagree, what was lost, and what of git or DVC was not finished."""
    move, found = journal.last_move(registry.journal()), registry.breakage()
    if champion is None or move is None or move.version != champion.version:
        said = f"version {move.version} by {move.by}" if move else "nothing"
        found.append(f"journal says {said}, the alias is on {champion.version if champion else 'nothing'}")
    if champion is not None and champion.outcome != journal.PROMOTED:
        found.append(f"the champion's outcome is {champion.outcome!r}")
    if changed := bench.git("status", "--porcelain", cwd=root):
        found.append(f"git status: {changed}")
    if ahead := bench.git("log", "--format=%s", "@{upstream}..", cwd=root):
        found.append(f"not pushed: {ahead}")
    cloud = [sys.executable, "-m", "dvc", "status", "--cloud", "--quiet", "data.dvc"]
    if subprocess.run(cloud, cwd=root, capture_output=True).returncode:
        found.append("DVC's remote lacks something that data.dvc pins")
    return found


def left_behind(root: Path, temporary: Path, mark: str) -> list[str]:
    """What is still there after `lorax down`: processes, drafts, trials, locks, temporary files."""
    drafts = [path for path in (root / "work").rglob("*") if _is_draft(path, root / "work")]
    locks = [*root.glob(".git/**/*.lock"), *root.parent.glob("upstream.git/**/*.lock")]
    pieces = [*root.glob(".dvc/cache/**/.*"), *root.glob(".dvc/cache/**/*.tmp"), *root.parent.glob("remote/**/*.tmp")]
    temporaries = [path for path in temporary.iterdir() if not path.name.startswith(_OTHERS)]
    files = [*drafts, *locks, *pieces, *temporaries, *root.parent.glob("drop/.landed-*"), *_held_entries(root)]
    alive = [f"process {p.pid}: {' '.join(p.cmdline()[:6])}" for p in processes(root, mark)]
    return [*alive, *sorted({os.path.relpath(path, root.parent) for path in files})]


def processes(root: Path, mark: str) -> list[psutil.Process]:
    """The processes of a pass that are alive."""
    found = []
    for process in psutil.process_iter():
        try:
            marks: Mapping[str, str] = {} if process.pid == os.getpid() else process.environ()
            is_ours = marks.get(MARK) == mark or marks.get(FOLDER_VARIABLE) == str(root / "work/services")
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _is_draft(path: Path, work: Path) -> bool:
    """Whether something below work/ was to be moved or removed by whoever made it; servers' own folders aside."""
    parts = path.relative_to(work).parts
    if parts[0] == "services":
        return False
    begun = (path.name.startswith((".", "trial-")) and path.name != ".lock") or path.suffix == ".tmp"
    return (begun and not any(p.startswith((".", "trial-")) for p in parts[:-1])) or parts in (
        ("landing", "draft"),
        ("landing", "undo"),
    )


def _held_entries(root: Path) -> list[Path]:
    """DVC's own list of who reads and writes what, if it is not empty."""
    path = root / ".dvc/tmp/rwlock"
    try:
        entries: Any = json.loads(path.read_text() or "{}")
    except FileNotFoundError:
        return []
    return [path] if any(entries.values()) else []
