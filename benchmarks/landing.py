"""Landing a task of images as a tree, as Parquet and as tars against decoding them alone in one process.

What landing adds to decoding is hashing, the contract's checks, one copy into data/ and one into DVC's cache. Every
landing, and every decoding, is a process of its own, in turns; processor seconds count all processes that it starts.
Memory is what these hold beyond what is shared, all together, sampled five times a second, above what the one
that lands held before. With --kills, further landings are killed (SIGKILL) at moments drawn from a seed, each time
anew: afterwards nothing may have changed, or all has landed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from measure import Row, report
from PIL import Image

from lorax.data import memory, repository, versions
from lorax.data.commands import dvc
from lorax.data.images import decode
from lorax.data.landing import land, one_at_a_time
from lorax.data.transaction import roll_back
from lorax.workspace import Workspace

CLASSES = ("0_real", "1_fake")
SHARES = {"train": 0.75, "val": 0.25}
DECODED = 5000  # images that are decoded beside each landing, at most
SAMPLED_S = 0.2
MB = 2**20


def write_images(folder: Path, images: int, side: int) -> None:
    """Smooth colour noise, alternating PNG and JPEG: it compresses about as photographs do."""
    places = [(split, name, int(images * share / len(CLASSES))) for split, share in SHARES.items() for name in CLASSES]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write_some, [folder] * len(places), places, [side] * len(places), range(len(places))))


def _write_some(folder: Path, place: tuple[str, str, int], side: int, seed: int) -> None:
    split, name, images = place
    rng = np.random.default_rng([side, seed])
    noises = [rng.integers(-6, 7, (side, side, 3), dtype=np.int16) for _ in range(16)]  # drawing it takes longest
    (folder / split / name).mkdir(parents=True)
    for number in range(images):
        coarse = rng.integers(0, 256, (max(2, side // 8), max(2, side // 8), 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
        pixels = (smooth.astype(np.int16) + noises[number % 16]).clip(0, 255).astype(np.uint8)
        path = folder / split / name / f"{number}.{('png', 'jpg')[number % 2]}"
        Image.fromarray(pixels).save(path, compress_level=1)


def write_parquet(tree: Path, target: Path) -> None:
    """The tree's images in a Parquet file for each split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target.mkdir()
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "label": pa.string()})
    for split in SHARES:
        paths = sorted((tree / split).rglob("*.*"))
        with pq.ParquetWriter(target / f"{split}-0.parquet", schema) as writer:
            for start in range(0, len(paths), 100):
                rows = [
                    {"image": {"bytes": path.read_bytes(), "path": path.name}, "label": path.parent.name[2:]}
                    for path in paths[start : start + 100]
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema))


def write_tars(tree: Path, target: Path) -> None:
    """The tree's images in tar files as WebDataset has them, a thousand in each."""
    target.mkdir()
    for split in SHARES:
        paths = sorted((tree / split).rglob("*.*"))
        for start in range(0, len(paths), 1000):
            with tarfile.open(target / f"{split}-{start // 1000:05d}.tar", "w") as archive:
                for number, path in enumerate(paths[start : start + 1000]):
                    parts = ((path.suffix, path.read_bytes()), (".txt", path.parent.name[2:].encode()))
                    for ending, data in parts:
                        member = tarfile.TarInfo(f"{start + number:07d}{ending}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))


SOURCES = {"tree": lambda tree, target: None, "parquet": write_parquet, "tars": write_tars}


@contextmanager
def written(kind: str, tree: Path) -> Iterator[Path]:
    """The images as tree, Parquet or tars."""
    target = tree if kind == "tree" else tree.with_name(kind)
    SOURCES[kind](tree, target)
    yield target
    if target != tree:
        shutil.rmtree(target)


def empty_workspace(root: Path, cache_type: str = "") -> Workspace:
    versions.create_repository(root)
    if cache_type:
        dvc(root, "config", "cache.type", cache_type)
    (root / "params.yaml").write_text("landing: {min_train: 1, min_val: 1}\n")
    (root / ".gitignore").write_text("/work/\n/data\n")
    repository.commit(root, ["params.yaml", ".gitignore", ".dvc/config", ".dvc/.gitignore", ".dvcignore"], "Begin")
    return Workspace(root)


def child(what: str, source: Path, root: Path) -> None:
    """What the measured process does, once it is told to."""
    # listing a large tree, which landing does too, would count as decoding a small part of it
    paths = [] if what == "land" else random.Random(0).sample(sorted(source.rglob("*.*")), int(what))
    print("ready", flush=True)
    sys.stdin.readline()
    processor, clock = sum(os.times()[:4]), time.perf_counter()
    if what == "land":
        land(Workspace(root), source, "task")
    else:
        for path in paths:
            decode(path)
    print(json.dumps([sum(os.times()[:4]) - processor, time.perf_counter() - clock]), flush=True)


def begun(what: str, source: Path, root: Path) -> subprocess.Popen[str]:
    """Such a process, ready to begin."""
    command = [sys.executable, __file__, "--child", what, str(source), str(root)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def memories(process: psutil.Process) -> list[int]:
    """Bytes that the process and those it started hold for themselves alone, each."""
    found = []
    for one in (process, *process.children(recursive=True)):
        try:
            found.append(one.memory_full_info().uss)
        except psutil.Error:  # it has ended
            continue
    return found


def measured(what: str, source: Path, root: Path) -> dict[str, float]:
    """Processor seconds, seconds and memory of a process that lands or decodes."""
    process = begun(what, source, root)
    assert process.stdout is not None
    watched, done, peak, largest = psutil.Process(process.pid), threading.Event(), [0], [0]
    before = sum(memories(watched))

    def sample() -> None:
        while not done.wait(SAMPLED_S):
            held = memories(watched) or [0]
            peak[0], largest[0] = max(peak[0], sum(held)), max(largest[0], *held)

    sampler = threading.Thread(target=sample)
    sampler.start()
    tell(process)
    processor, clock = json.loads(process.stdout.readline())
    done.set()
    sampler.join()
    assert process.wait() == 0
    return {
        "processor_s": processor, "clock_s": clock, "memory_mb": (peak[0] - before) / MB, "largest_mb": largest[0] / MB
    }  # fmt: skip


def compared(kind: str, tree: Path, images: int, side: int, cache_type: str) -> Row:
    """A landing, and decoding right before it."""
    decoded = min(images, DECODED)
    with written(kind, tree) as source, tempfile.TemporaryDirectory(dir=tree.parent) as folder:
        load = os.getloadavg()[0]
        decoding = measured(str(decoded), tree, tree)
        empty_workspace(Path(folder), cache_type)
        landing = measured("land", source, Path(folder))
    decode_ms, land_ms = decoding["processor_s"] / decoded * 1e3, landing["processor_s"] / images * 1e3
    return {
        "kind": kind, "cache_type": cache_type, "images": images, "side": side, "load_before": load,
        "decode_processor_ms": decode_ms, "land_processor_ms": land_ms, "land_over_decode": land_ms / decode_ms,
        "decode_images_per_s": decoded / decoding["clock_s"], "land_images_per_s": images / landing["clock_s"],
        "memory_above_start_mb": landing["memory_mb"], "largest_process_mb": landing["largest_mb"],
        "land_s": landing["clock_s"],
    }  # fmt: skip


def state_of(workspace: Workspace) -> dict[str, object]:
    """What a landing may change: data.dvc, git's HEAD, files in data/ and in DVC's cache."""
    files = (path for place in (workspace.data_dir, workspace.root / ".dvc/cache/files") for path in place.rglob("*"))
    listed = {str(path): path.stat().st_size for path in files if path.is_file()}
    return {"head": repository.head(workspace.root), "data.dvc": workspace.data_dvc_path.read_bytes(), **listed}


def is_whole(workspace: Workspace) -> bool:
    """Whether the task has landed, all of it."""
    if "task" not in {entry.name for entry in versions.landed(workspace)}:
        return False
    pinned = versions.manifest(workspace)
    return all(memory.is_whole(workspace.data_dir / path, md5) for path, md5 in pinned.items())


def killed(kind: str, tree: Path, first: Path, kills: int, rng: random.Random) -> Row:
    """Landings that are killed, each at a moment of its own; then one that is not."""
    found = {"nothing changed": 0, "all has landed": 0, "neither": 0}
    with written(kind, tree) as source, tempfile.TemporaryDirectory(dir=tree.parent) as folder:
        trial = empty_workspace(Path(folder) / "trial")
        lasts_s = measured("land", source, trial.root)["clock_s"]
        moments = [round(rng.uniform(0, lasts_s), 2) for _ in range(kills)]
        for number, moment in enumerate(moments):
            workspace = empty_workspace(Path(folder) / str(number))
            land(workspace, first, "first")
            before = state_of(workspace)
            process = begun("land", source, workspace.root)
            tell(process)
            time.sleep(moment)
            process.kill()
            process.wait()
            with one_at_a_time(workspace):  # a DVC that it left at work holds the lock
                roll_back(workspace)
            whole, same = is_whole(workspace), state_of(workspace) == before
            end = "all has landed" if whole else "nothing changed" if same else "neither"
            found[end] += 1
            print(f"{kind}, killed after {moment} of {lasts_s:.1f} s: {end}", file=sys.stderr, flush=True)
            if number + 1 == kills:
                land(workspace, source, "task")
                assert is_whole(workspace)
            shutil.rmtree(workspace.root)
    return {"kind": kind, "killed": kills, "lasts_s": lasts_s, "moments_s": moments, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="0: none are landed but to be killed")
    parser.add_argument("--kinds", nargs="+", choices=SOURCES, default=[*SOURCES])
    parser.add_argument("--cache-type", default="", help="DVC's, such as hardlink; default: DVC's own")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--kills", type=int, default=0, help="in all, dealt to the kinds")
    parser.add_argument("--kill-images", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="for what is made, and removed; default: the system's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, source, root = arguments.child
        child(what, Path(source), Path(root))
        return
    rows: list[Row] = []
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as made:
        tree, small, first = (Path(made) / name for name in ("tree", "killed/tree", "first"))
        if arguments.images:
            write_images(tree, arguments.images, arguments.side)
        for kind in arguments.kinds if arguments.images else ():
            rows.append(compared(kind, tree, arguments.images, arguments.side, arguments.cache_type))
            some = [] if set(arguments.kinds) == set(SOURCES) else arguments.kinds
            some = [*some, *filter(None, [arguments.cache_type])]
            report("-".join(["landing", str(arguments.images), *some]), rows)
        if arguments.kills:
            write_images(small, arguments.kill_images, arguments.side)
            write_images(first, 80, arguments.side)
            kinds = arguments.kinds
            counts = [len(range(at, arguments.kills, len(kinds))) for at in range(len(kinds))]
            ends = [killed(kind, small, first, n, rng) for kind, n in zip(kinds, counts, strict=True)]
            report(f"landing-killed-{arguments.kill_images}", ends)


if __name__ == "__main__":
    main()
