"""The landing contract at 100,000 files, when as many have landed: seconds of its checks, and of near duplicates alone.

No image is decoded: what is timed is what comes after. Hashes are random, as those of pictures that differ, but for a
share in which a few bits were flipped.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from measure import report, seconds

from lorax.data import prints
from lorax.data.alike import nearest_within
from lorax.data.container import Container
from lorax.data.contract import check
from lorax.data.duplicates import Landed
from lorax.data.examine import Examined
from lorax.data.incoming import Incoming
from lorax.data.prints import prints_of
from lorax.params import LandingParams
from lorax.stream import PinnedTask
from lorax.workspace import Workspace

FOLDERS = ("train/0_real", "train/1_fake", "val/0_real", "val/1_fake")
CONTAINER = Container("lossless", "colour", 256, 256)
ALIKE = 100  # one in so many looks like one that has landed
FLIPPED = 0b11


def hashes(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64).tolist()


def looked_alike(found: list[int], others: list[int]) -> list[int]:
    pairs = enumerate(zip(found, others, strict=True))
    return [other ^ FLIPPED if i % ALIKE == 0 else one for i, (one, other) in pairs]


def files_of(found: list[int], name: str) -> dict[str, Examined]:
    blocks = np.random.default_rng(0).normal(0, 0.01, (len(found), 2)).tolist()
    return {
        f"{FOLDERS[i % 4]}/{i}.png": Examined(
            f"{name}{i:030x}", CONTAINER, one, "", f"{name}{i:031x}", tuple(blocks[i])
        )
        for i, one in enumerate(found)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    count = parser.parse_args().images
    others = hashes(count, 1)
    found = looked_alike(hashes(count, 2), others)
    old = files_of(others, "a")
    landed = Landed({f"old/{path}": file.md5 for path, file in old.items()}, prints_of(old.values()))
    incoming = Incoming("new", "digest", {}, files_of(found, "b"), ())
    checked = check(incoming, landed, LandingParams())
    with tempfile.TemporaryDirectory() as folder:
        workspace, task = Workspace(Path(folder)), PinnedTask("old", "0" * 32)
        row: dict[str, object] = {
            "images": count,
            "landed": count,
            "load_before": os.getloadavg()[0],
            "near_duplicates_s": seconds(lambda: nearest_within(found, others, LandingParams().near_bits)),
            "contract_s": seconds(lambda: check(incoming, landed, LandingParams())),
            "keep_s": seconds(lambda: prints.keep(workspace, task, landed.prints)),
            "known_s": seconds(lambda: prints.known(workspace, [task], landed.files)),
            "table_mb": next(workspace.prints_dir.iterdir()).stat().st_size / 1e6,
            **{f"found_{finding.kind}": len(finding.paths) for finding in checked.findings},
        }
    report(f"contract-{count}", [row])


if __name__ == "__main__":
    main()
