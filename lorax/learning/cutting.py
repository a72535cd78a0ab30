"""A task is cut out of a learner state: branch, classes, exemplars, calibration images and sums over textures.

What is left is an episode's output, as if the last task had been learned without the one that went: its folder holds a
trained branch and exemplars, and is calibrated, scored and assessed as any. But what was learned after the task was
learned beside it: exact is only to learn that again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorax.data.images import Images
from lorax.errors import StateError
from lorax.learning.batches import canonical
from lorax.learning.episode import ReadTask
from lorax.learning.folder import EpisodeFolder, Herded, Plan, Trained
from lorax.learning.queries import Asker, FeatureQuery, Fetch
from lorax.learning.settling import settled
from lorax.learning.state import Exemplar, LearnerState, open_network
from lorax.learning.state_files import load_state, save_state, state_digest
from lorax.learning.texture_head import CLEAN, Statistics, drawn_for, perturbed
from lorax.network.features import FeatureCache
from lorax.params import Params
from lorax.storage import canonical_json, write_record
from lorax.stream import ClassTable, DataRevision, PinnedTask, Sample, Task

_STAYS = 1e-2
"""How hard the refitted head is held to what it was, beside a mean cross-entropy: exemplars are few."""

_ITERATIONS = 200


def cut_out(
    parent: Path, state_dir: Path, task: str, read_task: ReadTask, fetch: Fetch, params: Params, revision: DataRevision
) -> EpisodeFolder:
    """The folder of an episode that ends without a task, ready to be calibrated; an equal one that is there stays.

    Args:
        parent: the folder that holds the episodes' folders.
        state_dir: a state that knows the task, two others at least, and learned another one last.
        task: what goes; its images must be at hand where sums over textures are kept.
        read_task, fetch: find tasks, and images.
        params: the episode's.
        revision: the data revision that the next state is to name.

    Raises:
        StateError: the state can't be cut so.
        DataVersionError: images are nowhere to be had.
    """
    key = hashlib.sha256(canonical_json([state_digest(state_dir), task, params.learning()]).encode()).hexdigest()[:16]
    folder = EpisodeFolder(parent / f"cut-{key}")
    if folder.exemplars_path.is_file():  # what is written last
        return folder
    state, cache = load_state(state_dir), FeatureCache(folder.features_dir)
    check_can_be_cut(state, task)
    torch.set_num_threads(params.run.threads)

    def asker(of: LearnerState) -> Asker:
        mixed = params.training.mixed_precision
        network = open_network(_bare(of), params.run.device, mixed_precision=mixed)
        return Asker(network, cache, fetch, params.run.batch_size)

    last = read_task(state.tasks[-1].name)
    without = _cut(state, read_task(task), asker(state), params.run.seed)
    weight, bias = _refitted(without, asker(without))
    before = _bare(replace(_cut(without, last, asker(without), params.run.seed), cut=without.cut))
    base_dir = folder.root / "base"
    save_state(settled(before, asker(before), params), base_dir)
    branch, pinned = without.branches[-1], PinnedTask(last.name, last.digest)
    plan = Plan(None, pinned, params.model_dump(mode="json"), revision, branch.start, str(base_dir))
    write_record(folder.plan_path, plan)
    modules = len({name.rpartition(".lora_")[0] for name in branch.weights})
    views = np.empty((0, 2), np.int64)
    trained = Trained(branch.config, branch.weights, weight, bias, without.statistics, [], {}, modules, views)
    trained.save(folder.trained_dir)
    write_record(folder.exemplars_path, Herded(without.exemplars, 0.0))
    return folder


def check_can_be_cut(state: LearnerState, task: str) -> None:
    """See that a task can be cut out of a state.

    Raises:
        StateError: it can't.
    """
    extensions, last = state.extensions, state.tasks[-1].name
    if more := [name for name, base in extensions.items() if base == task]:
        why = f"{more[-1]!r}, which is known, brought more of its images, and must go first"
    elif task in extensions:
        why = f"its images are of the classes of {extensions[task]!r}, which stay"
    elif last in extensions:
        why = f"{last!r}, learned last, brought more images of {extensions[last]!r}, and no class that is measured anew"
    elif len(state.tasks) < 3 or last == task:
        why = "at least two others must be left, one of them learned last"
    else:
        return
    raise StateError(f"task {task!r} can't be cut out: {why}. Leave --fast out.")


def _bare(state: LearnerState) -> LearnerState:
    """The state without what is to be fitted anew."""
    return replace(state, texture_head=None, calibration=None)


def _cut(state: LearnerState, task: Task, asker: Asker, seed: int) -> LearnerState:
    """The state without a task, its head as it was for the others; what is fitted on held-out images is to be."""
    gone = [entry.id for entry in state.classes.entries if entry.task == task.name]
    kept = [entry for entry in state.classes.entries if entry.task != task.name]
    ids = {entry.id: number for number, entry in enumerate(kept)}
    number = [branch.task for branch in state.branches].index(task.name)
    width = state.head_weight.shape[1] // len(state.branches)
    stays = torch.ones(len(state.branches), dtype=torch.bool)
    stays[number] = False
    learned = [n for n, one in enumerate(state.tasks) if one.name != task.name]
    rows = torch.tensor(list(ids))

    def renumbered(entries: Sequence[Exemplar]) -> tuple[Exemplar, ...]:
        return tuple(replace(e, class_id=ids[e.class_id]) for e in entries if e.class_id in ids)

    return replace(
        state,
        branches=tuple(branch for branch in state.branches if branch.task != task.name),
        classes=ClassTable(tuple(replace(entry, id=ids[entry.id]) for entry in kept)),
        head_weight=state.head_weight[rows][:, stays.repeat_interleave(width)],
        head_bias=state.head_bias[rows],
        texture_head=None,
        statistics=_statistics_without(state, task, gone, list(ids), asker, seed),
        exemplars=renumbered(state.exemplars),
        calibration_memory=renumbered(state.calibration_memory),
        calibration=None,
        tasks=tuple(state.tasks[n] for n in learned),
        accuracy=tuple(tuple(state.accuracy[n][i] for i in learned if i <= n) for n in learned),
        cut=(*state.cut, next(one for one in state.tasks if one.name == task.name)),
        parent=None,
    )


def _statistics_without(
    state: LearnerState, task: Task, gone: Sequence[int], kept: Sequence[int], asker: Asker, seed: int
) -> dict[str, Statistics]:
    """Sums over textures, less those of the images that the task was learned from; they are asked for again."""
    kinds = list(state.statistics)[1:]
    held = {entry.sample.md5 for entry in state.calibration_memory}
    samples = [sample for sample in task.train if sample.md5 not in held]
    found = {}
    for kind, sums in state.statistics.items():
        drawn = samples if kind == CLEAN else drawn_for(kind, kinds, samples)
        query = perturbed(drawn, kind) if kind != CLEAN else _first_views(drawn, asker, seed)
        if sums.counts[list(gone)].sum() != len(drawn):
            raise StateError(
                f"task {task.name!r} was learned from {int(sums.counts[list(gone)].sum())} images that its sums hold, "
                f"and {len(drawn)} are there, so it can't be cut out. Leave --fast out."
            )
        found[kind] = sums.without(asker.textures(query), kept)
    return found


def _first_views(samples: Sequence[Sample], asker: Asker, seed: int) -> FeatureQuery:
    """Each image in the view that the first epoch showed."""
    images = Images.load(samples, asker.fetch(samples), asker.network.crop)
    corners = images.offsets(1, seed)[:, 0]
    return FeatureQuery(samples, canonical(images, np.hstack([np.arange(len(samples))[:, None], corners])))


def _refitted(state: LearnerState, asker: Asker) -> tuple[Tensor, Tensor]:
    """The head (C, K·D) and (C,), fitted to the exemplars from where it is."""
    features, _ = asker.ask(FeatureQuery.of_centers([entry.sample for entry in state.exemplars]))
    return refit(state.head_weight, state.head_bias, features, torch.tensor([e.class_id for e in state.exemplars]))


def refit(weight: Tensor, bias: Tensor, features: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """A linear head fitted to few images: cross-entropy, and how far it moves from where it was.

    Args:
        weight, bias: (C, F) and (C,), where it begins.
        features: (n, F).
        ids: (n,) classes.
    """
    before = torch.cat([weight, bias[:, None]], dim=1).double()
    known = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    head = before.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([head], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(known @ head.T, ids) + _STAYS / 2 * (head - before).square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    fitted = head.detach().float()
    return fitted[:, :-1].contiguous(), fitted[:, -1].contiguous()
