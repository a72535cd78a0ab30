"""An episode: learn one task on top of a learner state. The method, on one screen, is `learn_episode`.

Each step reads and writes the episode's folder, so that a flow can run the steps one by one and, after a kill, go on
with the first unfinished one. A finished step that is run again does nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lorax.data.images import Images, Progress
from lorax.errors import StateError
from lorax.learning.batches import Showing, TrainingSet
from lorax.learning.evaluation import accuracy_row, compare, score
from lorax.learning.exemplars import updated_memory
from lorax.learning.folder import EpisodeFolder, Report, damage_told
from lorax.learning.launch import launch
from lorax.learning.loading import open_for_episode, texture_head_of
from lorax.learning.queries import FeatureQuery, Fetch
from lorax.learning.recalibration import extended_memory, hold_out
from lorax.learning.settling import check_solver, settled
from lorax.learning.state import Branch, Exemplar, LearnedTask, LearnerState, load_state, save_state, state_digest
from lorax.learning.statistics import Statistics
from lorax.learning.texture_head import CLEAN, drawn_for, parse_statistics, perturbed, statistics_tensors
from lorax.learning.training import EpochRow, Fit, OnEpoch, epoch_seed
from lorax.network.features import FeatureCache, OnCached
from lorax.network.network import Network
from lorax.network.process_group import SINGLE, ProcessGroup
from lorax.params import Params
from lorax.storage import canonical_json, whole_directory, write_whole
from lorax.stream import Sample, Task


def learn_episode(
    folder: EpisodeFolder,
    base: LearnerState,
    task: Task,
    earlier: Sequence[Task],
    fetch: Fetch,
    params: Params,
    on_epoch: OnEpoch | None = None,
) -> LearnerState:
    """Learn `task` on top of `base`: grow, fit, herd, score.

    A pure function of (base, the tasks' bytes, params): run in one process or resumed in many, on the same kind of CPU
    it gives byte for byte the same state.

    Source: LoRAX (arXiv 2504.08149), the incremental training procedure.
    """
    train_branch(folder, base, task, fetch, params, on_epoch)
    update_exemplars(folder, base, task, fetch, params)
    evaluate(folder, base, task, earlier, fetch, params)
    return load_state(folder.state_dir)


def train_branch(
    folder: EpisodeFolder,
    base: LearnerState,
    task: Task,
    fetch: Fetch,
    params: Params,
    on_epoch: OnEpoch | None = None,
    on_progress: Progress | None = None,
    group: ProcessGroup = SINGLE,
) -> None:
    """Step 1: grow the network by `task` and fit the new branch and the head on its images and the exemplars.

    Args:
        group: the processes that share the work, of which this is one; if params.yaml asks for more, they are started.

    Raises:
        StateError: `base` knows the task already, or knows no real image and the task brings none, or was learned
            with another solver of the head.
        BackboneError: the backbone can't learn in what lora.targets matches, or has not what calibration needs.
        ParamsError: params.yaml asks for more processes than there are GPUs.
    """
    if folder.trained_dir.is_dir():
        return
    _check_learnable(base, task)
    check_solver(base, params.head)
    if params.run.processes > group.size:
        launch("train", folder, base, (task,), fetch, params, on_epoch, on_progress)
        return
    started = time.perf_counter()
    network, modules = _grown(base, task, params, folder.plan().start)
    episode, classes = len(base.tasks), base.classes.with_task(task.name, task.classes)
    task, _ = hold_out(task, base, params)
    samples = [*task.train, *(e.sample for e in base.exemplars)]
    views = min(params.training.views, params.training.epochs)  # no epoch would show the others
    showing = Showing.draw(samples, views, params.training.augmentation, params.run.seed)
    images = Images.load(samples, fetch(samples), network.crop, on_progress, looks=showing.looks, overflow=folder.root)
    if network.device.type == "cuda":
        images.to(network.device)
    cache, labels, on_cached = FeatureCache(folder.features_dir), torch.tensor(classes.ids(samples)), _told(on_progress)
    data = TrainingSet.build(network, images, labels, showing.shown, params.run, cache, on_cached, group)
    prepared = time.perf_counter()
    fit = Fit(network, len(base.classes), params.training, params.run, episode, group)
    rows = fit.run_epochs(data, folder.checkpoint_path, on_epoch)
    trained = time.perf_counter()
    first = FeatureQuery(task.train, data.first_views(len(task.train)))  # for herding, while the images are at hand
    is_ridge = params.head.solver == "ridge"
    size, read = params.run.batch_size, data.read_first_views
    _, textures = first.run(cache, network, read, size, on_cached, group, with_texture=is_ridge)
    statistics = _sums(base, task, textures, network, cache, fetch, params, group) if is_ridge else {}
    seconds = {"prepare": prepared - started + time.perf_counter() - trained, "train": sum(r.seconds for r in rows)}
    if group.is_main:
        _save_trained(folder.trained_dir, network, rows, modules, seconds, first.corners, statistics)
        folder.checkpoint_path.unlink(missing_ok=True)


def update_exemplars(folder: EpisodeFolder, base: LearnerState, task: Task, fetch: Fetch, params: Params) -> None:
    """Step 2: herd the new task's classes and shrink the old ones', within the budget.

    Herding looks at each image's first training view, about which the branches have been asked already.
    """
    if folder.exemplars_path.is_file():
        return
    started = time.perf_counter()
    network = open_for_episode(_grown_state(folder, base, task, params), params)
    task, _ = hold_out(task, base, params)
    query = FeatureQuery(task.train, np.array(_training_record(folder)["views"]).reshape(-1, 2))
    cache, read = FeatureCache(folder.features_dir), query.read_files(fetch, network.crop)
    features, _ = query.run(cache, network, read, params.run.batch_size)
    classes = base.classes.with_task(task.name, task.classes)
    memory = updated_memory(base.exemplars, task.train, features, classes, params.exemplars.budget)
    record = {"exemplars": [asdict(e) for e in memory], "seconds": time.perf_counter() - started}
    write_whole(folder.exemplars_path, canonical_json(record))


def evaluate(
    folder: EpisodeFolder,
    base: LearnerState,
    task: Task,
    earlier: Sequence[Task],
    fetch: Fetch,
    params: Params,
    on_progress: Progress | None = None,
) -> str:
    """Step 3: score the network on the test set of every task it knows, calibrate it, and write the next learner state.

    Args:
        earlier: the tasks that `base` knows, in its order.

    Returns:
        The next state's digest.
    """
    if folder.state_dir.is_dir() and folder.report_path.is_file():
        return state_digest(folder.state_dir)
    started = time.perf_counter()
    tasks, grown = (*earlier, task), _grown_state(folder, base, task, params)
    if params.run.processes > 1:
        launch("look", folder, base, tasks, fetch, params, None, on_progress)
    network, features, textures = look_at_tests(folder, base, tasks, fetch, params, on_progress)
    cache = FeatureCache(folder.features_dir)
    predicted, before, true = {}, {}, {}
    grown = settled(grown, network, cache, fetch, params)
    network.texture_head = texture_head_of(grown)
    sizes = [len(t.test) for t in tasks]
    for known, said, seen in zip(tasks, features.split(sizes), textures.split(sizes), strict=True):
        predicted[known.name] = network.logits(said, seen).argmax(dim=1)
        if known is not task:
            before[known.name] = _base_answers(base, said, seen)
        true[known.name] = torch.tensor(grown.classes.ids(known.test))
    scores = score(predicted, true, grown.classes)
    with damage_told(folder.exemplars_path):
        record = json.loads(folder.exemplars_path.read_bytes())
        memory = tuple(Exemplar(Sample(**e["sample"]), e["class_id"], e["rank"]) for e in record["exemplars"])
    row = accuracy_row(scores, [t.name for t in grown.tasks])
    trained = _training_record(folder)
    seconds = trained["seconds"] | {"herd": record["seconds"], "evaluate": time.perf_counter() - started}
    Report(
        episode=len(base.tasks),
        task=task.name,
        **asdict(scores),
        curves=[EpochRow(**r) for r in trained["curves"]],
        seconds=seconds,
        trainable_parameters=trained["trainable_parameters"],
        lora_modules=trained["lora_modules"],
        against_base=compare(before, predicted, true, grown.classes.multi_real()),
        detection_against_base=compare(before, predicted, true, grown.classes.is_real),
        tested={known.name: known.digest for known in tasks},
    ).write(folder.report_path)
    return save_state(replace(grown, exemplars=memory, accuracy=(*base.accuracy, row)), folder.state_dir)


def _sums(
    base: LearnerState,
    task: Task,
    textures: Tensor,
    network: Network,
    cache: FeatureCache,
    fetch: Fetch,
    params: Params,
    group: ProcessGroup,
) -> dict[str, Statistics]:
    """The base's statistics and those of the task's training images, as they are, (n, F), and perturbed."""
    classes = base.classes.with_task(task.name, task.classes)

    def added(kind: str, samples: Sequence[Sample], textures: Tensor) -> Statistics:
        sums = base.statistics.get(kind) or Statistics.empty(textures.shape[1])
        return sums.with_images(textures, torch.tensor(classes.ids(samples), dtype=torch.long), len(classes))

    found = {CLEAN: added(CLEAN, task.train, textures)}
    for kind in params.head.perturbations:
        samples = drawn_for(kind, params.head.perturbations, task.train)
        query = perturbed(samples, kind)
        read = query.read_files(fetch, network.crop)
        found[kind] = added(kind, samples, query.run_texture(cache, network, read, params.run.batch_size, group))
    return found


def look_at_tests(
    folder: EpisodeFolder,
    base: LearnerState,
    tasks: Sequence[Task],
    fetch: Fetch,
    params: Params,
    on_progress: Progress | None = None,
    group: ProcessGroup = SINGLE,
) -> tuple[Network, Tensor, Tensor]:
    """The grown network, and what it says of all test images of `tasks`, the new one last.

    Returns:
        The network, its branches' features (N, K·D), and the textures (N, F), or (N, 0) where nothing reads them.
    """
    network = open_for_episode(_grown_state(folder, base, tasks[-1], params), params)
    query = FeatureQuery.of_centers([sample for task in tasks for sample in task.test])
    cache, read = FeatureCache(folder.features_dir), query.read_files(fetch, network.crop)
    size, is_ridge = params.run.batch_size, params.head.solver == "ridge"
    return network, *query.run(cache, network, read, size, _told(on_progress), group, with_texture=is_ridge)


def _grown(base: LearnerState, task: Task, params: Params, start: str | None) -> tuple[Network, int]:
    """The base's network with a branch and outputs for `task`, and how many modules carry the branch.

    Args:
        start: the base's task whose branch the new one starts from; None: it starts fresh.
    """
    network, episode = open_for_episode(base, params), len(base.tasks)
    modules = network.grow(
        params.lora,
        len(task.classes),
        branch_seed=params.run.seed,
        head_seed=epoch_seed(params.run.seed, episode, params.training.epochs + 1),
        brings_real=task.classes[0].is_real,
    )
    if params.calibration.per_class or params.head.solver == "ridge":
        network.texture(torch.zeros(1, 3, network.crop, network.crop, dtype=torch.uint8))  # there is one, or it says so
    if start:
        network.backbone.start_branch(episode, _branch_of(base, start).weights)
    return network, modules


def _branch_of(base: LearnerState, task: str) -> Branch:
    """The base's branch of a task, for another to start from.

    Raises:
        StateError: it has none.
    """
    for branch in base.branches:
        if branch.task == task:
            return branch
    known = ", ".join(branch.task for branch in base.branches) or "none"
    raise StateError(f"a branch can't start from that of task {task!r}: the learner state has {known}. Plan it anew.")


def _base_answers(base: LearnerState, features: Tensor, textures: Tensor) -> Tensor:
    """What the base state says: its branches are the first of the grown network's, so only its heads are missing."""
    logits = F.linear(features[:, : base.head_weight.shape[1]], base.head_weight, base.head_bias)
    if head := texture_head_of(base):
        logits = head.beside(logits, textures)
    return logits.argmax(dim=1)


def _check_learnable(base: LearnerState, task: Task) -> None:
    if task.name in {t.name for t in base.tasks}:
        raise StateError(f"task {task.name!r} is in the learner state already; an episode learns a new task.")
    if not any(c.is_real for c in task.classes) and not any(e.is_real for e in base.classes.entries):
        raise StateError(
            f"task {task.name!r} brings no real images and no earlier task did: there is nothing to tell its images "
            "from. Land a task with a 0_real folder first."
        )


def _grown_state(folder: EpisodeFolder, base: LearnerState, task: Task, params: Params) -> LearnerState:
    """The next state as far as training has decided it: exemplars and the new accuracies are still missing."""
    trained, statistics = folder.trained_dir, {}
    with damage_told(trained / "head.safetensors"):
        tensors = safetensors.torch.load_file(trained / "head.safetensors")
    with damage_told(trained / "adapter_model.safetensors"):
        weights = safetensors.torch.load_file(trained / "adapter_model.safetensors")
    with damage_told(trained / "adapter_config.json"):
        config = json.loads((trained / "adapter_config.json").read_text())
    if params.head.solver == "ridge":
        with damage_told(trained / "statistics.safetensors"):
            kept = safetensors.torch.load_file(trained / "statistics.safetensors")
            statistics = parse_statistics(kept, (CLEAN, *params.head.perturbations))
    plan, classes = folder.plan(), base.classes.with_task(task.name, task.classes)
    _, held = hold_out(task, base, params)
    return replace(
        base,
        texture_head=None,
        statistics=statistics,
        branches=(*base.branches, Branch(task.name, config, weights, params.run.seed, plan.start)),
        classes=classes,
        calibration_memory=extended_memory(base.calibration_memory, held, classes),
        calibration=None,
        head_weight=tensors["weight"],
        head_bias=tensors["bias"],
        tasks=(*base.tasks, LearnedTask(task.name, task.digest)),
        revision=plan.revision,
        parameters=params.learning(),
        parent=plan.base,
    )


def _save_trained(
    directory: Path,
    network: Network,
    rows: Sequence[EpochRow],
    modules: int,
    seconds: Mapping[str, float],
    views: NDArray[np.int64],
    statistics: Mapping[str, Statistics],
) -> None:
    newest = network.branches - 1
    branch = Branch("", network.backbone.branch(newest).config, network.backbone.branch(newest).weights, seed=0)
    head = {"weight": network.head.weight.detach().cpu(), "bias": network.head.bias.detach().cpu()}
    record = {
        "curves": [asdict(row) for row in rows],
        "lora_modules": modules,
        "trainable_parameters": sum(w.numel() for w in network.backbone.branch(newest).weights.values()),
        "seconds": dict(seconds),
        "views": views.tolist(),
    }
    with whole_directory(directory) as draft:
        for name, data in branch.files().items():
            (draft / name).write_bytes(data)
        (draft / "head.safetensors").write_bytes(safetensors.torch.save(head))
        if statistics:
            (draft / "statistics.safetensors").write_bytes(safetensors.torch.save(statistics_tensors(statistics)))
        (draft / "training.json").write_text(canonical_json(record))


def _training_record(folder: EpisodeFolder) -> dict[str, Any]:
    path = folder.trained_dir / "training.json"
    with damage_told(path):
        return dict(json.loads(path.read_bytes()))


def _told(on_progress: Progress | None) -> OnCached | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(done, total, "asking the branches")
