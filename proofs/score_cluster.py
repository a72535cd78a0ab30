"""`lorax score` on a Ray cluster of several nodes on this machine: a node killed in the middle, and how fast it is.

    python -m proofs.score_cluster kill rate [--images 20000] [--partition 256]

kill: three nodes of one core each; one is killed when a third of the images are judged. Every image must be there
once, in the source's order, with the verdict that `lorax predict` gives.
rate: images a second and core against `lorax predict` on one core, on one node and on two, each node on a core of its
own, predict before, between and after; from the first finished partition of each node on, so without imports. At least
0.9 is asked for: of images in a second of processor time, since the clock tells as much of who else is at work on the
machine; both are printed, with the load, and written to benchmarks/results/score_cluster.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.dataset
from PIL import Image

from benchmarks.measure import report
from proofs.bench import LORAX, environment, land_tiny, lorax, new_workspace

HOME = Path("work/proofs/score").resolve()
_SIDE, _BROKEN_EVERY, _IN_A_FOLDER = 64, 1000, 500
_LEAST_RATIO = 0.9
_TOLERANCE = 1e-5
_LOOK_S = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], "kill", "rate"])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--partition", type=int, default=256)
    asked = parser.parse_args()
    root = learned_workspace()
    parts = {"kill": prove_kill, "rate": prove_rate}
    try:
        passed = [parts[name](root, asked.images, asked.partition) for name in asked.parts or parts]
    finally:
        lorax("down", cwd=root)  # what fetches the champion starts them
    raise SystemExit(not all(passed))


def prove_kill(root: Path, images: int, size: int) -> bool:
    """A node dies in the middle: every image exactly once, as predict judges it."""
    folder = write_images(HOME / f"images-{images}", images, _BROKEN_EVERY)
    expected = _predicted(root, folder)
    with _cluster([None] * 3) as (address, nodes, cluster):
        process, out = start(root, folder, size, address)
        third = len(expected) // size // 3 + 1
        while process.poll() is None and len(list(out.glob("part-*.parquet"))) < third:
            time.sleep(_LOOK_S)
        at = len(list(out.glob("part-*.parquet")))
        cluster.remove_node(nodes[-1], allow_graceful=False)
        said = process.communicate()[0]
    found = pyarrow.dataset.dataset(out).to_table(columns=["name", "verdict", "real"]).to_pylist()
    names = Counter(row["name"] for row in found)
    in_order = [row["name"] for row in found] == [*expected]
    other = sum(not _is_same(row, expected.get(row["name"], {})) for row in found)
    print(f"node killed after {at} partitions of {len(list(out.glob('part-*.parquet')))}; exit {process.returncode}")
    print(f"images {len(expected):,}, rows {len(found):,}, twice {sum(n > 1 for n in names.values())}; {in_order=}")
    print(f"verdicts that differ from predict's, in p(real) by more than {_TOLERANCE:.0e}, too: {other}")
    print(f"it said: {said.strip()}")
    return in_order and not other and process.returncode == 1  # some are broken


@dataclass(frozen=True)
class Rate:
    """How fast images are judged: in a second by the clock, and in one of processor time."""

    by_clock: float
    by_processor: float


def prove_rate(root: Path, images: int, size: int) -> bool:
    """Images a second and core: predict on one core, then one node and two."""
    folder = write_images(HOME / f"whole-{images}", images, broken_every=0)
    cores = sorted(os.sched_getaffinity(0))[:2]
    rows, alone = [], [_predict_rate(root, folder, cores[:1])]
    for count in (1, 2)[: len(cores)]:
        load = os.getloadavg()[0]
        with _cluster(cores[:count]) as (address, _, _):
            process, out = start(root, folder, size, address)
            rate = score_rate(process, out, size, count)
        alone.append(_predict_rate(root, folder, cores[:1]))
        base = Rate(
            *(statistics.mean(getattr(one, name) for one in alone[-2:]) for name in ("by_clock", "by_processor"))
        )
        rows.append(
            {
                "nodes": count,
                "images": len(_names(out)),
                "predict_images_per_s": base.by_clock,
                "score_images_per_s_and_core": rate.by_clock,
                "ratio_by_clock": rate.by_clock / base.by_clock,
                "predict_images_per_processor_s": base.by_processor,
                "score_images_per_processor_s": rate.by_processor,
                "ratio": rate.by_processor / base.by_processor,
                "load_before": load,
            }
        )
    print(f"predict, each time: {', '.join(f'{one.by_processor:.1f}' for one in alone)} images per processor second")
    report("score_cluster", rows)
    return min(row["ratio"] for row in rows) >= _LEAST_RATIO


def learned_workspace() -> Path:
    """A champion of two tiny tasks, learned once; its servers are down."""
    root = HOME / "tiny"
    if not (root / "learned").exists():
        new_workspace(HOME, root.name, tiny=True)
        try:
            for seed, name in enumerate(("alpha", "beta"), 1):
                land_tiny(root, name, seed)
            lorax("learn", cwd=root)
        finally:
            lorax("down", cwd=root)
        (root / "learned").touch()
    return root


def write_images(folder: Path, images: int, broken_every: int) -> Path:
    """PNG and JPEG by turns, some broken (0: none), in a folder that may be there from before."""
    if folder.exists():
        return folder
    random, draft = np.random.default_rng(4), folder.with_name(f".{folder.name}")
    shutil.rmtree(draft, ignore_errors=True)
    for number in range(images):
        path = draft / f"{number // _IN_A_FOLDER:04d}" / f"{number:06d}.{('png', 'jpg')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (_SIDE // 8, _SIDE // 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((_SIDE, _SIDE)).save(path)
        if broken_every and number % broken_every == broken_every // 2:
            path.write_bytes(path.read_bytes()[:60])
    draft.rename(folder)
    return folder


def _is_same(row: dict[str, Any], line: dict[str, Any]) -> bool:
    if row["verdict"] is None:
        return "error" in line
    return row["verdict"] == line.get("verdict") and abs(row["real"] - line["real"]) <= _TOLERANCE


def _predicted(root: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Name in the folder -> predict's line, in order."""
    done = lorax("predict", str(folder), "--json", cwd=root, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {str(Path(line["file"]).relative_to(folder)): line for line in lines}


def _predict_rate(root: Path, folder: Path, cores: list[int]) -> Rate:
    """Of `lorax predict`, from its first line on."""
    everywhere = os.sched_getaffinity(0)
    _pin(set(cores))  # what is started inherits it
    process = subprocess.Popen(
        [*LORAX, "predict", str(folder), "--json"],
        cwd=root,
        env=environment({"OMP_NUM_THREADS": str(len(cores))}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    _pin(everywhere)
    assert process.stdout is not None
    process.stdout.readline()
    began, before = time.perf_counter(), _processor_s(psutil.Process(process.pid))
    lines = sum(1 for _ in process.stdout)
    _, _, used = os.wait4(process.pid, 0)
    return Rate(lines / (time.perf_counter() - began), lines / (used.ru_utime + used.ru_stime - before))


def score_rate(process: subprocess.Popen[str], out: Path, size: int, nodes: int) -> Rate:
    """Of `lorax score`, a core, from when each node has finished a partition; by processors, its own count as well."""
    seen = dict[int, tuple[float, float]]()  # partitions -> when so many were first seen, and processor seconds then
    while process.poll() is None:
        done = len(list(out.glob("part-*.parquet")))
        if done >= nodes and done not in seen:
            with suppress(psutil.NoSuchProcess):  # a worker may end meanwhile
                workers = [one for one in psutil.Process().children(recursive=True) if one.name().startswith("ray::")]
                own = [psutil.Process(process.pid)]
                seen[done] = time.perf_counter(), sum(map(_processor_s, workers + own))
        time.sleep(_LOOK_S / 10)
    told = process.communicate()
    if process.returncode:
        raise SystemExit(f"lorax score ended with {process.returncode}: {told}")
    (first, (began, before)), (last, (ended, after)) = min(seen.items()), max(seen.items())
    images = (last - first) * size
    return Rate(images / (ended - began) / nodes, images / (after - before))


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _names(out: Path) -> list[str]:
    return list(pyarrow.dataset.dataset(out).to_table(columns=["name"]).column(0).to_pylist())


def start(root: Path, folder: Path, size: int, address: str | None) -> tuple[subprocess.Popen[str], Path]:
    out = root.parent / "verdicts"
    shutil.rmtree(out, ignore_errors=True)
    command = [*LORAX, "score", str(folder), "--out", str(out), "--partition", str(size)]
    command += ["--ray", address] if address else []
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=root, env=environment(), **pipes), out


@contextmanager
def _cluster(cores: list[int] | list[None]) -> Iterator[tuple[str, list[Any], Any]]:
    """A head without a place for tasks, and a node of one place for each of `cores`, pinned to it if that is not None.

    Yields its address, the nodes, and the cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    everywhere, memory = os.sched_getaffinity(0), 100 * 2**20
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": memory})
    try:
        nodes = []
        for core in cores:
            _pin(everywhere if core is None else {core})  # what a node starts inherits it
            nodes.append(cluster.add_node(num_cpus=1, object_store_memory=memory))
            _pin(everywhere)
        cluster.wait_for_nodes()
        yield cluster.address, nodes, cluster
    finally:
        cluster.shutdown()
        left = psutil.Process().children(recursive=True)
        psutil.wait_procs(left, timeout=10)


def _pin(cores: set[int]) -> None:
    """This thread and all that it starts."""
    os.sched_setaffinity(threading.get_native_id(), cores)


if __name__ == "__main__":
    main()
