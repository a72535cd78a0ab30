"""Digests of the learner states of a seeded stream of three tiny tasks: `python proofs/episode_digests.py`.

A change that is said to change no numbers leaves them as they are; run it before and after, on one machine. With
--processes N each episode is learned by N processes, whose sums are rounded otherwise than one's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from lorax.learning.state_files import state_digest
from lorax.params import Params
from tests.learning.conftest import NAMES, Stream, learn_one
from tests.tiny_learner import tiny_params

HEADS = {
    "gradient": {"solver": "gradient"},
    "ridge": {"solver": "ridge"},
    "ridge, perturbed": {"solver": "ridge", "perturbations": ["jpeg", "webp"]},
}


def learner(head: dict[str, object], processes: int) -> Params:
    """Parameters of a learner that calibrates; its backbone's weights lie in the current folder."""
    values = tiny_params(Path()).model_dump(mode="json")
    values["head"] |= head
    values["training"] |= {"views": 2}
    values["exemplars"] |= {"budget": 12}
    values["calibration"] |= {"per_class": 30}
    values["run"] |= {"batch_size": 8, "processes": processes}
    return Params.model_validate(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    processes = parser.parse_args().processes
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # a state names its backbone's file: here by a path that is always the same
        stream = Stream(Path("data"))
        for name, head in HEADS.items():
            params, base = learner(head, processes), None
            for k, task in enumerate(NAMES):
                base = learn_one(stream, params, Path(name), base, k).state_dir
                print(f"{name:<18} {task:<8} {state_digest(base)}", flush=True)


if __name__ == "__main__":
    main()
