"""LoRAs of real networks: do weights tell them apart, also at other ranks and of other kinds, and what is in a merge?

    python -m proofs.atlas_real FOLDER

FOLDER is what `python -m scripts.real` makes. Three zoos of 48 LoRAs of the residual backbone (`proofs/atlas_zoo.py`);
each descriptor and the image features; newcomers; the data sets of one member learned at three other ranks and, by
PEFT's own modules, as LoRA, LoHa and LoKr (`proofs/atlas_kinds.py`); merges.
"""

from __future__ import annotations

import argparse
from itertools import product
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
from proofs.atlas_kinds import KINDS, learn_kind
from proofs.atlas_zoo import HOME, NETWORKS, REAL, SHOWN, SIZES, make_real_zoo

SEEDS = (0, 1, 2)
RANKS, MEMBERS = (4, 8, 32), (4,)
"""Those learned otherwise, too; their A starts otherwise then, and at 16 as no other one's."""

MERGES, MOST_PARTS = 40, 5


def others_told(home: Path, others: dict[str, Path]) -> dict[str, tuple[float, ...]]:
    """What adapters of the same data sets, but otherwise learned, find among the zoo's LoRAs.

    Returns:
        For each folder of such adapters the share whose nearest is of their network, and of their very data set; and
        the share of those whose data set comes first among their network's six.
    """
    atlas = _atlas(home, HOME / "real-ranks")
    found = {}
    for what, place in others.items():
        right = []
        for network, member in product(NETWORKS, MEMBERS):
            name = f"{network}-{member}"
            order = [near.name for near in search(atlas, read_adapter(place / name), k=len(atlas)).neighbours]
            own = next(near for near in order if near.startswith(f"{network}-"))
            right.append((order[0] == own, order[0] == name, own == name))
        found[what] = tuple(np.mean(right, axis=0).tolist())
    return found


def otherwise_learned(home: Path, seed: int, folder: Path) -> dict[str, Path]:
    """Folders of adapters that learned some of a zoo's data sets at other ranks, or as other kinds."""
    others = {f"rank {rank}": make_real_zoo(seed, folder, rank, MEMBERS) for rank in RANKS}
    for kind in KINDS:
        others[kind] = home.with_name(f"{home.name}-{kind}")
        for name in (f"{n}-{member}" for n in NETWORKS for member in MEMBERS):
            right = learn_kind(kind, home / name, others[kind] / name, REAL, SHOWN, 1)
            print(f"  {kind} of {name}: {right:.3f} of its images right", flush=True)
    return others


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
    for what, found in others_told(homes[0], otherwise_learned(homes[0], 0, folder)).items():
        of_network, of_set, among_own = found
        print(
            f"  {what} against 48 LoRAs of rank 16: recall@1 of the network {of_network:.2f}, of the set {of_set:.2f}; "
            f"the set first among its network's {among_own:.2f}"
        )
    for seed, home in homes.items():
        auroc, error, with_stranger = merges_told(home, seed)
        print(
            f"  zoo {seed}, {MERGES} merges of 2 to {MOST_PARTS}: AUROC of being in one {auroc:.3f}, weights off by "
            f"{error:.3f} on average; with one that the atlas lacks {with_stranger:.3f}"
        )


if __name__ == "__main__":
    main()
