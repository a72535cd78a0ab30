"""DER-like: a whole copy of the backbone for each task, all of it trained, and a head over what all copies say.

Copy k starts as the frozen backbone, learns its task and never changes again; features are concatenated (B, K·D) and
the head is (C, K·D), as with branches. So this is LoRAX at full rank: what it costs to leave the low rank out.

Of a backbone with a front the copies are of what comes after it (`SplitModel`): what the front gives is computed once,
and stays what it was pretrained to be. ConViT's gates and positional maps stay, too, since they are computed once.

Source: Yan et al., DER: Dynamically Expandable Representation for Class Incremental Learning (CVPR 2021), section 3.2
(a new extractor beside frozen ones; the auxiliary loss, which is LoRAX's diversity loss), without the masks that prune
it: "DER w/o P" of LoRAX's table (arXiv 2504.08149).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorax.learning.methods.lessons import Lesson, Taught, Teach, learn_in_turn
from lorax.learning.queries import Fetch
from lorax.learning.training import OnEpoch
from lorax.network.backbone import Backbone
from lorax.network.branch import LiveBranch
from lorax.network.building import open_as
from lorax.network.network import Network
from lorax.network.passes import encode
from lorax.params import Params
from lorax.stream import Task


def learn(
    tasks: Sequence[Task], fetch: Fetch, params: Params, home: Path, on_epoch: OnEpoch | None = None
) -> list[tuple[float, ...]]:
    """Learn tasks in order, each with a copy of the backbone: a `Method`."""
    return learn_in_turn(*begin(params), tasks, fetch, params, home, on_epoch)


def begin(params: Params) -> tuple[Network, Teach]:
    """A network that knows nothing, and how it takes in a task."""
    backbone = open_as(Copies, params.backbone)

    def teach(lesson: Lesson) -> Taught:
        backbone.add_copy()
        lesson.grow_head(backbone.width)
        return lesson.rehearse()

    return Network.empty(backbone, mixed_precision=params.training.mixed_precision), teach


class Copies(Backbone):
    """A backbone whose branches are whole copies of its model."""

    def __init__(self, *built: Any) -> None:
        super().__init__(*built)
        self.copies = nn.ModuleList()
        self._digests: list[str] = []  # of those that have learned

    @property
    def branches(self) -> int:
        return len(self.copies)

    def add_copy(self) -> None:
        """Add one that says what the frozen model does, and is to learn next."""
        self.copies.append(copy.deepcopy(self.model))

    def digest_of(self, k: int) -> str:
        return self._digests[k]

    def live_branch(self, k: int) -> LiveBranch:
        blank = torch.zeros(1, 3, self.identity.crop, self.identity.crop, dtype=torch.uint8, device=self.mean.device)
        return _LiveCopy(self.copies[k], self._tokens, self.embed(blank).tokens)

    def keep_branch(self, k: int, live: LiveBranch) -> None:
        learned = self.copies[k].requires_grad_(False)  # in place
        digest = hashlib.sha256(b"a whole copy")
        for name, value in learned.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        self._digests.append(digest.hexdigest())

    def _pass(self, tokens: Tensor, branches: range) -> Tensor:
        return torch.cat([encode(self.copies[k], tokens) for k in branches], dim=1)


class _LiveCopy(LiveBranch):
    """The copy that learns; `parameters` are those that its feature depends on once there are tokens."""

    def __init__(self, model: nn.Module, embedded: Callable[[Tensor], Tensor], tokens: Tensor) -> None:
        self._model, self._embedded = model, embedded
        parameters = list(model.requires_grad_(True).parameters())
        found = torch.autograd.grad(encode(model, tokens).sum(), parameters, allow_unused=True)
        self.parameters = [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]

    def __call__(self, images: Tensor) -> Tensor:
        return encode(self._model, self._embedded(images))
