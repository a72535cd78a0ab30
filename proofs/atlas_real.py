"""LoRAs of real networks: do their weights tell the networks apart, also at other ranks, and what a merge is made of?

    python -m proofs.atlas_real FOLDER

FOLDER is what `python -m scripts.real` makes. Three zoos of 48 LoRAs of the residual backbone (`proofs/atlas_zoo.py`);
each descriptor and the image features; newcomers; the data sets of one member learned at three other ranks; merges.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from lorax.atlas.adapter import Adapter, Reading
from lorax.atlas.formats import read_adapter
from lorax.atlas.index import Atlas
from lorax.atlas.merges import parts_of
from lorax.atlas.searching import search
from proofs.atlas_families import SELECTIONS, Zoo, told_best, told_newcomers
from proofs.atlas_zoo import HOME, NETWORKS, SIZES, make_real_zoo

SEEDS = (0, 1, 2)
RANKS, MEMBER = (4, 8, 32), 4
MERGES, MOST_PARTS = 40, 5


def ranks_told(home: Path, others: dict[int, Path]) -> dict[int, tuple[float, float]]:
    """For each rank the share of LoRAs whose nearest of rank 16 is of its network, and of its very data set."""
    atlas = _atlas(home, HOME / "real-ranks")
    found = {}
    for rank, place in others.items():
        nearest = [search(atlas, read_adapter(place / f"{n}-{MEMBER}"), k=1).neighbours[0].name for n in NETWORKS]
        of_network = np.mean([name.startswith(f"{n}-") for name, n in zip(nearest, NETWORKS, strict=True)])
        of_set = np.mean([name == f"{n}-{MEMBER}" for name, n in zip(nearest, NETWORKS, strict=True)])
        found[rank] = float(of_network), float(of_set)
    return found


def merges_told(home: Path, seed: int) -> tuple[float, float, float]:
    """AUROC of "is in the merge" by the entries' shares; the weights' mean error; the same AUROC with a stranger in it.

    Merges of two to five entries by weights of 0.2 to 1; beside them one of a network that the atlas lacks.
    """
    random, strangers = np.random.default_rng(seed), NETWORKS[-1]
    atlas = _atlas(home, HOME / "real-merges", without=strangers)
    names = [entry.name for entry in atlas.entries]
    truths, shares, errors, with_stranger = [], [], [], list[tuple[list[bool], list[float]]]()
    for number in range(MERGES):
        chosen = random.choice(names, random.integers(2, MOST_PARTS + 1), replace=False).tolist()
        weights = {name: float(random.uniform(0.2, 1)) for name in chosen}
        found = {part.name: part for part in parts_of(atlas, _merged(home, weights)).parts}
        truths += [name in weights for name in names]
        shares += [found[name].share if name in found else 0.0 for name in names]
        errors += [abs(found[name].weight - weight) if name in found else weight for name, weight in weights.items()]
        strange = weights | {f"{strangers}-{number % len(SIZES)}": 0.6}
        found = {part.name: part for part in parts_of(atlas, _merged(home, strange)).parts}
        with_stranger.append(([n in weights for n in names], [found[n].share if n in found else 0.0 for n in names]))
    told, said = (np.concatenate([pair[i] for pair in with_stranger]) for i in (0, 1))
    return float(roc_auc_score(truths, shares)), float(np.mean(errors)), float(roc_auc_score(told, said))


def _atlas(home: Path, folder: Path, without: str = "") -> Atlas:
    """A new atlas of a zoo's LoRAs."""
    for old in sorted(folder.rglob("*"), reverse=True):
        old.unlink() if old.is_file() else old.rmdir()
    atlas = Atlas.open(folder)
    networks = [name for name in NETWORKS if name != without]
    atlas.add(read_adapter(home / f"{name}-{i}") for name in networks for i in range(len(SIZES)))
    return atlas


def _merged(home: Path, weights: dict[str, float]) -> Adapter:
    """Adapters added up by weights, as float16 files hold them."""
    members = [(read_adapter(home / name), weight) for name, weight in weights.items()]
    pairs = zip(*([(a * weight, b) for a, b in of.factors()] for of, weight in members), strict=True)
    factors = [
        (torch.cat([a for a, _ in of]).half().float(), torch.cat([b for _, b in of], dim=1).half().float())
        for of in pairs
    ]
    layers = members[0][0].layers
    return Adapter("merge", "merge", "peft", members[0][0].base, layers, lambda: Reading(factors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    homes = {seed: make_real_zoo(seed, folder) for seed in SEEDS}
    zoos = [Zoo.load(home, names=NETWORKS) for home in homes.values()]
    for name, members in SELECTIONS.items():
        told_best(name, [zoo.figures(members) for zoo in zoos])
    told_newcomers(zoos)
    others = {rank: make_real_zoo(0, folder, rank, [MEMBER]) for rank in RANKS}
    for rank, (of_network, of_set) in ranks_told(homes[0], others).items():
        print(f"  rank {rank} against 48 of rank 16: recall@1 of the network {of_network:.2f}, of the set {of_set:.2f}")
    for seed, home in homes.items():
        auroc, error, with_stranger = merges_told(home, seed)
        print(
            f"  zoo {seed}, {MERGES} merges of 2 to {MOST_PARTS}: AUROC of being in one {auroc:.3f}, weights off by "
            f"{error:.3f} on average; with one that the atlas lacks {with_stranger:.3f}"
        )


if __name__ == "__main__":
    main()
