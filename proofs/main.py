"""The main job's slow proofs: `make prove-main`, or one part: `python proofs/main.py branches`.

Everything happens in work/proofs/main. Each part prints its figures and ends in PASS or FAIL.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from bench import LORAX, free_port, lorax, remove_workspace, run_parts
from PIL import Image

from lorax.commands.init import with_values
from lorax.data import versions
from lorax.data.simulate import DEMO_TASKS
from lorax.errors import StateError
from lorax.learning import metrics
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.methods import linear
from lorax.learning.state_files import load_state, state_digest
from lorax.params import Params, load_params
from lorax.workspace import Workspace

HOME = Path("work/proofs/main").resolve()


def new_workspace(name: str, *options: str) -> Path:
    """A fresh workspace with ports of its own."""
    root = HOME / name
    remove_workspace(root)
    ports = ("--prefect-port", str(free_port()), "--mlflow-port", str(free_port()))
    lorax("init", str(root), *options, *ports, cwd=HOME)
    return root


def landed_workspace(name: str) -> Path:
    """A fresh workspace in which the five simulated tasks have landed."""
    raw = HOME / "mini-cddb"
    if not raw.exists():
        lorax("simulate", str(raw), cwd=HOME)
    root = new_workspace(name)
    for task in DEMO_TASKS:
        lorax("land", str(raw / task), "--task", task, cwd=root)
    return root


def learn_stream(root: Path, params: Params, home: Path, count: int = len(DEMO_TASKS)) -> list[Path]:
    """Learn the landed tasks in this process, without flow or registry; the directory of each state."""
    states: list[Path] = []
    for k in range(count):
        states.append(learn_task(root, params, home, states[-1] if states else None, k))
    return states


def learn_task(root: Path, params: Params, home: Path, base: Path | None, k: int) -> Path:
    workspace = Workspace(root)
    read_task = lambda name: versions.read_task(workspace, name)  # noqa: E731
    revision = versions.revision(workspace)
    plan = Plan.of(base, read_task(DEMO_TASKS[k]), params, revision)
    folder = EpisodeFolder.open(home, plan)
    learn_episode(Episode.open(folder, read_task, lambda samples: versions.fetch(workspace, samples)))
    return folder.state_dir


def prove_branches() -> bool:
    """What branches gain over a head on the frozen feature, where that is weak: on the small ConViT; 3 seeds."""
    root = landed_workspace("branches")
    workspace, gains = Workspace(root), []
    passed = True
    print(f"{'seed':>4} {'branches AAF':>12} {'forgetting':>10} {'head only AAF':>13} {'gain':>6} {'seconds':>8}")
    for seed in (0, 1, 2):
        values = ["backbone.name=shipped", "head.solver=gradient", f"run.seed={seed}"]
        params = load_params(workspace.params_path, overrides=values)
        started = time.perf_counter()
        state = load_state(learn_stream(root, params, HOME / f"branches-{seed}")[-1])
        seconds = time.perf_counter() - started
        tasks = [versions.read_task(workspace, name) for name in DEMO_TASKS]
        rows = linear.learn(tasks, partial(versions.fetch, workspace), params, HOME)
        ours, plain = metrics.average_accuracy(state.accuracy), metrics.average_accuracy(rows)
        lost = metrics.forgetting(state.accuracy)
        gains.append(ours - plain)
        print(f"{seed:>4} {ours:>12.4f} {lost:>10.4f} {plain:>13.4f} {ours - plain:>+6.4f} {seconds:>8.1f}")
        passed &= ours >= 0.85 and lost <= 0.10 and ours > plain
    print(f"mean gain {statistics.mean(gains):+.4f} (asked: at least +0.03, none negative)")
    return passed and statistics.mean(gains) >= 0.03


def prove_processes() -> bool:
    """Five tasks in one process and in five fresh processes: the same state digests."""
    root = landed_workspace("processes")
    params = load_params(Workspace(root).params_path)
    together = [state_digest(s) for s in learn_stream(root, params, HOME / "one-process")]
    alone: list[str] = []
    base = ""
    for k in range(len(DEMO_TASKS)):
        command = [sys.executable, __file__, "--one-task", str(root), str(HOME / "five-processes"), base, str(k)]
        base = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]
        alone.append(state_digest(Path(base)))
    for k, (one, five) in enumerate(zip(together, alone, strict=True)):
        print(f"episode {k}: one process {one[:16]}  five processes {five[:16]}")
    return together == alone


def prove_kill() -> bool:
    """kill -9 in the middle of training task 3, then `lorax learn`: the uninterrupted run's digest."""
    root = landed_workspace("kill")
    uninterrupted = learn_stream(root, load_params(Workspace(root).params_path), HOME / "uninterrupted")
    started = subprocess.Popen([*LORAX, "learn"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    third = DEMO_TASKS[2]
    killed = False
    while started.poll() is None and not killed:
        for plan in (root / "work/episodes").glob("*/plan.json"):
            planned = json.loads(plan.read_text())["task"]["name"] == third
            if planned and (plan.parent / "training.safetensors").is_file():
                os.kill(started.pid, signal.SIGKILL)
                killed = True
        time.sleep(0.05)
    started.wait()
    print(f"killed during training of {third}: exit {started.returncode}")
    before = json.loads(lorax("status", "--json", cwd=root).stdout)
    print(f"after the kill the champion knows {before['known']}")
    again = lorax("learn", cwd=root)
    print("\n".join(line for line in again.stdout.splitlines() if "episode" in line or "already done" in line))
    final = json.loads(lorax("status", "--json", cwd=root).stdout)["champion"]["state_digest"]
    lorax("down", cwd=root)
    print(f"final digest {final[:16]}, uninterrupted {state_digest(uninterrupted[-1])[:16]}")
    return killed and final == state_digest(uninterrupted[-1])


def prove_paper() -> bool:
    """The `paper` preset on ConViT-Tiny at 224 px, few images, one epoch, through the flow on this machine's CPU."""
    import safetensors.torch
    import torch

    from lorax.network.building import import_timm

    root = new_workspace("paper", "--preset", "paper")
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(with_values(text, {"landing": {"min_train": 20, "min_val": 4}}))
    torch.manual_seed(0)
    model = import_timm().create_model("convit_tiny", pretrained=False, num_classes=0)
    weights = HOME / "convit_tiny_random.safetensors"
    safetensors.torch.save_file({n: w.contiguous() for n, w in model.state_dict().items()}, weights)
    random = np.random.default_rng(0)
    for task in ("first", "second"):
        for split, count in (("train", 20), ("val", 4)):
            for folder in ("0_real", "1_fake"):
                for i in range(count):
                    path = HOME / "paper-data" / task / split / folder / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    side = 200 + 40 * (i % 2)
                    Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
        lorax("land", str(HOME / "paper-data" / task), "--task", task, cwd=root)
    changes = {
        "training": {"epochs": 1},
        "backbone": {"name": "convit_tiny", "weights": str(weights)},
        "landing": {"min_train": 1, "min_val": 1},
    }
    path = root / "params.yaml"
    path.write_text(with_values(path.read_text(), changes))
    print(lorax("learn", cwd=root).stdout.strip()[-2000:])
    status = json.loads(lorax("status", "--json", cwd=root).stdout)
    lorax("down", cwd=root)
    return bool(status["champion"]["version"] == 2)


def prove_bad_input() -> bool:
    """Each bad input gives one clear error, and `lorax status` says the same after it as before."""
    root = landed_workspace("bad-input")
    path = root / "params.yaml"
    path.write_text(with_values(path.read_text(), {"training": {"epochs": 1}}))
    lorax("learn", cwd=root)
    good = HOME / "mini-cddb" / DEMO_TASKS[0]
    cases: dict[str, Callable[[Path], list[str]]] = {
        "an empty task folder": _empty,
        "a missing val": lambda copy: _land(copy, lambda: shutil.rmtree(copy / "val")),
        "a corrupt image": lambda copy: _land(copy, lambda: next((copy / "train/1_fake").iterdir()).write_bytes(b"BM")),
        "a renamed class folder": lambda copy: _land(copy, lambda: (copy / "val/1_fake").rename(copy / "val/1_other")),
        "a task name with ..": lambda copy: ["land", str(copy), "--task", "../escape"],
        "a link out of the root": lambda copy: _land(
            copy, lambda: (copy / "train/1_fake/x.bmp").symlink_to("/etc/hosts")
        ),
    }
    passed = True
    for name, spoil in cases.items():
        copy = HOME / "spoiled"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(good, copy)
        passed &= _refused(name, root, spoil(copy))
    passed &= _damaged_states(root)
    passed &= _full_disk(root, good)
    lorax("down", cwd=root)
    return passed


def _land(copy: Path, spoil: Callable[[], object]) -> list[str]:
    spoil()
    return ["land", str(copy), "--task", "spoiled"]


def _empty(copy: Path) -> list[str]:
    shutil.rmtree(copy)
    copy.mkdir()
    return ["land", str(copy), "--task", "spoiled"]


def _refused(name: str, root: Path, command: list[str]) -> bool:
    """Run a command that must fail with one clear error and change nothing."""
    before = _everything(root)
    done = lorax(*command, cwd=root, check=False)
    unchanged = _everything(root) == before
    clear = done.returncode == 1 and "Traceback" not in done.stderr and "error:" in done.stderr
    print(f"- {name}: exit {done.returncode}, status {'unchanged' if unchanged else 'CHANGED'}")
    print("    " + "\n    ".join(done.stderr.strip().splitlines()[:4]))
    return clear and unchanged


def _everything(root: Path) -> list[str]:
    """What must be as before: status, data.dvc, git's view of the workspace."""
    status = lorax("status", "--json", cwd=root).stdout
    git = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True).stdout
    return [status, git, hashlib.sha256((root / "data.dvc").read_bytes()).hexdigest()]


def _damaged_states(root: Path) -> bool:
    """A changed byte in a state file, and an unknown format, are refused; status is as before."""
    before, passed = _everything(root), True
    changes: dict[str, Callable[[Path], None]] = {
        "a changed byte in a state file": lambda directory: _flip(directory / "head.safetensors"),
        "an unknown format version": lambda directory: _renumber(directory / "learner.json"),
    }
    for name, change in changes.items():
        copy = HOME / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(next((root / "work/states").glob("[!.]*")), copy)
        change(copy)
        try:
            load_state(copy)
            passed = False
        except StateError as error:
            print(f"- {name}:\n    {error}")
    return passed and _everything(root) == before


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _renumber(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


def _full_disk(root: Path, good: Path) -> bool:
    """Landing onto a full disk: work/, where a landing is drafted, is a tmpfs of 256 KB (needs root)."""
    draft = root / "work/landing"
    draft.mkdir(parents=True, exist_ok=True)
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", draft]).returncode:
        print("- a full disk: not tried, mounting a small tmpfs needs root")
        return True
    try:
        return _refused("a full disk", root, ["land", str(good), "--task", "nospace"])
    finally:
        subprocess.run(["umount", draft], check=True)


PARTS: dict[str, Callable[[], bool]] = {
    "branches": prove_branches,
    "processes": prove_processes,
    "kill": prove_kill,
    "paper": prove_paper,
    "bad-input": prove_bad_input,
}


def main() -> None:
    if sys.argv[1:2] == ["--one-task"]:  # how `prove_processes` learns a task in a process of its own
        root, home, base, k = sys.argv[2:]
        params = load_params(Workspace(Path(root)).params_path)
        print(learn_task(Path(root), params, Path(home), Path(base) if base else None, int(k)))
        return
    HOME.mkdir(parents=True, exist_ok=True)
    run_parts(__doc__, PARTS)


if __name__ == "__main__":
    main()
