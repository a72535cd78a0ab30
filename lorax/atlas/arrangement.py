"""What a map of an atlas shows: places, colours, tree, similarities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from lorax.atlas.clustering import MOST_CLUSTERED, find_families, grow_tree
from lorax.atlas.index import Atlas
from lorax.atlas.searching import nearest_others
from lorax.atlas.segments import AtlasEntry
from lorax.atlas.space import LEAST_FITTED, Floats, similarity

MOST_SHOWN = 200
"""Entries in the heatmap and its tree at most; of a larger collection they are drawn evenly along the tree."""

MOST_COLOURED = 20
_FEW = 12
_NEAREST = 3
_AT_ONCE = 512
_LONGEST_NAME = 24

_PERPLEXITY = 30


class Rest(Enum):
    """Groups of entries that no label names; a label may well be the same text."""

    UNLABELLED = "no label"
    OTHERS = "others"


Group = str | Rest


@dataclass(frozen=True)
class Arrangement:
    """A map's content."""

    names: list[str]  # of N entries
    # by which each is coloured: its label, or its cluster where no entry has a label; derived ones have none
    groups: list[Group]
    kinds: list[Group]  # the groups that have a colour of their own, the largest first; at the end what has none
    places: Floats  # (N, 2)
    rule: str  # how the places were found, in words
    nearest: list[str]  # of each entry, the nearest others in words; of which none is derived
    shown: list[int]  # numbers of the entries in the heatmap, in the order of its rows
    heat: Floats  # their similarities (M, M)
    tree: tuple[Floats, Floats]  # lines of the dendrogram: (joins, 4) rows and (joins, 4) distances, each a bracket
    title: str  # what the map is of
    described: str  # by what entries are compared

    @property
    def is_small(self) -> bool:
        """Whether there is room to write every name and every similarity."""
        return len(self.names) <= _FEW

    @property
    def frame(self) -> list[tuple[float, float]]:
        """Across and up, from where to where the plane goes; beside a few points there is room for their names."""
        low, high = self.places.min(0), self.places.max(0)
        room = np.maximum(high - low, np.finfo(np.float32).eps) * ((0.25, 0.1) if self.is_small else (0.05, 0.05))
        return [(float(a), float(b)) for a, b in zip(low - room, high + room, strict=True)]

    def members(self, kind: Group) -> list[int]:
        """The numbers of the entries of one colour."""
        return [i for i, group in enumerate(self.groups) if group == kind]


def arrange(atlas: Atlas, descriptor: str = "product", group: str = "all") -> Arrangement:
    """Lay out a map of an atlas of two entries or more."""
    from scipy.cluster.hierarchy import dendrogram

    view = atlas.view(descriptor, group)
    shown = _shown(view.vectors)
    tree = dendrogram(grow_tree(view.vectors[shown]), no_plot=True)
    rows = [shown[i] for i in tree["leaves"]]
    known = len({entry.label for entry in atlas.entries if entry.label})
    places, rule = places_of(view.vectors)
    groups = _groups(atlas.entries, view.vectors)
    return Arrangement(
        names=[entry.name for entry in atlas.entries],
        groups=groups,
        kinds=[
            kind for kind, _ in sorted(Counter(groups).items(), key=lambda item: (isinstance(item[0], Rest), -item[1]))
        ],
        places=places,
        rule=rule,
        nearest=[
            ", ".join(f"{entry.name} {cosine:.2f}" for entry, cosine in others)
            for others in nearest_others(atlas, view, range(len(atlas)), _NEAREST)
        ],
        shown=rows,
        heat=similarity(view.vectors[rows], view.vectors[rows]),
        tree=((np.array(tree["icoord"]) - 5) / 10, np.array(tree["dcoord"])),  # scipy's leaves are at 5, 15, ...
        title=f"{len(atlas)} adapters, {f'{known} label' + 's' * (known != 1) if known else 'coloured by cluster'}",
        described=view.described,
    )


def places_of(vectors: Floats) -> tuple[Floats, str]:
    """Vectors (N, d), N at least 2, as points of a plane (N, 2); and the rule in words.

    t-SNE by cosine distance, begun at the principal components; of a large collection over a sample, beside which the
    others are put. Too few for that are laid out along the two directions in which they differ most. Vectors of a
    single number lie on a line.

    Source: van der Maaten and Hinton, Visualizing data using t-SNE (JMLR, 2008).
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    vectors = np.pad(vectors, ((0, 0), (0, max(0, 2 - vectors.shape[1]))))
    if len(vectors) < LEAST_FITTED:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        places = PCA(2, svd_solver="full").fit_transform(vectors / np.maximum(lengths, np.finfo(np.float32).tiny))
        return places, "the two directions in which they differ most"
    chosen = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_CLUSTERED)).astype(int))
    perplexity = min(_PERPLEXITY, (len(chosen) - 1) / 3)
    fitted = TSNE(2, metric="cosine", init="pca", perplexity=perplexity, random_state=0).fit_transform(vectors[chosen])
    places = np.empty((len(vectors), 2), np.float32)
    for start in range(0, len(vectors), _AT_ONCE):
        near = similarity(vectors[start : start + _AT_ONCE], vectors[chosen])
        best = np.argsort(-near, axis=1)[:, :_NEAREST]
        places[start : start + _AT_ONCE] = fitted[best].mean(1)
    places[chosen] = fitted
    return places, "t-SNE: who lies together counts, how far groups lie apart does not"


def clipped(name: Group) -> str:
    """A name that fits beside a row or a point."""
    name = text_of(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def text_of(group: Group) -> str:
    """A group's name."""
    return group.value if isinstance(group, Rest) else group


def _groups(entries: Sequence[AtlasEntry], vectors: Floats) -> list[Group]:
    """What each entry is coloured by: labels; where there are none at all, clusters."""
    labels, rest = [entry.label for entry in entries], Rest.UNLABELLED
    if not any(labels):
        rest, own = Rest.OTHERS, [i for i, entry in enumerate(entries) if not entry.is_derived]
        for i, number in zip(own, find_families(vectors[own]).members, strict=True):
            labels[i] = f"cluster {number + 1}"
    ranked = Counter(label for label in labels if label).most_common()
    coloured = {label for label, _ in (ranked if len(ranked) <= MOST_COLOURED else ranked[: MOST_COLOURED - 1])}
    return [label if label in coloured else Rest.OTHERS if label else rest for label in labels]


def _shown(vectors: Floats) -> list[int]:
    """The numbers of the entries in the heatmap: all, or some drawn evenly along the tree of a sample."""
    from scipy.cluster.hierarchy import leaves_list

    if len(vectors) <= MOST_SHOWN:
        return list(range(len(vectors)))
    sample = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), MOST_CLUSTERED)).astype(int))
    order = leaves_list(grow_tree(vectors[sample]))
    along = np.linspace(0, len(order) - 1, MOST_SHOWN).astype(int)
    return sorted(int(sample[order[i]]) for i in along)
