"""Whose images these are, told by a probe: a quick branch, compared with probes of known generators.

Compared is the change of weights itself, B A of every layer: factors may say the same in many ways.

Source: attribution by the nearest adapter's weights: Liu et al. (arXiv 2412.12048).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lorax.data import versions
from lorax.data.images import decode_bytes, read
from lorax.data.walk import files_named
from lorax.errors import ImageError
from lorax.learning.probe import Context, kept_probe, known_images
from lorax.learning.state import Branch, LearnerState
from lorax.network.building import reopen_backbone
from lorax.params import LEAST_PROBE_IMAGES, LoraParams, Params
from lorax.stream import Sample, Task
from lorax.verdicts.predictor import Predictor
from lorax.workspace import Workspace

Weights = Mapping[str, Tensor]
"""Factors by name."""

Fetch = Callable[[Iterable[Sample]], Mapping[str, Path]]
Told = Callable[[str], None]

_REAL = "0_real"

_PROBES = 2
"""Of each known generator, from every other of its exemplars: two tell more than one of all of them (docs/log.md)."""


@dataclass(frozen=True)
class Match:
    """A known generator and how alike it is; `similarity` is a mean cosine, in [-1, 1]."""

    label: str
    similarity: float


@dataclass(frozen=True)
class Handful:
    """Images of an unknown generator: samples and where they lie; what was passed over, and why."""

    samples: tuple[Sample, ...]
    paths: Mapping[str, Path]
    problems: tuple[str, ...]

    @classmethod
    def pick(cls, folder: Path, most: int) -> Handful:
        """Readable images below a folder, at most so many, chosen by their bytes alone.

        What lies in a folder 0_real is left out, as in a data set that is laid out as CDDB is.

        Raises:
            ImageError: there is no such folder, or it holds fewer than `LEAST_PROBE_IMAGES`.
        """
        if not folder.is_dir():
            raise ImageError(f"{folder} is no folder; expected one that holds images of one generator.")
        found: dict[str, Path] = {}
        problems: list[str] = []
        for file in files_named([str(folder)], patterns=False):
            if _REAL in file.path.parts[len(folder.parts) :]:
                continue
            try:
                found[hashlib.md5(read(file.path), usedforsecurity=False).hexdigest()] = file.path
            except ImageError as error:
                problems.append(str(error))
        chosen: dict[str, Path] = {}
        for md5 in sorted(found):
            if len(chosen) == most:
                break
            try:
                decode_bytes(read(found[md5]), str(found[md5]))
                chosen[md5] = found[md5]
            except ImageError as error:
                problems.append(str(error))
        if len(chosen) < LEAST_PROBE_IMAGES:
            raise ImageError(
                f"{folder} holds {len(chosen)} images that can be read ({len(problems)} files can't); a probe needs "
                f"{LEAST_PROBE_IMAGES} or more, all of one generator, and takes up to {most}. "
                f"{' '.join(problems[:1])}".rstrip()
            )
        return cls(tuple(Sample(str(p), md5, "unknown", 1) for md5, p in chosen.items()), chosen, tuple(problems))


def nearest(
    workspace: Workspace, state: LearnerState, params: Params, images: Sequence[Sample], fetch: Fetch, told: Told
) -> list[Match]:
    """The generators that a learner state knows, the one whose probes the images' probe is most like first.

    Probes are compared with probes only: a branch was learned beside others, from its whole training set, and is less
    like any probe than another probe is.

    Args:
        workspace: probes are kept below its work folder, so that none is learned twice.
        params: sections `lora`, `atlas` and `run` say how probes are learned.
        fetch: gives the files of these and of the exemplars.

    Raises:
        StateError: the exemplar memory has no real images.
    """
    context, home = Context.of_state(state, params), workspace.work_dir / "probes"
    known: dict[str, list[Weights]] = {}
    for number, (label, samples) in enumerate(stand_ins := known_images(state, params).items()):
        told(f"probes of known generators: {label}, {number + 1} of {len(stand_ins)}")
        parts = [samples[i::_PROBES] for i in range(_PROBES)]
        known[label] = [kept_probe(home, context, part, fetch) for part in parts if part]
    told("a probe of the images")
    return rank(kept_probe(home, context, images, fetch), known)


def startable(
    workspace: Workspace, state: LearnerState, params: Params, task: Task, fetch: Fetch, told: Told
) -> list[tuple[str, float]]:
    """The known tasks whose branch a new task's could start from, the most similar first, each with its similarity.

    Args:
        workspace, state, params, fetch, told: as for `nearest`.
        task: the new one; its probe sees synthetic training images, chosen by their bytes alone.

    Raises:
        StateError: the exemplar memory has no real images.
    """
    start = Context.of_state(state, params).start
    usable = {branch.task for branch in state.branches if _has_form(branch, start, params.lora)}
    if not usable:
        return []
    synthetic = {c.index for c in task.classes if not c.is_real}
    images = sorted((s for s in task.train if s.class_index in synthetic), key=lambda s: s.md5)
    matches = nearest(workspace, state, params, images[: params.atlas.probe_images], fetch, told)
    tasks = {entry.label: entry.task for entry in state.classes.entries}
    return [(tasks[m.label], m.similarity) for m in matches if tasks[m.label] in usable]


def unstartable(state: LearnerState, params: Params, task: str) -> str:
    """Why a new branch can't start from that of a task; '' if it can."""
    branch = next((branch for branch in state.branches if branch.task == task), None)
    if branch is None:
        return f"the champion does not know {task}"
    start = reopen_backbone(state.backbone).add_branch(params.lora, params.run.seed).weights
    return "" if _has_form(branch, start, params.lora) else f"the branch of {task} has another form than lora: asks for"


def _has_form(branch: Branch, start: Weights, lora: LoraParams) -> bool:
    """Whether a branch adapts the same layers at the same rank, and as strongly, as a new one would."""
    same = {n: w.shape for n, w in branch.weights.items()} == {n: w.shape for n, w in start.items()}
    return same and bool(branch.config["lora_alpha"] == lora.alpha)


def attribute(workspace: Workspace, state_dir: Path, params: Params, folder: Path, told: Told) -> dict[str, Any]:
    """Which known generator the images in a folder are most like, by a probe, and what the classifier says of them.

    Raises:
        ImageError: the folder has too few images.
        StateError: the state is damaged, or has no real exemplars.
    """
    predictor = Predictor.open(state_dir, params.run.device)
    state, handful = predictor.state, Handful.pick(folder, params.atlas.probe_images)
    then = Params.model_validate(state.parameters)
    run = params.run.model_copy(update={"seed": then.run.seed})
    learned = params.model_copy(update={"lora": then.lora, "run": run})

    def fetch(samples: Iterable[Sample]) -> dict[str, Path]:
        wanted = list(samples)
        own = {s.md5: handful.paths[s.md5] for s in wanted if s.md5 in handful.paths}
        return own | dict(versions.fetch(workspace, [s for s in wanted if s.md5 not in own]))

    matches = nearest(workspace, state, learned, handful.samples, fetch, told)
    told("the classifier's answer")
    pixels = [decode_bytes(read(path), str(path)) for path in handful.paths.values()]
    verdicts = predictor.judge(pixels, [str(path) for path in handful.paths.values()])
    return {
        "folder": str(folder),
        "images": len(handful.samples),
        "generators": [asdict(match) for match in matches],
        "classifier": dict(Counter(v.verdict for v in verdicts).most_common()),
        "problems": list(handful.problems),
    }


def rank(probe: Weights, known: Mapping[str, Sequence[Weights]]) -> list[Match]:
    """The known generators, the most similar first.

    Args:
        probe: what the unknown images taught.
        known: label -> the generator's probes, at least one.
    """
    cosines = {label: sum(_cosine(probe, each) for each in probes) / len(probes) for label, probes in known.items()}
    return sorted((Match(label, cosine) for label, cosine in cosines.items()), key=lambda m: -m.similarity)


def _cosine(one: Weights, other: Weights) -> float:
    """Of the changes of all layers, one behind the other."""
    lengths = math.sqrt(_inner(one, one) * _inner(other, other))
    return _inner(one, other) / lengths if lengths else 0.0


def _inner(one: Weights, other: Weights) -> float:
    """The sum over layers of <B A, B' A'> = <B^T B', A A'^T>, so that no matrix is larger than rank x rank."""
    total = 0.0
    for name in one:
        if ".lora_A." in name:
            paired = name.replace(".lora_A.", ".lora_B.")
            a, also_a, b, also_b = (w[n].double().flatten(1) for n in (name, paired) for w in (one, other))
            total += float(((a @ also_a.T) * (b.T @ also_b)).sum())
    return total
