"""Asking a network as verdicts do: the students first, the branches about those images of which they are not sure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lorax.learning.queries import Asker, FeatureQuery
from lorax.learning.state import LearnerState
from lorax.network.features import OnCached


def ask_as_served(
    asker: Asker,
    query: FeatureQuery,
    states: Sequence[LearnerState],
    *,
    with_texture: bool,
    on_cached: OnCached | None = None,
) -> tuple[Tensor, Tensor]:
    """What it takes to know what states say of images about which later states will be asked as well.

    So what a version's scores cost hardly grows with its branches: each is asked about few images.

    Args:
        asker: of a network whose first branches are those of every state.
        query: the images.
        states: each with a student, or the branches are asked about all images.
        with_texture: whether textures are wanted where no student reads them.
        on_cached: told about what is not looked up.

    Returns:
        The branches' features (N, K·D), zeros where they were not asked, and the textures (N, F), or (N, 0).
    """
    if not all(state.student for state in states):
        return asker.ask(query, with_texture=with_texture, asked_again=True, on_cached=on_cached)
    textures = asker.textures(query, on_cached)
    is_given = torch.ones(len(textures), dtype=torch.bool)
    for state in states:
        if (answered := state.ask_student(textures)) is not None:
            is_given &= answered[1]
    rows = (~is_given).nonzero()[:, 0].tolist()
    features = torch.zeros(len(textures), asker.network.head.in_features)
    if rows:
        some = replace(
            query,
            samples=[query.samples[i] for i in rows],
            corners=query.corners[rows],
            changes=[query.changes[i] for i in rows] if query.changes else (),
        )
        features[rows] = asker.ask(some, asked_again=True, on_cached=on_cached)[0]
    return features, textures
