"""The same stream without branches: one linear head on what the frozen backbone says.

What LoRA branches buy is the distance to this. What the frozen backbone says never changes, so it is asked once about
each image. The head is of the kind that params.yaml asks for:

    gradient    on the backbone's feature, with all else kept: the exemplar memory, herding, head growth that copies the
                old block. It is trained for as long as it takes: the comparison mustn't profit from one cut short.
    ridge       on the backbone's texture, solved from sums over all images so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorax.data.images import Images
from lorax.learning.exemplars import updated_memory
from lorax.learning.metrics import score
from lorax.learning.queries import Fetch
from lorax.learning.state import Exemplar
from lorax.learning.texture_head import Statistics
from lorax.learning.training import OnEpoch, epoch_seed
from lorax.network.backbone import Backbone
from lorax.network.building import open_backbone
from lorax.network.network import fresh_head, grown_head
from lorax.params import Params
from lorax.stream import ClassTable, Sample, Task

_EPOCHS, _LEARNING_RATE = 300, 1e-2
"""Of a trained head: the best of five settings on the demo's stream over 3 seeds (docs/log.md)."""

Said = Mapping[str, Tensor]
"""What the frozen backbone says of an image's centre, by md5."""


def learn(
    tasks: Sequence[Task], fetch: Fetch, params: Params, home: Path, on_epoch: OnEpoch | None = None
) -> list[tuple[float, ...]]:
    """Learn tasks in order with a head alone: a `Method`, which needs neither a home nor epochs worth telling."""
    torch.set_num_threads(params.run.threads)
    backbone, is_ridge = open_backbone(params.backbone), params.head.solver == "ridge"
    ask = backbone.texture if is_ridge else backbone.plain_feature
    samples = [sample for task in tasks for sample in (*task.train, *task.test)]
    said = _asked(ask, backbone, samples, fetch, params)
    heads = (_solved_heads if is_ridge else _trained_heads)(tasks, said, params)
    return [_row(head, classes, tasks[: k + 1], said) for k, (head, classes) in enumerate(heads)]


@torch.no_grad()
def _asked(
    ask: Callable[[Tensor], Tensor],
    backbone: Backbone,
    samples: Sequence[Sample],
    fetch: Fetch,
    params: Params,
) -> Said:
    images = Images.load(samples, fetch(samples), backbone.identity.crop, center_only=True)
    centers = images.center()[:, 0]
    rows = torch.arange(len(samples)).split(params.run.batch_size)
    parts = [ask(images.batch(r.numpy(), centers[r.numpy()])) for r in rows]
    return dict(zip((s.md5 for s in samples), torch.cat(parts), strict=True))


def _of(said: Said, samples: Sequence[Sample]) -> Tensor:
    return torch.stack([said[sample.md5] for sample in samples])


@torch.no_grad()
def _row(head: nn.Linear, classes: ClassTable, known: Sequence[Task], said: Said) -> tuple[float, ...]:
    answers = {task.name: head(_of(said, task.test)).argmax(dim=1) for task in known}
    true = {task.name: torch.tensor(classes.ids(task.test)) for task in known}
    return tuple(score(answers, {}, true, classes).accuracy.values())


def _solved_heads(tasks: Sequence[Task], said: Said, params: Params) -> Iterator[tuple[nn.Linear, ClassTable]]:
    """The head after each task, of all classes so far."""
    classes, sums = ClassTable(), Statistics.empty(len(next(iter(said.values()))))
    for task in tasks:
        classes = classes.with_classes_of(task)
        sums = sums.with_images(_of(said, task.train), torch.tensor(classes.ids(task.train)), len(classes))
        weight, bias = sums.solve(params.head.penalty, classes.multi_real())
        head = nn.Linear(weight.shape[1], len(classes))
        head.load_state_dict({"weight": weight, "bias": bias})
        yield head, classes


def _trained_heads(tasks: Sequence[Task], said: Said, params: Params) -> Iterator[tuple[nn.Linear, ClassTable]]:
    """The head after each task, of all classes so far."""
    classes, memory = ClassTable(), tuple[Exemplar, ...]()
    head = fresh_head(len(next(iter(said.values()))), 0, torch.Generator())
    for episode, task in enumerate(tasks):
        old, classes = len(classes), classes.with_classes_of(task)
        generator = torch.Generator().manual_seed(epoch_seed(params.run.seed, episode, 0))
        head = grown_head(head, 0, len(classes) - old, generator, branch_seed=0)  # which no branch has
        samples = [*task.train, *(e.sample for e in memory)]
        _fit(head, _of(said, samples), torch.tensor(classes.ids(samples)), params, generator)
        own = set(classes.ids(task.train))
        pool = [*task.train, *(e.sample for e in memory if e.class_id in own)]
        memory = updated_memory(memory, pool, _of(said, pool), classes, params.exemplars.budget)
        yield head, classes


def _fit(head: nn.Linear, inputs: Tensor, labels: Tensor, params: Params, generator: torch.Generator) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=_LEARNING_RATE, weight_decay=params.training.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS)
    for _ in range(_EPOCHS):
        for batch in torch.randperm(len(labels), generator=generator).split(params.training.batch_size * 4):
            loss = F.cross_entropy(head(inputs[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        schedule.step()
