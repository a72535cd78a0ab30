"""`lorax sweep`: cells that are finished are not run again, whatever was killed; and what methods come to on a stream.

    python -m proofs.sweep kills
    python -m proofs.sweep demo [--epochs 6] [--seeds 3]
    python -m proofs.sweep real --workspace DIR [--epochs 6] [--seeds 3]

kills: two scenarios, five methods, three seeds on tiny tasks; ended by Ctrl-C, killed, and started again. Every cell
must be finished once, in a file that no later run touches, with one run of MLflow's; and some of them are learned
again one at a time, which must come to the same.
demo: all methods and some seeds on the demo's stream of five simulated generators, in work/proofs/sweep/demo.
real: the same on the scenario `real`, in a workspace where its tasks have landed (docs/real.md).
With more seeds, the same command learns those that are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil

from lorax.data.generators import SIDE
from lorax.data.simulate import DEMO_TASKS
from lorax.params import load_params
from lorax.reconcile import registry_of_server
from lorax.storage import canonical_json
from lorax.sweeps.plan import METHODS_KNOWN, plan_sweep
from lorax.workspace import Workspace
from proofs.bench import change_params, land_tiny, lorax, new_workspace, start_lorax

HOME = Path("work/proofs/sweep").resolve()
_TASKS = ("alpha", "beta", "gamma")
_SEEDS = (0, 1, 2)
_TINY = {
    "scenarios": [list(_TASKS), list(reversed(_TASKS))],
    "methods": list(METHODS_KNOWN[:5]),
    "seeds": list(_SEEDS),
}
_LOOK_S, _PATIENCE_S = 0.2, 1200.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["kills", "demo", "real"])
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=len(_SEEDS))
    asked = parser.parse_args()
    if asked.part == "kills":
        raise SystemExit(not prove_kills())
    root = demo_workspace() if asked.part == "demo" else asked.workspace.resolve()
    compare(root, "landed" if asked.part == "demo" else "real", asked.part, asked.epochs, asked.seeds)


def prove_kills() -> bool:
    """Cells are finished once each, and nothing depends on what was killed or ran beside them."""
    root = new_workspace(HOME, "tiny", tiny=True)
    try:
        for seed, name in enumerate(_TASKS, 1):
            land_tiny(root, name, seed)
        _write(root, "killed", _TINY)
        cells = len(plan_sweep(Workspace(root), root / "killed.yaml").cells)
        seen = dict[str, tuple[int, bytes]]()
        codes, sound = [], True
        for number, at in ((signal.SIGINT, cells // 4), (signal.SIGKILL, cells // 2), (None, cells)):
            codes.append(_run(root, number, at))
            found = _finished(root, "killed")
            sound &= seen.items() <= found.items()
            print(f"{number.name if number else 'whole'}: exit {codes[-1]}; {len(found)} of {cells} cells finished")
            print(f"  {len(seen)} of them before, none of these written again: {seen.items() <= found.items()}")
            seen = found
        began = time.monotonic()
        record = json.loads(lorax("sweep", "killed.yaml", "--json", cwd=root).stdout)
        sound &= _finished(root, "killed") == seen
        print(f"once more: {time.monotonic() - began:.1f} s, nothing learned: {_finished(root, 'killed') == seen}")
        runs = _runs(root)
        print(f"runs of MLflow: {len(runs)} of cells, of as many cells: {len(set(runs)) == len(runs)}")
        print((root / "work/sweeps/killed/table.md").read_text())
        same = _is_same_alone(root, record)
        return sound and same and codes == [130, -signal.SIGKILL, 0] and sorted(runs) == sorted(seen)
    finally:
        lorax("down", cwd=root, check=False)


def compare(root: Path, scenario: str, name: str, epochs: int, seeds: int) -> None:
    """Every method on a scenario; the table on the terminal, what else there is in work/sweeps/NAME/."""
    sweep = {
        "scenarios": [scenario],
        "methods": list(METHODS_KNOWN),
        "seeds": list(range(seeds)),
        "overrides": [
            f"training.epochs={epochs}",
            "head.solver=gradient",  # under ridge all have the texture's head
            "calibration.per_class=0",  # or a student answers from the texture where it is sure, whatever the method
        ],
    }
    _write(root, name, sweep)
    began = time.monotonic()
    try:
        done = lorax("sweep", f"{name}.yaml", cwd=root, check=False)
    finally:
        lorax("down", cwd=root, check=False)
    print(done.stderr, done.stdout, sep="\n")
    print((root / "work/sweeps" / name / "table.md").read_text())
    cells = json.loads((root / "work/sweeps" / name / "table.json").read_text())["cells"]
    for method in METHODS_KNOWN:
        took = [cell["seconds"] for cell in cells if cell["cell"]["method"] == method]
        print(f"{method}: {len(took)} cells, {sum(took) / max(1, len(took)):.0f} s each")
    print(f"in all {(time.monotonic() - began) / 60:.1f} min")
    raise SystemExit(done.returncode)


def demo_workspace() -> Path:
    """Where the demo's five tasks have landed; made once."""
    root = HOME / "demo"
    if not (root / "landed").exists():
        new_workspace(HOME, root.name, tiny=False)
        change_params(root, {"backbone": {"crop": SIDE}})
        raw = HOME / "raw-demo"
        shutil.rmtree(raw, ignore_errors=True)
        lorax("simulate", str(raw), cwd=root)
        for name in DEMO_TASKS:
            lorax("land", str(raw / name), "--task", name, cwd=root)
        (root / "landed").touch()
    return root


def _run(root: Path, number: signal.Signals | None, at: int) -> int:
    """Run the sweep, and send a signal once so many cells are finished; returns the exit code."""
    log = root.parent / "sweep.log"
    process, began = start_lorax("sweep", "killed.yaml", cwd=root, log=log), time.monotonic()
    while process.poll() is None and (number is None or len(_finished(root, "killed")) < at):
        if time.monotonic() - began > _PATIENCE_S:
            process.kill()
            raise SystemExit(f"the sweep took longer than {_PATIENCE_S:.0f} s:\n{log.read_text()}")
        time.sleep(_LOOK_S)
    if number is not None:
        its = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        process.wait()
        _, left = psutil.wait_procs(its, timeout=5)
        print(f"{number.name}: {len(its)} processes of Ray's, {len(left)} left 5 s after the end")
    return process.wait()


def _is_same_alone(root: Path, record: dict[str, Any]) -> bool:
    """Whether some cells, learned one at a time, come to what they came to beside others."""
    few = {**_TINY, "scenarios": _TINY["scenarios"][:1], "seeds": [1]}
    _write(root, "alone", few)
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})  # Ray has a place for each core
    try:
        alone = json.loads(lorax("sweep", "alone.yaml", "--json", cwd=root).stdout)["cells"]
    finally:
        os.sched_setaffinity(0, everywhere)
    before = {cell["cell"]["key"]: cell for cell in record["cells"]}
    different = [c for c in alone if any(c[of] != before[c["cell"]["key"]][of] for of in ("rows", "state"))]
    print(
        f"{len(alone)} cells learned one at a time: {len(different)} differ in a row or in the learner state's digest"
    )
    return not different


def _runs(root: Path) -> list[str]:
    """The cells that MLflow has runs of."""
    workspace = Workspace(root)
    client = registry_of_server(workspace, load_params(workspace.params_path)).client
    experiment = client.get_experiment_by_name("lorax-sweeps").experiment_id
    found = client.search_runs([experiment], "tags.`lorax.role` = 'cell'")
    return [run.data.tags["lorax.cell"] for run in found]


def _finished(root: Path, name: str) -> dict[str, tuple[int, bytes]]:
    """When each cell's file was written, and what it has."""
    return {path.stem: (path.stat().st_mtime_ns, path.read_bytes()) for path in _cells(root, name)}


def _cells(root: Path, name: str) -> list[Path]:
    return sorted((root / "work/sweeps" / name / "cells").glob("[!.]*.json"))


def _write(root: Path, name: str, sweep: dict[str, Any]) -> None:
    (root / f"{name}.yaml").write_text(canonical_json(sweep))  # JSON is YAML


if __name__ == "__main__":
    main()
