"""Fitting the newest branch and the head, one epoch at a time, resumable after any epoch.

Only one branch learns. What the older branches say of an image never changes, so it is looked up (`batches.py`); a step
costs one forward and one backward pass however many branches there are.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorax.errors import StateError
from lorax.learning.batches import TrainingSet
from lorax.network.network import Network, fresh_head
from lorax.network.passes import drawing, side_by_side
from lorax.network.process_group import SINGLE, ProcessGroup
from lorax.params import RunParams, TrainingParams
from lorax.storage import write_whole


@dataclass(frozen=True)
class EpochRow:
    """One epoch of training: mean losses, share of training images classified right, and how fast it went."""

    epoch: int
    loss: float
    diversity_loss: float
    train_accuracy: float
    learning_rate: float
    images_per_s: float
    seconds: float


OnEpoch = Callable[[EpochRow, int], None]
"""Told each finished epoch and how many there are in all."""

_OfPart = tuple[Sequence[Tensor | None], Tensor]
"""The gradient of each parameter; and what is told of the part, as by `Fit.step`."""

_PART = 8
"""Images of a batch that a CPU takes at once, in one thread: fewer cost more, of more what they become leaves its
cache."""


def learning_rate(epoch: int, peak: float, training: TrainingParams) -> float:
    """The rate of one epoch (0-based): linear warm-up from `warmup_rate`, then a cosine from `peak` to `minimum_rate`.

    The published schedule is stepped after each epoch, so every rate arrives one epoch late and the first comes twice.

    Source: LoRAX's released code (timm's cosine schedule); see docs/method.md.
    """
    step = max(epoch - 1, 0)
    if step < training.warmup_epochs:
        return training.warmup_rate + (peak - training.warmup_rate) * step / training.warmup_epochs
    cosine = (1 + math.cos(math.pi * step / training.epochs)) / 2
    return training.minimum_rate + (peak - training.minimum_rate) * cosine


def epoch_seed(seed: int, episode: int, epoch: int) -> int:
    """The seed of everything random in one epoch, so that a resumed run draws what an uninterrupted one does."""
    return int(np.random.SeedSequence([seed, episode, epoch]).generate_state(1)[0])


class Fit:
    """The fit of the newest branch and the head; the diversity head lives and dies with it.

    Args:
        network: grown for the new task.
        own: ids of the classes that the branch is of, which the diversity head tells apart; to it all others are one.
        training, run: sections of params.yaml.
        episode: index of the episode, from 0.
        group: who shares each batch; every rank has the same network.
    """

    def __init__(
        self,
        network: Network,
        own: Sequence[int],
        training: TrainingParams,
        run: RunParams,
        episode: int,
        group: ProcessGroup = SINGLE,
    ) -> None:
        self.network, self.training, self.run, self.episode, self.group = network, training, run, episode, group
        self.peak = training.learning_rate if episode else training.learning_rate_first
        generator = torch.Generator().manual_seed(epoch_seed(run.seed, episode, training.epochs))
        self.has_others = len(own) < network.head.out_features
        self.among_own = torch.zeros(network.head.out_features, dtype=torch.long, device=network.device)
        self.among_own[list(own)] = 1 + torch.arange(len(own), device=network.device)  # 0: any other class
        outputs = 1 + len(own) if self.has_others else 0
        self.diversity = fresh_head(network.backbone.width, outputs, generator).to(network.device)
        self.newest = network.branches - 1
        self.live = network.backbone.live_branch(self.newest)
        network.head.requires_grad_(True)
        heads = [*network.head.parameters(), *self.diversity.parameters()]
        self.parameters: list[nn.Parameter] = [*self.live.parameters, *heads]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.peak, weight_decay=training.weight_decay)
        self._part = _PART if network.device.type == "cpu" else training.batch_size
        self._over: Callable[..., Iterable[_OfPart]] = map

    def run_epochs(self, data: TrainingSet, checkpoint: Path, on_epoch: OnEpoch | None = None) -> list[EpochRow]:
        """Train to the last epoch, from the checkpoint's if there is one; the network then has what was learned.

        Raises:
            StateError: the checkpoint belongs to another fit.
            StorageError: the disk is full; the last whole checkpoint stays.
        """
        rows = self._resume(checkpoint)
        with self.side_by_side():
            for epoch in range(len(rows), self.training.epochs):
                rows.append(self._epoch(data, epoch))
                self.group.check_equal(self.parameters)
                if self.group.is_main:
                    self._save(checkpoint, rows)
                if on_epoch and self.group.is_main:
                    on_epoch(rows[-1], self.training.epochs)
        self.network.backbone.keep_branch(self.newest, self.live)
        self.network.requires_grad_(False)
        return rows

    def _epoch(self, data: TrainingSet, epoch: int) -> EpochRow:
        torch.manual_seed(epoch_seed(self.run.seed, self.episode, epoch))
        rate = learning_rate(epoch, self.peak, self.training)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        started = time.perf_counter()
        totals = torch.zeros(3, dtype=torch.float64, device=self.network.device)
        order = self._order(len(data.labels))
        if not self.group.is_main:  # each rank has dropout of its own
            torch.manual_seed(epoch_seed(self.run.seed + self.group.rank, self.episode, epoch))
        shares = [batch[self.group.rank :: self.group.size] for batch in order]
        for batch, (pixels, frozen, labels) in zip(order, data.batches(shares, epoch), strict=True):
            totals += self.step(pixels, frozen, labels, len(batch)) * len(batch)
        self.group.all_reduce([totals])
        seen = sum(len(batch) for batch in order)
        loss, diversity, right = (totals / max(seen, 1)).tolist()
        seconds = time.perf_counter() - started
        return EpochRow(epoch, loss, diversity, right, rate, seen / seconds, seconds)

    def _order(self, count: int) -> Sequence[Tensor]:
        batches = torch.randperm(count).split(self.training.batch_size)
        whole = [b for b in batches if len(b) == self.training.batch_size]
        return whole if self.training.drop_last and whole else batches

    def step(self, pixels: Tensor, frozen: Tensor, labels: Tensor, whole: int | None = None) -> Tensor:
        """One optimiser step on this process's share of a batch; the gradient is the whole batch's.

        Args:
            pixels: (B, 3, crop, crop), bytes; B may be 0.
            frozen: (B, (K-1)·D), what the older branches say of them.
            labels: (B,) class ids.
            whole: how many images the batch has in all processes; default: these are all.

        Returns:
            Loss, diversity loss and share of right answers, (3,) in float64: what this share adds to the batch's means.
        """
        whole = whole or len(labels)
        self.optimizer.zero_grad(set_to_none=True)
        told = torch.zeros(3, dtype=torch.float64, device=self.network.device)
        if len(labels):
            told = self._take_gradient(pixels, frozen, labels, whole)
        if self.group.size > 1:
            for parameter in self.parameters:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            self.group.all_reduce([p.grad for p in self.parameters if p.grad is not None])
        self.optimizer.step()
        return told

    @contextmanager
    def side_by_side(self) -> Iterator[None]:
        """While the block runs, each of torch's threads takes parts of a batch, in place of parts of each operation.

        Most operations are too short to be shared. What is drawn and added up does not depend on who does it.
        """
        parts = -(-self.training.batch_size // self._part)
        try:
            with side_by_side(self.network.device, parts) as self._over:
                yield
        finally:
            self._over = map

    def _take_gradient(self, pixels: Tensor, frozen: Tensor, labels: Tensor, whole: int) -> Tensor:
        parts = (tensor.split(self._part) for tensor in (pixels, frozen, labels))
        seeds = torch.randint(2**62, (-(-len(labels) // self._part),)).tolist()
        found = list(self._over(partial(self._of_part, whole), seeds, *parts))
        for parameter, *gradients in zip(self.parameters, *(of_part for of_part, _ in found), strict=True):
            there = [gradient for gradient in gradients if gradient is not None]
            parameter.grad = sum(there[1:], there[0]) if there else None
        return torch.stack([told for _, told in found]).sum(0)

    def _of_part(self, whole: int, seed: int, pixels: Tensor, frozen: Tensor, labels: Tensor) -> _OfPart:
        with drawing(seed):
            newest = self.network.live_feature(self.live, pixels)  # (B, D)
        logits = self.network.head(torch.cat([frozen, newest], dim=1))  # (B, C)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        diversity = torch.zeros((), device=self.network.device)
        if self.has_others:
            diversity = F.cross_entropy(self.diversity(newest), self.among_own[labels], reduction="sum")
        summed = (loss + self.training.diversity_weight * diversity) / whole
        gradient = torch.autograd.grad(summed, self.parameters, allow_unused=True)
        right = (logits.detach().argmax(dim=1) == labels).sum()
        return gradient, torch.stack([loss.detach().double(), diversity.detach().double(), right.double()]) / whole

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that training changes, by name; the same tensors, not copies."""
        tensors: dict[str, Tensor] = {f"parameter.{i:04d}": p.data for i, p in enumerate(self.parameters)}
        for i, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{i:04d}.{name}"] = value
        return tensors

    def _save(self, checkpoint: Path, rows: Sequence[EpochRow]) -> None:
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._tensors().items()}
        metadata = {"rows": json.dumps([asdict(row) for row in rows])}
        write_whole(checkpoint, safetensors.torch.save(tensors, metadata=metadata))

    def _resume(self, checkpoint: Path) -> list[EpochRow]:
        if not checkpoint.is_file():
            return []
        try:
            with safetensors.safe_open(checkpoint, framework="pt") as file:
                rows = [EpochRow(**row) for row in json.loads(file.metadata()["rows"])]
                saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            for i, parameter in enumerate(self.parameters):
                parameter.data.copy_(saved.pop(f"parameter.{i:04d}"))
                prefix = f"optimizer.{i:04d}."
                names = [name for name in saved if name.startswith(prefix)]
                self.optimizer.state[parameter] = {
                    n.removeprefix(prefix): saved.pop(n).to("cpu" if n.endswith(".step") else parameter.device)
                    for n in names
                }
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise StateError(
                f"checkpoint {checkpoint} can't be resumed ({type(error).__name__}: {error}). "
                "Remove it to train this branch from its first epoch."
            ) from error
        return rows
