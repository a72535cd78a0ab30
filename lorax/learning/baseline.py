"""The same stream without branches: one linear head on the frozen backbone's feature.

What LoRA branches buy is the distance to this. Everything else is kept: the exemplar memory, herding, head growth that
copies the old block, the multi-real rule. Since the features never change, they are computed once for each image, and
the head is trained on them for as long as it takes: the comparison mustn't profit from a baseline that is cut short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorax.data.images import Images
from lorax.learning.evaluation import accuracy_row, score
from lorax.learning.exemplars import updated_memory
from lorax.learning.state import Exemplar
from lorax.learning.training import epoch_seed
from lorax.network.backbone import Backbone, open_backbone
from lorax.network.head import fresh_head, grown_head
from lorax.params import Params
from lorax.stream import ClassTable, Sample, Task


def learn_without_branches(
    tasks: Sequence[Task],
    fetch: Callable[[Iterable[Sample]], Mapping[str, Path]],
    params: Params,
    *,
    epochs: int = 300,
    learning_rate: float = 1e-2,
) -> list[tuple[float, ...]]:
    """Learn `tasks` in order with a head alone.

    Args:
        tasks, fetch, params: as for an episode.
        epochs, learning_rate: of the head; the best of five settings on the demo's stream over 3 seeds (docs/log.md).

    Returns:
        The accuracy matrix, a row per episode.
    """
    torch.set_num_threads(params.run.threads)
    backbone = open_backbone(params.backbone)
    classes, rows = ClassTable(), list[tuple[float, ...]]()
    memory: tuple[Exemplar, ...] = ()
    head = fresh_head(backbone.width, 0, torch.Generator())
    features: dict[str, Tensor] = {}
    for episode, task in enumerate(tasks):
        features |= _features(backbone, [*task.train, *task.test], fetch, params)
        classes = classes.with_task(task.name, task.classes)
        generator = torch.Generator().manual_seed(epoch_seed(params.run.seed, episode, 0))
        head = grown_head(head, 0, len(task.classes), generator, branch_seed=0)  # which no branch has
        samples = [*task.train, *(e.sample for e in memory)]
        inputs = torch.stack([features[s.md5] for s in samples])
        _fit(head, inputs, torch.tensor(classes.ids(samples)), params, generator, epochs, learning_rate)
        new = torch.stack([features[s.md5] for s in task.train])
        memory = updated_memory(memory, task.train, new, classes, params.exemplars.budget)
        known = tasks[: episode + 1]
        with torch.no_grad():
            said = {t.name: head(torch.stack([features[s.md5] for s in t.test])).argmax(dim=1) for t in known}
        true = {t.name: torch.tensor(classes.ids(t.test)) for t in known}
        rows.append(accuracy_row(score(said, true, classes), [t.name for t in known]))
    return rows


@torch.no_grad()
def _features(
    backbone: Backbone, samples: Sequence[Sample], fetch: Callable[..., Mapping[str, Path]], params: Params
) -> dict[str, Tensor]:
    """md5 -> (D,), of each image's centre."""
    images = Images.load(samples, fetch(samples), backbone.identity.crop, center_only=True)
    centers = images.center()[:, 0]
    rows = torch.arange(len(samples)).split(params.run.batch_size)
    parts = [backbone.plain_feature(images.batch(r.numpy(), centers[r.numpy()])) for r in rows]
    return dict(zip((s.md5 for s in samples), torch.cat(parts), strict=True))


def _fit(
    head: nn.Linear,
    inputs: Tensor,
    labels: Tensor,
    params: Params,
    generator: torch.Generator,
    epochs: int,
    learning_rate: float,
) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=params.training.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(params.training.batch_size * 4):
            loss = F.cross_entropy(head(inputs[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        schedule.step()
