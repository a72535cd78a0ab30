"""LoRAX the published way, to measure ours against: written from the paper's and the released code's description.

What is done as published (docs/method.md, "Differences from the paper and its released code"):

- every forward pass switches PEFT's active adapter for each of the K branches. That turns gradients on for frozen ones,
  so a step costs K forward and K backward passes and keeps K sets of activations, though only the newest branch, the
  head and the diversity head are in the optimiser;
- timm's own attention; dropout is on in frozen branches, too, while a network trains and while exemplars are chosen;
- every epoch decodes every image and draws a fresh random crop; nothing is kept between epochs, steps or episodes;
- every test set is scored with all K branches, and exemplars are herded with all K on random crops.

What is ours on both sides, so that a comparison shows the way of computing and nothing else: hyper-parameters and
schedule, the two losses, the seeds of LoRA's A, of the head and of the order of images, decoding to pixels (small
images are continued by reflection), the herding rule and the multi-real score. Decoding happens in the training
process: loader processes would take the cores from training, and decoding is under one percent of it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lorax.data.images import decode, pad
from lorax.learning.exemplars import updated_memory
from lorax.learning.metrics import score
from lorax.learning.state import Exemplar
from lorax.learning.training import epoch_seed, learning_rate
from lorax.network.building import import_timm, open_backbone
from lorax.network.network import device_of, fresh_head, grown_head
from lorax.params import BackboneParams, LoraParams, Params
from lorax.stream import ClassTable, Sample, Task

Fetch = Callable[[Iterable[Sample]], Mapping[str, Path]]


class PublishedNetwork(nn.Module):
    """timm's model with one PEFT adapter per branch, and a linear head over all branches' features.

    Args:
        params: of the backbone.
        mixed_precision: matrix products in bfloat16 (autocast).
    """

    model: Any  # timm's model, wrapped by PEFT from the first branch on
    mean: Tensor
    std: Tensor

    def __init__(self, params: BackboneParams, *, mixed_precision: bool = False) -> None:
        super().__init__()
        self.mixed_precision = mixed_precision
        opened = open_backbone(params)
        self.identity = opened.identity
        name, arguments = self.identity.name, self.identity.arguments
        self.model = import_timm().create_model(name, pretrained=False, num_classes=0, **arguments)
        self.model.load_state_dict(opened.model.state_dict())
        self.model.requires_grad_(False)
        self.width, self.branches = int(self.model.num_features), 0
        self.head = fresh_head(0, 0, torch.Generator())
        self.register_buffer("mean", torch.tensor(self.identity.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.identity.std).view(3, 1, 1), persistent=False)

    def grow(self, lora: LoraParams, classes: int, *, branch_seed: int, head_seed: int) -> None:
        """Add a branch and `classes` outputs, seeded as ours are."""
        from peft import LoraConfig, get_peft_model

        device = self.head.weight.device
        targets = "|".join(f"(?:{target})" for target in lora.targets)
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of a second adapter
            if self.branches:
                self.model.add_adapter(_adapter(self.branches), config)
            else:
                self.model = get_peft_model(self.model, config, adapter_name=_adapter(0))
        self.branches += 1
        generator = torch.Generator().manual_seed(branch_seed)
        for name, parameter in self.newest_branch().items():
            if ".lora_A." in name:
                start = torch.empty(parameter.shape)
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
                parameter.data.copy_(start)
        generator = torch.Generator().manual_seed(head_seed)
        self.head = grown_head(self.head.cpu(), self.width, classes, generator, branch_seed=branch_seed)
        self.to(device)

    def newest_branch(self) -> dict[str, nn.Parameter]:
        """The newest branch's LoRA factors, by name."""
        mark = f".{_adapter(self.branches - 1)}."
        return {name: p for name, p in sorted(self.model.named_parameters()) if ".lora_" in name and mark in name}

    def export(self, branch: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """PEFT's configuration and weights of one branch."""
        from peft import get_peft_model_state_dict

        config = self.model.peft_config[_adapter(branch)].to_dict()
        weights = get_peft_model_state_dict(self.model, adapter_name=_adapter(branch), save_embedding_layers=False)
        return config, {name: value.detach().clone() for name, value in weights.items()}

    def features(self, pixels: Tensor) -> Tensor:
        """All branches' features, one after the other: normalised pixels (B, 3, crop, crop) -> (B, K·D)."""
        parts = []
        for k in range(self.branches):
            self.model.set_adapter(_adapter(k))  # which turns this branch's gradients on
            parts.append(self.model(pixels))
        return torch.cat(parts, dim=1)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.head.weight.device.type, torch.bfloat16, enabled=self.mixed_precision)

    def normalised(self, images: Tensor) -> Tensor:
        """Bytes (..., 3, crop, crop) as the network wants them."""
        pixels: Tensor = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return pixels

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Probabilities of every class seen: bytes (B, 3, crop, crop) -> (B, C)."""
        self.eval()
        with self.autocast():
            logits: Tensor = self.head(self.features(self.normalised(images)))
        return logits.float().softmax(dim=1)


def _adapter(branch: int) -> str:
    return f"branch{branch:04d}"


class PublishedFit:
    """Training of one episode; the diversity head lives and dies with it."""

    def __init__(self, network: PublishedNetwork, old_classes: int, params: Params, episode: int) -> None:
        self.network, self.params, self.episode, self.old_classes = network, params, episode, old_classes
        training = params.training
        self.peak = training.learning_rate if episode else training.learning_rate_first
        generator = torch.Generator().manual_seed(epoch_seed(params.run.seed, episode, training.epochs))
        outputs = 1 + network.head.out_features - old_classes if old_classes else 0
        self.diversity = fresh_head(network.width, outputs, generator).to(network.head.weight)
        parameters = [*network.newest_branch().values(), *network.head.parameters(), *self.diversity.parameters()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(parameters, lr=self.peak, weight_decay=training.weight_decay)

    def run_epochs(self, data: Dataset[tuple[Tensor, int]], count: int) -> None:
        for epoch in range(self.params.training.epochs):
            torch.manual_seed(epoch_seed(self.params.run.seed, self.episode, epoch))
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(epoch, self.peak, self.params.training)
            batches = [batch.tolist() for batch in torch.randperm(count).split(self.params.training.batch_size)]
            whole = [batch for batch in batches if len(batch) == self.params.training.batch_size]
            chosen = whole if self.params.training.drop_last and whole else batches
            for pixels, labels in DataLoader(data, batch_sampler=chosen):
                self.step(pixels, labels)

    def step(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One optimiser step on normalised pixels (B, 3, crop, crop): the loss and the diversity loss before it."""
        self.network.train()
        device = self.network.head.weight.device
        pixels, labels = pixels.to(device), labels.to(device)
        with self.network.autocast():
            features = self.network.features(pixels)
            loss = F.cross_entropy(self.network.head(features), labels)
            diversity = torch.zeros((), device=device)
            if self.old_classes:
                among_new = (labels - self.old_classes + 1).clamp(min=0)
                diversity = F.cross_entropy(self.diversity(features[:, -self.network.width :]), among_new)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + self.params.training.diversity_weight * diversity).backward()
        self.optimizer.step()
        return loss.detach(), diversity.detach()


class DecodedEachTime(Dataset[tuple[Tensor, int]]):
    """Image files that are read, decoded, cropped and normalised whenever they are asked for."""

    def __init__(
        self, network: PublishedNetwork, samples: Sequence[Sample], labels: Sequence[int], fetch: Fetch, *, random: bool
    ) -> None:
        paths = fetch(samples)
        self.paths, self.labels, self.random = [paths[s.md5] for s in samples], labels, random
        self.crop, self.normalised = network.identity.crop, network.normalised

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(pad(decode(self.paths[index]), self.crop)).permute(2, 0, 1)
        room = [side - self.crop for side in pixels.shape[1:]]
        top, left = (int(torch.randint(r + 1, ())) if self.random else r // 2 for r in room)
        return self.normalised(pixels[:, top : top + self.crop, left : left + self.crop]), self.labels[index]


class PublishedLearner:
    """The learner over a whole stream, in one process; `accuracy` is the matrix R, a row per episode."""

    def __init__(self, params: Params) -> None:
        torch.set_num_threads(params.run.threads)
        self.params = params
        self.network = PublishedNetwork(params.backbone, mixed_precision=params.training.mixed_precision)
        self.network.to(device_of(params.run.device))
        self.classes = ClassTable()
        self.tasks: list[Task] = []
        self.memory: tuple[Exemplar, ...] = ()
        self.accuracy: list[tuple[float, ...]] = []

    def learn(self, task: Task, fetch: Fetch) -> tuple[float, ...]:
        """One episode: grow, fit, herd, score; returns the accuracy on every task known."""
        self.train_branch(task, fetch)
        self.update_exemplars(task, fetch)
        self.evaluate(fetch)
        return self.accuracy[-1]

    def train_branch(self, task: Task, fetch: Fetch) -> None:
        fit = self.grow(task)
        samples = [*task.train, *(exemplar.sample for exemplar in self.memory)]
        labels = self.classes.ids(samples)
        fit.run_epochs(DecodedEachTime(self.network, samples, labels, fetch, random=True), len(samples))

    def grow(self, task: Task) -> PublishedFit:
        """Add the task's branch and classes; what trains them."""
        episode, old, run = len(self.tasks), len(self.classes), self.params.run
        self.tasks.append(task)
        self.classes = self.classes.with_task(task.name, task.classes)
        head_seed = epoch_seed(run.seed, episode, self.params.training.epochs + 1)
        self.network.grow(self.params.lora, len(task.classes), branch_seed=run.seed, head_seed=head_seed)
        return PublishedFit(self.network, old, self.params, episode)

    def update_exemplars(self, task: Task, fetch: Fetch) -> None:
        self.network.train()
        features = self._features(task.train, fetch, random=True)
        self.memory = updated_memory(self.memory, task.train, features, self.classes, self.params.exemplars.budget)

    def evaluate(self, fetch: Fetch) -> None:
        self.network.eval()
        predicted, true = {}, {}
        for task in self.tasks:
            with torch.no_grad():
                predicted[task.name] = self.network.head(self._features(task.test, fetch, random=False)).argmax(dim=1)
            true[task.name] = torch.tensor(self.classes.ids(task.test))
        self.accuracy.append(tuple(score(predicted, {}, true, self.classes).accuracy.values()))

    @torch.no_grad()
    def _features(self, samples: Sequence[Sample], fetch: Fetch, *, random: bool) -> Tensor:
        data = DecodedEachTime(self.network, samples, self.classes.ids(samples), fetch, random=random)
        device = self.network.head.weight.device
        loader = DataLoader(data, batch_size=self.params.run.batch_size)
        with self.network.autocast():
            return torch.cat([self.network.features(pixels.to(device)).float() for pixels, _ in loader])
