"""Do LoRA weights tell generators apart? Every descriptor, module group and number of dimensions, on three zoos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from lorax.atlas.adapter import Factors
from lorax.atlas.descriptor import DESCRIPTORS, Describer
from lorax.atlas.formats import read_adapter
from lorax.atlas.space import Basis, fit_basis, similarity
from lorax.atlas.view import Lens
from proofs.atlas_zoo import SHARED, SIZES, ZOO, make_zoo

SEEDS = (0, 1, 2)
DIMS = (0, 4, 8, 16, 32)
"""Principal components; 0: none, the standardised rows as they are."""

IMAGES = ("feature", "texture")
SELECTIONS = {"all 48": slice(None), "one start": slice(0, SHARED), "own starts": slice(SHARED, None)}
_LEAST_NMI = 0.9
_LEAST_RIGHT = 0.8
STRENGTHS = (1.0, 0.25, 1.0, 4.0, 0.25)
"""Five, where generators have six LoRAs: every generator has each."""

Rows = NDArray[np.float32]
Setting = tuple[str, str, int]
"""Descriptor or image feature, module group, dimensions."""


@dataclass(frozen=True)
class Figures:
    """How well neighbours and clusters are the generators."""

    nmi: float
    ari: float
    map: float
    recall: float

    def __str__(self) -> str:
        return f"NMI {self.nmi:.3f}, ARI {self.ari:.3f}, mAP {self.map:.3f}, recall@1 {self.recall:.3f}"


@dataclass(frozen=True)
class Zoo:
    """All rows of a zoo: (generators, members, F) for each descriptor and image feature."""

    rows: dict[str, Rows]
    describer: Describer

    @classmethod
    def load(cls, home: Path, strengths: Sequence[float] = (1.0,), names: Sequence[str] = tuple(ZOO)) -> Zoo:
        """The zoo below `home`; B of its LoRAs multiplied by `strengths` in turn, as by another alpha."""
        adapters = [[read_adapter(home / f"{name}-{i}") for i in range(len(SIZES))] for name in names]
        describer = Describer(adapters[0][0].layers, DESCRIPTORS)
        turns = cycle(strengths)
        described = [[describer.describe(_scaled(a.factors(), next(turns))) for a in f] for f in adapters]
        rows = {d: np.array([[row[d].numpy() for row in family] for family in described]) for d in DESCRIPTORS}
        for feature in IMAGES:
            rows[feature] = np.array([[_image(home / f"{n}-{i}", feature) for i in range(len(SIZES))] for n in names])
        return cls(rows, describer)

    def figures(self, members: slice) -> dict[Setting, Figures]:
        """Of every setting, in bases fitted on just these members."""
        found: dict[Setting, Figures] = {}
        pairs = [(d, group) for d in DESCRIPTORS for group in self.describer.groups]
        for name, group in [*pairs, *((feature, "all") for feature in IMAGES)]:
            chosen = self.columns(name, group)[:, members]
            flat = chosen.reshape(-1, chosen.shape[-1])
            basis = fit_basis(flat, max(DIMS))
            scores = basis.project(flat, newcomers=False)[0]
            for dims in DIMS:  # components are nested: the first ones of many are the few
                vectors = scores[:, :dims] if dims else flat - basis.mean
                found[name, group, dims] = measured(vectors.reshape(*chosen.shape[:2], -1))
        return found

    def columns(self, name: str, group: str) -> Rows:
        """What the atlas compares of a descriptor's rows; of image features, every number by its own deviation."""
        rows = self.rows[name]
        flat = rows.reshape(-1, rows.shape[-1])
        if name in IMAGES:
            seen = flat / np.maximum(flat.std(0), 1e-12)
        else:
            seen = Lens(name, group, self.describer.columns(name, group)).seen(flat)
        return seen.reshape(*rows.shape[:2], -1)


def prove_families() -> bool:
    """Clusters and neighbours by LoRA weights against those by image features, on three zoos of 48 LoRAs."""
    torch.set_num_threads(2)
    zoos = [Zoo.load(make_zoo(seed)) for seed in SEEDS]
    found = {name: [zoo.figures(members) for zoo in zoos] for name, members in SELECTIONS.items()}
    for name in SELECTIONS:
        _print_table(name, found[name], zoos[0])
    best = {name: told_best(name, found[name]) for name in SELECTIONS}
    right, known_drift, unseen_drift = told_newcomers(zoos)
    weights, images = best["all 48"]["product"], max(best["all 48"][feature] for feature in IMAGES)
    product, factors = (_mean(found["own starts"], (d, "all", 16)) for d in ("product", "factors"))
    one_start = _mean(found["one start"], ("factors", "all", 16))
    print(f"  where starts differ: product {product:.3f}, factors {factors:.3f} (with one start: {one_start:.3f})")
    print(f"  NMI of product {weights:.3f} (asked {_LEAST_NMI}), of the best image features {images:.3f}")
    strength = _print_strengths(found["all 48"])
    told = right >= _LEAST_RIGHT and known_drift < unseen_drift and abs(strength) < 0.01
    return weights >= _LEAST_NMI and weights > images and product > factors and told


def measured(vectors: Rows) -> Figures:
    """Of vectors (G, M, d): M members of each of G generators.

    Clusters are Ward's, as many as there are generators, of vectors of length 1. A query's relevant answers are its
    generator's other members.
    """
    truth = np.repeat(np.arange(len(vectors)), vectors.shape[1])
    flat = vectors.reshape(len(truth), -1)
    unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    labels = AgglomerativeClustering(len(vectors), linkage="ward").fit_predict(unit)
    near = similarity(flat, flat)
    np.fill_diagonal(near, -2)
    right = truth[np.argsort(-near, axis=1, kind="stable")[:, :-1]] == truth[:, None]
    precision = np.cumsum(right, axis=1) / np.arange(1, len(truth))
    return Figures(
        normalized_mutual_info_score(truth, labels),
        adjusted_rand_score(truth, labels),
        float(((precision * right).sum(1) / right.sum(1)).mean()),
        float(right[:, 0].mean()),
    )


def _scaled(factors: Sequence[Factors], strength: float) -> list[Factors]:
    return [(a, b * strength) for a, b in factors]


def _image(place: Path, feature: str) -> Rows:
    return np.asarray(safetensors.torch.load_file(place / "features.safetensors")[feature].numpy())


def _mean(found: Sequence[dict[Setting, Figures]], setting: Setting) -> float:
    return float(np.mean([zoo[setting].nmi for zoo in found]))


def _print_table(name: str, found: Sequence[dict[Setting, Figures]], zoo: Zoo) -> None:
    """Every figure of every setting, mean and standard deviation over the zoos."""
    pairs = [(d, g) for d in DESCRIPTORS for g in zoo.describer.groups] + [(feature, "all") for feature in IMAGES]
    for figure, title in (("nmi", "NMI"), ("ari", "ARI"), ("map", "mAP"), ("recall", "recall@1")):
        over = f"mean (standard deviation) over {len(found)} zoos, by dimensions (none: all columns)"
        print(f"\n  {name}: {title}, {over}")
        print(f"  {'':<24}" + "".join(f"{dims or 'none':>14}" for dims in DIMS))
        for what, group in pairs:
            cells = [[getattr(z[what, group, dims], figure) for z in found] for dims in DIMS]
            label = f"image {what}" if what in IMAGES else f"{what}, {group}"
            print(f"  {label:<24}" + "".join(f"{np.mean(c):>7.3f} ({np.std(c):.3f})" for c in cells))


def told_best(name: str, found: Sequence[dict[Setting, Figures]]) -> dict[str, float]:
    """Each descriptor's NMI in the setting that is best on the other zoos, so that none is chosen by its own result."""
    print(f"\n  {name}: group and dimensions chosen for each zoo on the others; all four figures")
    told = {}
    for what in (*DESCRIPTORS, *IMAGES):
        chosen = []
        for i, zoo in enumerate(found):
            others = [z for j, z in enumerate(found) if j != i]
            settings = [s for s in zoo if s[0] == what]
            setting = max(settings, key=lambda s: np.mean([(z[s].nmi, z[s].map) for z in others]))
            chosen.append((setting, zoo[setting]))
        means = Figures(*np.mean([[f.nmi, f.ari, f.map, f.recall] for _, f in chosen], axis=0))
        spread = float(np.std([f.nmi for _, f in chosen]))
        where = ", ".join(f"{group}/{dims or 'none'}" for (_, group, dims), _ in chosen)
        print(f"  {what:<10} {means} (NMI's standard deviation {spread:.3f}; {where})")
        told[what] = means.nmi
    return told


def _print_strengths(found: Sequence[dict[Setting, Figures]]) -> float:
    """What other alphas change: NMI of product where they vary, less that where they don't."""
    zoos = [Zoo.load(make_zoo(seed), STRENGTHS).figures(slice(None)) for seed in SEEDS]
    setting = ("product", "all", 16)
    varied, plain = _mean(zoos, setting), _mean(found, setting)
    spectrum = _mean(zoos, ("spectrum", *setting[1:]))
    print(
        f"  strengths of {', '.join(map(str, STRENGTHS))} by turns (alpha): NMI of product {varied:.3f} "
        f"({plain:.3f} without), of spectrum {spectrum:.3f}"
    )
    return varied - plain


def told_newcomers(zoos: Sequence[Zoo]) -> tuple[float, float, float]:
    """What projecting newcomers does: one member of each generator left out in turn; then a whole generator.

    Returns:
        The share of newcomers whose nearest is of their generator; how often a refit is advised for newcomers of known
        and of unknown generators.
    """
    lengths, stretched, plain, right, drift, quiet = [], [], [], [], [], []
    for zoo in zoos:
        rows = zoo.columns("product", "all")
        for i in range(len(SIZES)):
            stay = np.delete(rows, i, axis=1)
            basis = fit_basis(stay.reshape(-1, rows.shape[-1]), 16)
            known = basis.project(stay.reshape(-1, rows.shape[-1]), newcomers=False)[0]
            for new, into in ((True, stretched), (False, plain)):
                scores, residuals = basis.project(rows[:, i], newcomers=new)
                into.append(np.linalg.norm(scores, axis=1).mean() / np.linalg.norm(known, axis=1).mean())
                if new:
                    nearest = similarity(scores, known).argmax(1) // (len(SIZES) - 1)
                    right.append((nearest == np.arange(len(rows))).mean())
                    quiet.append(basis.is_drifting(residuals))
            lengths.append(basis.stretch.mean())
        drift += [_drifts(rows, g) for g in range(len(rows))]
    print(
        f"\n  newcomers (product, 16 dimensions): their scores are {np.mean(plain):.2f} as long as those of the "
        f"adapters fitted on, {np.mean(stretched):.2f} calibrated (mean factor {np.mean(lengths):.2f}); nearest "
        f"neighbour right for {np.mean(right):.3f}"
    )
    print(
        f"  a refit is advised for {np.mean(quiet):.2f} of sets of newcomers of known generators, and for "
        f"{np.mean(drift):.2f} of those of a generator that the basis has not seen"
    )
    return float(np.mean(right)), float(np.mean(quiet)), float(np.mean(drift))


def _drifts(rows: Rows, generator: int) -> bool:
    others = np.delete(rows, generator, axis=0)
    basis: Basis = fit_basis(others.reshape(-1, rows.shape[-1]), 16)
    return basis.is_drifting(basis.project(rows[generator], newcomers=True)[1])
