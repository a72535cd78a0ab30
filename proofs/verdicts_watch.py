"""`lorax watch-verdicts` on a stream of known generators, in which at some point one appears that was never learned."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lorax.commands.watch_verdicts import UNKNOWN_RISING
from lorax.data.generators import GENERATORS, Ints
from lorax.data.simulate import cut_patches
from lorax.params import load_params
from lorax.services.prefect_api import PrefectApi
from lorax.workspace import Workspace
from proofs.bench import LORAX, lorax
from proofs.verdicts_demo import HOME, learned_workspace

BEFORE, AFTER = 600, 200
REAL, SIXTH = 0.5, 0.3
"""Shares: of real images in the stream, and of the sixth generator's once it has appeared."""

_SEED = 100  # patches of the photos' val halves at other places than the demo's test images
_LEAST_PURITY = 0.9
_PATIENCE_S = 300.0


def scanlines(patch: Ints) -> Ints:
    """A decoder that makes even and odd rows in two passes, which differ a little in brightness."""
    rows: Ints = np.where(np.arange(len(patch)) % 2 == 0, 4, -4)
    return patch + rows[:, None, None]


def prove_watch() -> bool:
    """A sixth generator appears in a stream of real images and five known generators: it is told, with its cluster."""
    root, inbox = learned_workspace(), HOME / "inbox"
    shutil.rmtree(inbox, ignore_errors=True)
    inbox.mkdir(parents=True)
    stream = _stream()
    _put(inbox, stream, 0, BEFORE)
    before = lorax("watch-verdicts", str(inbox), "--once", "--json", cwd=root, check=False)
    [*rises, end] = [json.loads(line) for line in before.stdout.splitlines()]
    print(f"{end['images']} known images: {_told(end)}; {len(rises)} changes, exit {before.returncode}")
    lorax("up", "--no-worker", cwd=root)
    try:
        rise, code = _watched_live(root, inbox, lambda: _put(inbox, stream, BEFORE, AFTER))
        taken = _events(root)
    finally:
        lorax("down", cwd=root)
    sixth = rise["images"] - BEFORE
    print(f"risen {sixth} images after the sixth generator appeared: {_told(rise)}")
    print(f"told Prefect's server: {rise['announced']}, which has the event: {taken}; ended by Ctrl-C with exit {code}")
    is_pure = _purity(Path(rise["report"]))
    return not rises and before.returncode == 0 and 0 < sixth <= AFTER and taken and code == 130 and is_pure


def _stream() -> Iterator[tuple[str, Ints]]:
    """Images and what made them, without end: known ones first, from `BEFORE` on with the sixth's among them."""
    random = np.random.default_rng(_SEED)
    names = list(GENERATORS)
    for number, patch in enumerate(cut_patches("val", _SEED)):
        drawn, which = random.random(), names[random.integers(len(names))]
        if number >= BEFORE and random.random() < SIXTH:
            yield "sixth", scanlines(patch.astype(np.int64))
        elif drawn < REAL:
            yield "real", patch.astype(np.int64)
        else:
            yield which, GENERATORS[which](patch.astype(np.int64))


def _put(inbox: Path, stream: Iterator[tuple[str, Ints]], first: int, count: int) -> None:
    """Let the next images come in, one after the other by their times; only their names say what they are."""
    for number, (kind, image) in enumerate(islice(stream, count), first):
        path = inbox / f"{kind}-{number:04d}.bmp"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
        os.utime(path, (1.7e9 + number, 1.7e9 + number))


def _watched_live(root: Path, inbox: Path, more: Callable[[], None]) -> tuple[dict[str, Any], int]:
    """Follow the folder while more comes in; the line of the rise, and the exit code after Ctrl-C."""
    command = [*LORAX, "watch-verdicts", str(inbox), "--json"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        more()
        deadline, text = time.monotonic() + _PATIENCE_S, b""
        while b"\n" not in text and time.monotonic() < deadline:
            time.sleep(0.5)
            text += process.stdout.read() or b""
        process.send_signal(signal.SIGINT)
    if b"\n" not in text:
        raise SystemExit(f"no rise within {_PATIENCE_S:.0f} s")
    rise: dict[str, Any] = json.loads(text.splitlines()[0])
    return rise, process.returncode


def _events(root: Path) -> bool:
    """Whether Prefect's server has the event."""
    workspace = Workspace(root)
    api = PrefectApi.of(workspace, load_params(workspace.params_path))
    for _ in range(20):  # it stores events a few at a time
        found = api.post("events/filter", {"filter": {"event": {"name": [UNKNOWN_RISING]}}, "limit": 5})
        if found and found["events"]:
            return True
        time.sleep(1)
    return False


def _purity(report: Path) -> bool:
    """Print what each cluster holds; whether the largest is the sixth generator's."""
    found = json.loads(report.read_text())
    for number, cluster in enumerate(found["clusters"]):
        kinds = Counter(Path(member["file"]).name.split("-")[0] for member in cluster["members"])
        verdicts = Counter(member["verdict"] for member in cluster["members"])
        purity = kinds["sixth"] / cluster["size"]
        print(
            f"cluster {number}: {cluster['size']} images, purity {purity:.2f} ({_counts(kinds)}), "
            f"cohesion {cluster['cohesion']:.2f}"
        )
        print(f"    verdicts: {_counts(verdicts)}; furthest from usual in branch {cluster['branch']}")
        print(f"    {report.parent / f'cluster-{number}.png'}")
    print(f"in no cluster: {found['unclustered']}")
    first = found["clusters"][0] if found["clusters"] else {"size": 0, "members": []}
    pure = sum(Path(member["file"]).name.startswith("sixth") for member in first["members"])
    print(f"purity of the largest cluster {pure / max(first['size'], 1):.2f} (asked: at least {_LEAST_PURITY})")
    return bool(first["size"]) and pure / first["size"] >= _LEAST_PURITY


def _told(record: dict[str, Any]) -> str:
    low, high = record["interval"]
    return (
        f"{100 * record['share']:.1f} % of the last {record['window']} like nothing known "
        f"({100 * low:.1f} to {100 * high:.1f}), rate {100 * record['rate']:.0f} %"
    )


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
