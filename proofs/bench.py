"""What proofs share: real `lorax` commands, fresh workspaces, tiny tasks that are learned in seconds."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from lorax.commands.init import with_values
from lorax.params import load_params

HOME = Path("work/proofs/loop").resolve()
LORAX = [sys.executable, "-m", "lorax"]

TRAIN, VAL, SIDE = 12, 8, 72
"""Images of a tiny task in each class of each split, and how large they are: enough for the leak check."""

OPEN_GATE = {
    f"{figure}_{limit}": value
    for figure in ("detection", "attribution")
    for limit, value in (("floor", 0.0), ("drop", 1.0), ("forgetting", 1.0))
}
"""Lets everything pass: few images prove nothing about accuracy."""

TINY: Mapping[str, Mapping[str, Any]] = {
    "training": {"epochs": 2},
    "exemplars": {"budget": 40},
    "run": {"threads": 1, "batch_size": 8},  # frozen features are computed in whole batches, filled up
    "landing": {"min_train": 1, "min_val": 1},
    "gate": OPEN_GATE,
}

_GIT = {
    "GIT_AUTHOR_NAME": "proof",
    "GIT_AUTHOR_EMAIL": "proof@localhost",
    "GIT_COMMITTER_NAME": "proof",
    "GIT_COMMITTER_EMAIL": "proof@localhost",
}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What commands run in: this environment, an identity for git, `extra` on top."""
    return {**os.environ, **_GIT, **(extra or {})}


def lorax(
    *arguments: str, cwd: Path, check: bool = True, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the `lorax` command as a user would, to its end; `env` is laid over this process's environment."""
    command = [*LORAX, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(env), capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"lorax {' '.join(arguments)} failed with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def start_lorax(
    *arguments: str, cwd: Path, log: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a `lorax` command in a process group of its own, where Ctrl-C works as in a terminal.

    Args:
        arguments, cwd, env: as for `lorax`.
        log: gets stdout and stderr; None makes them one pipe, `process.stdout`.
    """
    out = subprocess.PIPE if log is None else log.open("w")
    try:
        return subprocess.Popen(
            [*LORAX, *arguments],
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a shell starts its background jobs with SIGINT ignored, and they hand that down
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
    finally:
        if log is not None:
            out.close()  # type: ignore[union-attr]


def git(*arguments: str, cwd: Path) -> str:
    """What git prints."""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)} failed in {cwd}: {done.stderr.strip()}")
    return done.stdout.strip()


def free_port() -> int:
    """A loopback port that nobody listens on, below those that the kernel gives away: servers come back to theirs."""
    for port in random.SystemRandom().sample(range(20000, 32000), 200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise SystemExit("no free port found between 20000 and 32000")


def new_workspace(
    home: Path, name: str, tiny: bool, remote: Path | None = None, ports: tuple[int, int] | None = None
) -> Path:
    """A fresh workspace home/name with ports of its own; servers of an earlier one there are stopped.

    Args:
        tiny: commit parameters with which a tiny task is learned in seconds and always passes the gate.
        remote: the folder that DVC pushes to.
        ports: Prefect's and MLflow's; None takes free ones.
    """
    root = home / name
    remove_workspace(root)
    home.mkdir(parents=True, exist_ok=True)
    prefect, mlflow = map(str, ports or (free_port(), free_port()))
    place = ("--remote", str(remote)) if remote else ()
    lorax("init", str(root), *place, "--prefect-port", prefect, "--mlflow-port", mlflow, cwd=home)
    if tiny:
        change_params(root, TINY)
    return root


def share(root: Path, upstream: Path) -> None:
    """Make a fresh bare repository the workspace's upstream."""
    shutil.rmtree(upstream, ignore_errors=True)
    git("init", "--quiet", "--bare", "--initial-branch=main", str(upstream), cwd=root)
    git("remote", "add", "origin", str(upstream), cwd=root)
    git("push", "--quiet", "--set-upstream", "origin", "main", cwd=root)


def remove_workspace(root: Path) -> None:
    """Stop what runs in a workspace, and remove it; fine when there is none."""
    if (root / "params.yaml").is_file():
        lorax("down", cwd=root, check=False)
    shutil.rmtree(root, ignore_errors=True)


def change_params(root: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Change values of params.yaml and commit them."""
    path = root / "params.yaml"
    path.write_text(with_values(path.read_text(), changes))
    git("commit", "--quiet", "--message", "Change parameters", "--", "params.yaml", cwd=root)


def tiny_task(folder: Path, name: str, seed: int, *, train: int = TRAIN, val: int = VAL, swapped: bool = False) -> Path:
    """Write a task of PNG files to folder/name, other bytes for each name and seed; returns that folder.

    Synthetic images carry a grid whose period and direction depend on the name, so they can be told from real ones.

    Args:
        swapped: the labels are the wrong way round.
    """
    random_numbers = np.random.default_rng([seed, *name.encode()])
    trait = np.random.default_rng(list(name.encode()))
    waves = trait.uniform(0.4, 2.6, size=(2, 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE]
    grid = 40 * np.sin(waves[0] * x + waves[1] * y)[..., None] * trait.uniform(0.4, 1, size=3)
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    for split, count in (("train", train), ("val", val)):
        for is_synthetic in (False, True):
            target = place / split / ("1_fake" if is_synthetic != swapped else "0_real")
            target.mkdir(parents=True)
            for i in range(count):
                pixels = _scene(random_numbers) + (grid if is_synthetic else 0)
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target / f"{i:03}.png")
    return place


def _scene(random_numbers: np.random.Generator) -> Any:
    """Soft blobs of colour and a little noise: no two alike."""
    coarse = random_numbers.integers(40, 215, (6, 6, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)
    return soft + random_numbers.normal(0, 6, (SIDE, SIDE, 3))


def land_tiny(root: Path, name: str, seed: int = 0, *options: str) -> None:
    """Make a tiny task beside the workspace and land it."""
    lorax("land", str(tiny_task(root.parent / "raw", name, seed)), "--task", name, *options, cwd=root)


def wait_for(condition: Callable[[], object], patience_s: float, what: str, every_s: float = 0.5) -> float:
    """Wait until `condition()` is true; returns the seconds that it took.

    Raises:
        SystemExit: it took longer than `patience_s`.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > patience_s:
            raise SystemExit(f"waited {patience_s:.0f} s in vain: {what}")
        time.sleep(every_s)
    return time.monotonic() - began


def status(root: Path, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`lorax status --json`."""
    return dict(json.loads(lorax("status", "--json", cwd=root, env=env).stdout))


def history(root: Path, env: Mapping[str, str] | None = None) -> Any:
    """`lorax history --json`, as it is."""
    return json.loads(lorax("history", "--json", cwd=root, env=env).stdout)


def versions(root: Path, env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """All model versions, oldest first."""
    found = history(root, env)
    rows = found["versions"] if isinstance(found, dict) else found
    return sorted(rows, key=lambda row: int(row["version"]))


def line(root: Path, env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The champion and the versions it descends from, oldest first; empty while there is no champion."""
    rows = versions(root, env)
    by_digest = {row["state_digest"]: row for row in rows}
    row = next((row for row in rows if "champion" in row["aliases"]), None)
    found: list[dict[str, Any]] = []
    while row is not None:
        found.insert(0, row)
        row = by_digest.get(row["parent_digest"])
    return found


def digests(root: Path, env: Mapping[str, str] | None = None) -> list[str]:
    """The state digests of the champion's line of descent, oldest first."""
    return [row["state_digest"] for row in line(root, env)]


def ask_mlflow(
    root: Path, path: str, body: Mapping[str, Any] | None = None, method: str | None = None
) -> dict[str, Any]:
    """What the workspace's MLflow answers below /api/2.0/mlflow/; by GET without a body, else POST, if not told."""
    address = f"http://127.0.0.1:{load_params(root / 'params.yaml').services.mlflow_port}"
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


def timelines(root: Path) -> dict[str, dict[str, list[int]]]:
    """MLflow's timeline runs: line of descent -> metric -> the step of every point, in order."""
    model = load_params(root / "params.yaml").registry.model
    experiment = ask_mlflow(root, f"experiments/get-by-name?experiment_name={model}")["experiment"]
    query = {"experiment_ids": [experiment["experiment_id"]], "filter": "tags.`lorax.role` = 'timeline'"}
    found: dict[str, dict[str, list[int]]] = {}
    for run in ask_mlflow(root, "runs/search", query).get("runs", []):
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        if tags["lorax.line"] in found:
            raise SystemExit(f"two timeline runs carry the line {tags['lorax.line']}")
        curves = found[tags["lorax.line"]] = {}
        for metric in run["data"].get("metrics", []):
            where = f"metrics/get-history?run_id={run['info']['run_id']}&metric_key={quote(metric['key'])}"
            points = ask_mlflow(root, where)["metrics"]
            curves[metric["key"]] = sorted(int(point.get("step", 0)) for point in points)
    return found


def run_parts(about: str, parts: Mapping[str, Callable[[], bool]]) -> None:
    """The command line of a proof: run the parts that are named, or all, and tell which passed.

    What a part could not go on after (SystemExit) is told, and the next part has its turn.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(parts)} (default: all)")
    names = parser.parse_args().parts or list(parts)
    if unknown := sorted(set(names) - parts.keys()):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(parts)}")
    results: dict[str, tuple[bool, float]] = {}
    for name in names:
        print(f"\n== {name}: {parts[name].__doc__}", flush=True)
        started = time.perf_counter()
        try:
            passed = parts[name]()
        except SystemExit as end:
            print(f"  {end}")
            passed = False
        results[name] = passed, time.perf_counter() - started
        print(f"{'PASS' if passed else 'FAIL'} ({results[name][1]:.0f} s)", flush=True)
    print(f"\n{'part':<14} {'':<5} {'seconds':>8}")
    for name, (passed, seconds) in results.items():
        print(f"{name:<14} {'PASS' if passed else 'FAIL':<5} {seconds:>8.0f}")
    sys.exit(not all(passed for passed, _ in results.values()))
