"""From a learner state to a network: the state an episode begins with, and the network that a state describes."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lorax.errors import StateError
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state
from lorax.network.backbone import Backbone
from lorax.network.building import reopen_backbone
from lorax.network.head import TextureHead, fresh_head
from lorax.network.network import Network
from lorax.params import Params


def base_state(directory: Path, params: Params) -> LearnerState:
    """The state in `directory`, for an episode with these parameters to begin with.

    Raises:
        StateError: it is damaged, or was learned on another backbone than params.yaml names.
    """
    state = load_state(directory)
    wanted, found = params.learning()["backbone"], state.parameters.get("backbone")
    if wanted != found:
        raise StateError(
            f"params.yaml names backbone {wanted}, but the learner state in {directory} was learned on {found}. "
            "Branches fit one backbone only: restore the backbone section, or begin a new registry.model."
        )
    return state


def open_network(
    state: LearnerState, device: str = "auto", *, mixed_precision: bool = False, backbone: Backbone | None = None
) -> Network:
    """The network that a learner state describes, ready to predict.

    Args:
        state: the state.
        device: see `device_of`.
        mixed_precision: see `Network`.
        backbone: the state's, without branches, where it is at hand.

    Raises:
        BackboneError: its backbone can't be built here, or has other weights than the state names.
    """
    network = Network.empty(backbone or reopen_backbone(state.backbone), mixed_precision=mixed_precision)
    for branch in state.branches:
        network.backbone.load_branch(branch.config, branch.weights)
    classes, width = state.head_weight.shape
    network.head = fresh_head(width, classes, torch.Generator())
    network.head.load_state_dict({"weight": state.head_weight, "bias": state.head_bias})
    network.texture_head = texture_head_of(state)
    return network.requires_grad_(False).to(device_of(device))


def texture_head_of(state: LearnerState) -> TextureHead | None:
    """What reads the texture; None where nothing does."""
    solved = state.texture_head
    return TextureHead(solved.weight, solved.bias, solved.kind_weight, solved.kind_bias) if solved else None


def answers_of(state: LearnerState, features: Tensor, textures: Tensor) -> Tensor:
    """The classes (N,) that a state gives to images whose features (N, K·D) are known, as are further branches'."""
    logits = F.linear(features[:, : state.head_weight.shape[1]], state.head_weight, state.head_bias)
    if head := texture_head_of(state):
        logits = head.beside(logits, textures)
    return logits.argmax(dim=1)


def device_of(name: str) -> torch.device:
    """The device that `run.device` names; "auto" is a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
