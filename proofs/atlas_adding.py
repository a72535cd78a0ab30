"""What adding a LoRA to an atlas costs, in times of reading its tensors: in turns, of the processor and by the clock.

    python -m proofs.atlas_adding [--count 80] [--rounds 5]

The files are those of `proofs.atlas_scale`, whose own figure is beside all else that it does. One thread; a first round
is not counted, since what a header says is worked out once for a collection.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch

from lorax.atlas.formats import read_adapter
from lorax.atlas.index import Atlas
from proofs.atlas_scale import Zoo, clocks, plain_reading
from proofs.atlas_zoo import HOME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    home = HOME / "adding"
    shutil.rmtree(home, ignore_errors=True)
    zoo = Zoo(home / "files")
    paths = [zoo.write(number) for number in range(given.count)]
    rounds = np.array([_round(home / f"atlas-{number}", paths) for number in range(given.rounds + 1)])[1:]
    shutil.rmtree(home)
    for clock, what in enumerate(("the processor's time", "by the clock")):
        reading, adding = 1000 * np.median(rounds[..., clock], 0) / given.count
        ratios = rounds[:, 1, clock] / rounds[:, 0, clock]
        print(
            f"  {what}: reading {reading:.1f} ms, adding {adding:.1f} ms; ratio {np.median(ratios):.2f} "
            f"({ratios.min():.2f} to {ratios.max():.2f})"
        )


def _round(folder: Path, paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """What reading all files and adding all of them took; see `clocks`."""
    reading = sum(map(plain_reading, paths), np.zeros(2))
    began = clocks()
    Atlas.open(folder).add(map(read_adapter, paths))
    return reading, clocks() - began


if __name__ == "__main__":
    main()
