"""Whose images are these? Real networks: a LoRA learned from a group of images, against the classifier's answers.

    python -m proofs.atlas_real_attribute FOLDER EPISODES [--seeds 0 1 2]

FOLDER is what `python -m scripts.real` makes; EPISODES what `python -m benchmarks.student --stream real --work` leaves:
the stream's episodes by seed. Groups of test images of the zoo's eight networks (`proofs/atlas_zoo.py`), which
neither the zoo nor the stream has learned from. Four answers to each: the nearest of the zoo's 48 LoRAs to a LoRA that
is learned from the group as the zoo's were; the nearest of the stream's branches to it; what `lorax atlas attribute`
says, from probes of its exemplars; and the generator that the classifier names most often.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.tasks import TaskFiles
from lorax.atlas.formats import branches_of, read_adapter
from lorax.atlas.index import Atlas
from lorax.atlas.searching import search
from lorax.attribution import nearest
from lorax.data.images import decode
from lorax.learning.state_files import load_state
from lorax.network.building import open_backbone
from lorax.params import LoraParams, Params
from lorax.stream import SCENARIOS, Sample
from lorax.verdicts.predictor import Predictor
from lorax.workspace import Workspace
from proofs.atlas_zoo import HOME, NETWORKS, REAL, SIZES, learn, make_real_zoo

SEEDS = (0, 1, 2)
GROUPS = {10: 1, 30: 1, 100: 1}
"""How many images a group has -> how many groups of each network."""

WAYS = ("zoo", "branches", "probes", "classifier")


def attributed(seed: int, folder: Path, files: TaskFiles, state_dir: Path) -> Iterator[tuple[int, dict[str, bool]]]:
    """Each group's size, and which answers to it are right."""
    asked, random = Asked(seed, folder, files, state_dir), np.random.default_rng(seed)
    tests = {task.name: [s for s in task.test if s.class_index] for task in files.tasks}
    reals = sorted({s.md5: s for task in files.tasks for s in task.train if not s.class_index}.values(), key=_md5)
    for name, (size, count) in product(NETWORKS, GROUPS.items()):
        order = random.permutation(len(tests[name]))
        for number in range(count):
            group = [tests[name][i] for i in order[number * size : (number + 1) * size]]
            others = [reals[i] for i in random.choice(len(reals), size, replace=False)]
            said = asked.say(f"{name}-{size}-{number}", group, others)
            yield size, {way: said[way] == name for way in WAYS}


class Asked:
    """All that can be asked about a group of images."""

    def __init__(self, seed: int, folder: Path, files: TaskFiles, state_dir: Path) -> None:
        self.seed, self.files = seed, files
        self.state, self.predictor = load_state(state_dir), Predictor.open(state_dir, "cpu")
        self.params = Params.model_validate(self.state.parameters)
        self.workspace = Workspace(HOME / f"real-attribute-{seed}")
        self.backbone = open_backbone(REAL)
        self.zoo, self.branches = (Atlas.open(self.workspace.root / name) for name in ("zoo", "branches"))
        made = make_real_zoo(seed, folder)
        learned = (read_adapter(made / f"{n}-{i}") for n in NETWORKS for i in range(len(SIZES)))
        self.zoo.add(learned, {f"{n}-{i}": n for n in NETWORKS for i in range(len(SIZES))}, missing_only=True)
        self.branches.add(branches_of(self.state, state_dir), missing_only=True)

    def say(self, name: str, group: list[Sample], reals: list[Sample]) -> dict[str, str]:
        """Whose images they are, in each of `WAYS`."""
        place = self.workspace.root / name
        pixels, others = ([decode(self.files.paths[s.md5]) for s in samples] for samples in (group, reals))
        if not place.exists():
            learn(place, self.backbone, LoraParams(), others, pixels, self.seed, 0)
        query, verdicts = read_adapter(place), self.predictor.judge(pixels, ["?"] * len(pixels))
        named = Counter(verdict.generator for verdict in verdicts if verdict.generator)
        # as many as `lorax atlas attribute` looks at
        some = sorted(group, key=_md5)[: self.params.atlas.probe_images]
        matches = nearest(self.workspace, self.state, self.params, some, self.files.fetch, lambda _: None)
        return {
            "zoo": search(self.zoo, query, 1).neighbours[0].label,
            "branches": search(self.branches, query, 1).neighbours[0].label,
            "probes": matches[0].label,
            "classifier": max(sorted(named), key=named.__getitem__, default=""),
        }


def _md5(sample: Sample) -> str:
    return sample.md5


def _last(episodes: Path) -> Path:
    """The state that knows most."""
    states = [path.parent for path in episodes.glob("*/state/learner.json")]
    return max(states, key=lambda path: len(load_state(path).branches))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("episodes", type=Path, metavar="EPISODES")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = TaskFiles()
    for name in SCENARIOS["real"]:
        files.read(options.folder / name)
    print(f"  {'images':>6} {'seed':>6} {'groups':>6}" + "".join(f"{way:>12}" for way in WAYS))
    for seed in options.seeds:
        state_dir = _last(options.episodes / f"episodes-{seed}")
        found: dict[int, list[dict[str, bool]]] = {size: [] for size in GROUPS}
        for size, right in attributed(seed, options.folder, files, state_dir):
            found[size].append(right)
        for size, rights in found.items():
            shares = "".join(f"{np.mean([right[way] for right in rights]):>12.3f}" for way in WAYS)
            print(f"  {size:>6} {seed:>6} {len(rights):>6}{shares}", flush=True)


if __name__ == "__main__":
    main()
