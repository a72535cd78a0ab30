"""What people and machines do to the registry: one clear error each, or a wait, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bench
import loop_kill
import loop_landing

from lorax.services import orphans

EPOCHS = 8
PATIENCE_S = 900.0


def prove_faults() -> bool:
    """Versions and aliases deleted by hand, no registry, a full disk, two learners, a rollback meanwhile."""
    root = bench.new_workspace(bench.HOME / "faults", "workspace", tiny=True)
    bench.change_params(root, {"training": {"epochs": EPOCHS}})
    try:
        for task in ("a", "b", "c"):
            bench.land_tiny(root, task)
        bench.lorax("learn", cwd=root)
        passed = [fault(root) for fault in _FAULTS]
        print("\n".join(f"  | {text}" for text in bench.lorax("history", cwd=root).stdout.splitlines()))
        return all(passed)
    finally:
        bench.lorax("down", cwd=root)


def _unreachable(root: Path) -> bool:
    """MLFLOW_TRACKING_URI names a port where nobody answers."""
    print("\nthe registry is unreachable")
    bench.land_tiny(root, "d")
    before = _registered(root)
    wrong = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{bench.free_port()}"}
    image = str(next((root / "data/a/val/1_fake").iterdir()))
    commands = (("learn",), ("predict", image), ("rollback", "--previous", "--reason", "proof"), ("history",))
    passed = [_one_error(root, *command, env=wrong) != "" for command in commands]
    said = bench.status(root, wrong)["error"]
    print(f"  lorax status: exit 0, says: {said}")
    return all(passed) & bool(said) & _same("versions, champion and holds", before, _registered(root))


def _server_killed(root: Path) -> bool:
    """MLflow's server killed while an episode registers; the supervisor starts it again."""
    print("\nMLflow's server is killed while d is registered")
    before = len(_episodes_done(root))
    learning = bench.start_lorax("learn", cwd=root, log=root.parent / "killed-server.log")
    bench.wait_for(lambda: len(_episodes_done(root)) > before, PATIENCE_S, "d is evaluated", every_s=0.01)
    time.sleep(0.5)
    for process in orphans.find(str(root / "work/services"), "mlflow"):
        process.kill()
    code = learning.wait()
    said = (root.parent / "killed-server.log").read_text().strip().splitlines()
    print(f"  lorax learn: exit {code}, ends with: {said[-1]}")
    return _says("'lorax learn' again", _knows(root, ["a", "b", "c", "d"]))


def _alias_deleted(root: Path) -> bool:
    """The champion's alias deleted on MLflow's page."""
    print("\nthe champion's alias is deleted by hand")
    before, number = bench.digests(root), bench.line(root)[-1]["version"]
    bench.ask_mlflow(root, "registered-models/alias", {"name": "lorax", "alias": "champion"}, "DELETE")
    bench.land_tiny(root, "e")
    said = _one_error(root, "learn")
    _print_broken(root)
    return _mend(root, said, number) & _same("digests", before, bench.digests(root))


def _champion_deleted(root: Path) -> bool:
    """The champion's version deleted on MLflow's page: its alias goes with it."""
    print("\nthe champion's version is deleted by hand")
    passed = _says("e, which landed meanwhile, is learned", _knows(root, ["a", "b", "c", "d", "e"]))
    before, rows = bench.digests(root), bench.line(root)
    _delete(root, rows[-1]["version"])
    said = _one_error(root, "learn")
    _print_broken(root)
    passed &= _mend(root, said, rows[-2]["version"])
    passed &= _says("what only it knew is learned again", _knows(root, ["a", "b", "c", "d", "e"]))
    return passed & _same("digests", before, bench.digests(root))


def _ancestor_deleted(root: Path) -> bool:
    """A version that the champion descends from deleted on MLflow's page."""
    print("\nan ancestor of the champion is deleted by hand")
    champion, gone = bench.line(root)[-1], bench.versions(root)[1]["version"]
    _delete(root, gone)
    _print_broken(root)
    _one_error(root, "rollback", "--to", str(gone), "--reason", "proof")
    bench.land_tiny(root, "f")
    passed = _says("learning goes on", _knows(root, ["a", "b", "c", "d", "e", "f"]))
    return passed & _says("from the same champion", bench.line(root)[-2]["state_digest"] == champion["state_digest"])


def _two_at_once(root: Path) -> bool:
    """Two `lorax learn` in one workspace."""
    print("\ntwo 'lorax learn' at once")
    bench.land_tiny(root, "g")
    before = len(bench.versions(root))
    both = [bench.start_lorax("learn", "--json", cwd=root, log=root.parent / f"learn-{k}.log") for k in (1, 2)]
    codes = [process.wait() for process in both]
    learned = [_json(root.parent / f"learn-{k}.log")["learned"] for k in (1, 2)]
    print(f"  exit codes {codes}, versions learned by each: {learned}")
    once = len(bench.versions(root)) == before + 1 and sorted(map(len, learned)) == [0, 1]
    return _says("g was learned once", once and codes == [0, 0] and "g" in bench.status(root)["known"])


def _rollback_meanwhile(root: Path) -> bool:
    """A rollback while a branch is trained."""
    print("\na rollback while a branch is trained")
    bench.land_tiny(root, "h")
    old, target = bench.line(root)[-1], bench.line(root)[-2]
    learning = bench.start_lorax("learn", cwd=root, log=root.parent / "rolled-back.log")
    bench.wait_for(lambda: any(_checkpoints(root)), PATIENCE_S, "a branch is trained", every_s=0.005)
    os.killpg(learning.pid, signal.SIGSTOP)  # so that the rollback comes in the middle, however fast the training is
    try:
        print(f"  {bench.lorax('rollback', '--previous', '--reason', 'proof', cwd=root).stdout.splitlines()[0]}")
    finally:
        os.killpg(learning.pid, signal.SIGCONT)
    code, now = learning.wait(), bench.line(root)[-1]
    moved = [row for row in bench.versions(root) if row["outcome"] == "base moved"]
    for row in moved:
        print(f"  version {row['version']} ({row['task']}) {row['outcome']}: {row['reason']}")
    passed = _says("the rollback won: h grew again from the version rolled back to", code == 0 and len(moved) == 1)
    passed &= now["parent_digest"] == target["state_digest"] and now["tasks"] == [*target["tasks"], "h"]
    held = [hold["task"] for hold in bench.status(root)["held"]]
    return passed & _says(f"{old['task']} is held", held == [old["task"]])


def _full_disk(root: Path) -> bool:
    """MLflow's disk is full while an episode registers: its folder lies on a small tmpfs (needs root)."""
    print("\nMLflow's disk is full while an episode is registered")
    bench.lorax("down", cwd=root)
    bench.land_tiny(root, "i")
    with _small_disk(root / "work/services/mlflow", spare_kb=700) as grow:
        if grow is None:
            print("  not tried: mounting a small tmpfs needs root")
            return True
        before = bench.history(root)
        _one_error(root, "learn")
        passed = _same("history", before, bench.history(root))
        grow()
        passed &= _says("with more room, 'lorax learn' finishes", bench.lorax("learn", cwd=root).returncode == 0)
        passed &= _says("i is learned, once", _learned_once(root, "i", before["versions"])) & _points_once(root)
        bench.lorax("down", cwd=root)  # or the small disk could not be taken away
    return passed


@contextmanager
def _small_disk(folder: Path, spare_kb: int) -> Iterator[Callable[[], object] | None]:
    """Put a folder on a tmpfs that has little room; yields what makes it larger. Its content stays, also afterwards."""
    used_kb = int(subprocess.run(["du", "-sk", folder], check=True, capture_output=True, text=True).stdout.split()[0])
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.mkdir()
    options = f"size={used_kb + spare_kb}k"
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]).returncode:
        folder.rmdir()
        aside.rename(folder)
        yield None
        return
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield lambda: subprocess.run(["mount", "-o", "remount,size=512m", folder], check=True)
        shutil.rmtree(aside)
        shutil.copytree(folder, aside)
    finally:
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
        aside.rename(folder)


_FAULTS = (
    _unreachable,
    _server_killed,
    _alias_deleted,
    _champion_deleted,
    _ancestor_deleted,
    _two_at_once,
    _rollback_meanwhile,
    _full_disk,
)


def _one_error(root: Path, *command: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command that must fail with one clear error; returns it, '' if it did not."""
    done = bench.lorax(*command, cwd=root, check=False, env=env)
    said = [text for text in done.stderr.strip().splitlines() if text.strip()]
    clear = done.returncode == 1 and sum("error:" in text for text in said) == 1 and "Traceback" not in done.stderr
    print(f"  lorax {command[0]}: exit {done.returncode}{'' if clear else ', NOT one clear error'}")
    print("\n".join(f"    | {text}" for text in said[-6:]), flush=True)
    return said[-1] if clear else ""


def _mend(root: Path, said: str, number: int) -> bool:
    """Run the command that an error names, with the version to go on from."""
    named = re.search(r"'lorax (promote) VERSION --reason TEXT'", said)
    if named is None:
        return _says("the error names the command that mends it", False)
    moved = bench.lorax("promote", str(number), "--reason", "mended by the proof", cwd=root, check=False)
    print(f"  lorax promote {number}: {(moved.stdout + moved.stderr).strip().splitlines()[0]}")
    return _says("the command that the error names mends it", moved.returncode == 0)


def _knows(root: Path, tasks: list[str]) -> bool:
    """Whether the champion knows just these tasks, after `lorax learn`; each point of its curves once."""
    done = bench.lorax("learn", cwd=root, check=False)
    found = [row["task"] for row in bench.line(root)]
    known = bench.status(root)["known"]
    if done.returncode or known != tasks:
        print(f"  lorax learn: exit {done.returncode}, champion knows {known}, line {found}\n{done.stderr}")
    return done.returncode == 0 and known == tasks and _points_once(root)


def _points_once(root: Path) -> bool:
    curves = [steps for curve in bench.timelines(root).values() for steps in curve.values()]
    return _says("each metric has one point per step", all(len(steps) == len(set(steps)) for steps in curves))


def _learned_once(root: Path, task: str, before: Sequence[object]) -> bool:
    return task in bench.status(root)["known"] and len(bench.versions(root)) == len(before) + 1


def _registered(root: Path) -> list[Any]:
    found = bench.history(root)
    return [found, bench.status(root)["known"]]


def _print_broken(root: Path) -> None:
    found = bench.status(root)
    for sentence in found["broken"] or [found["error"] or "nothing"]:
        print(f"  lorax status, broken: {sentence}")


def _delete(root: Path, number: int) -> None:
    bench.ask_mlflow(root, "model-versions/delete", {"name": "lorax", "version": str(number)}, "DELETE")


def _episodes_done(root: Path) -> list[Path]:
    return list((root / "work/episodes").glob("*/report.json"))


def _checkpoints(root: Path) -> list[Path]:
    return list((root / "work/episodes").glob("*/training.safetensors"))


def _json(log: Path) -> dict[str, Any]:
    """The JSON value that a command printed last."""
    text = log.read_text()
    return dict(json.loads(text[text.index("{\n") :]))


def _same(what: str, before: object, after: object) -> bool:
    return _says(f"{what} are as before", before == after)


def _says(what: str, is_so: bool) -> bool:
    print(f"  {'yes' if is_so else 'NO '} {what}", flush=True)
    return is_so


PARTS: dict[str, Callable[[], bool]] = {**loop_kill.PARTS, **loop_landing.PARTS, "faults": prove_faults}
