"""Format leaks: whether how images are stored tells real from synthetic, so that a detector would learn that instead.

The field's classic failure is a detector that learned JPEG against PNG. A trivial classifier sees what storing an image
left in its pixels (lossy codec, JPEG tables, size, grey or few colours), and nothing of its content; what it gets right
beyond chance is a leak. What decoding leaves nothing of, such as PNG against BMP, is none.

Source: Grommelt et al., Fake or JPEG? Revealing Common Biases in Generated Image Detection Datasets (arXiv 2403.17608).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorax.data.container import Container

LEAST = 20
"""Images of either kind below which cross-validation says nothing."""

_FOLDS = 5
_DEPTH = 6
_LEAF = 5  # images that a rule must hold for, else it would learn single files
_NO_LEAK = 0.52


def leak_accuracy(real: Sequence[Container], synthetic: Sequence[Container]) -> float:
    """Cross-validated balanced accuracy of telling `real` from `synthetic` by their containers; chance is 0.5.

    Where even whoever knew how often either kind has each container could hardly tell them, it is how often he could.

    Args:
        real, synthetic: at least `LEAST` each.
    """
    ones, others = Counter(real), Counter(synthetic)
    most = sum(max(ones[kind] / len(real), others[kind] / len(synthetic)) for kind in ones | others) / 2
    return most if most < _NO_LEAK else cross_validated(_features([*real, *synthetic]), len(real))


def cross_validated(features: NDArray[np.float64], real: int) -> float:
    """Balanced accuracy with which a small tree tells the first `real` rows of (N, n) features from the others."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score  # takes a second
    from sklearn.tree import DecisionTreeClassifier

    labels = np.arange(len(features)) >= real
    tree = DecisionTreeClassifier(max_depth=_DEPTH, min_samples_leaf=_LEAF, class_weight="balanced", random_state=0)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    return float(cross_val_score(tree, features, labels, cv=folds, scoring="balanced_accuracy").mean())


def _features(containers: Sequence[Container]) -> NDArray[np.float64]:
    """One row per image: width, height, area, which codec, which look, which tables and how coarse they are."""
    numbers = [(c.width, c.height, c.width * c.height, sum(c.tables[:64]), sum(c.tables[64:])) for c in containers]
    columns = [
        *_one_hot([c.codec for c in containers]),
        *_one_hot([c.look for c in containers]),
        _rank([c.tables for c in containers]),
    ]
    return np.column_stack([np.array(numbers, np.float64), *columns])


def _one_hot(values: Sequence[str]) -> list[NDArray[np.float64]]:
    return [np.array([value == kind for value in values], np.float64) for kind in sorted(set(values))]


def _rank(tables: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
    """The place of each set of tables among all that occur; a tree cuts single ones out."""
    places = {kind: place for place, kind in enumerate(sorted(set(tables)))}
    return np.array([places[kind] for kind in tables], np.float64)
