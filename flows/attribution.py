"""Whose images these are, told by a probe: a quick branch, compared with the branches of known generators."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lorax.atlas.attribution import Match, Weights, fits, rank
from lorax.data import versions
from lorax.data.images import decode_bytes, read
from lorax.data.walk import files_named
from lorax.errors import ImageError
from lorax.learning.probe import Context, kept_probe, known_images
from lorax.learning.state import LearnerState
from lorax.params import Params
from lorax.predictor import Predictor
from lorax.stream import Sample, Task
from lorax.workspace import Workspace

Fetch = Callable[[Iterable[Sample]], Mapping[str, Path]]
Told = Callable[[str], None]

LEAST_IMAGES = 5
"""Fewer teach a probe what they show rather than what made them."""

_REAL = "0_real"


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
            ImageError: there is no such folder, or it holds fewer than `LEAST_IMAGES`.
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
        if len(chosen) < LEAST_IMAGES:
            raise ImageError(
                f"{folder} holds {len(chosen)} images that can be read ({len(problems)} files can't); a probe needs at "
                f"least {LEAST_IMAGES}, all of one generator, and takes up to {most}. {' '.join(problems[:1])}".rstrip()
            )
        return cls(tuple(Sample(str(p), md5, "unknown", 1) for md5, p in chosen.items()), chosen, tuple(problems))


def nearest(
    workspace: Workspace, state: LearnerState, params: Params, images: Sequence[Sample], fetch: Fetch, told: Told
) -> list[Match]:
    """The tasks that a learner state knows, the one whose branch the images' probe is most like first.

    A branch that did not start as probes do (from another's weights, another seed, rank or set of layers) can't be
    compared; a probe of its exemplars stands in for it.

    Args:
        workspace: probes are kept below its work folder, so that none is learned twice.
        state: what is known.
        params: how probes are learned; `lora` and `run` say how branches are.
        images: of one generator.
        fetch: gives the files of these and of the exemplars.
        told: what is being done.

    Raises:
        StateError: the exemplar memory has no real images.
    """
    context, home = Context.of_state(state, params), workspace.work_dir / "probes"
    start, known = context.start, dict[str, Weights]()
    for branch in state.branches:
        if branch.start is None and branch.seed == params.run.seed and fits(branch.weights, start):
            known[branch.task] = branch.weights
        elif stand_ins := known_images(state, branch.task, params):
            told(f"a probe of {branch.task}, whose branch did not start as probes do")
            known[branch.task] = kept_probe(home, context, stand_ins, fetch)
    told("a probe of the images")
    return rank(kept_probe(home, context, images, fetch), start, known)


def startable(
    workspace: Workspace, state: LearnerState, params: Params, task: Task, fetch: Fetch, told: Told
) -> list[Match]:
    """The known tasks whose branch a new task's could start from, the one that its probe is most like first.

    Args:
        workspace, state, params, fetch, told: as for `nearest`.
        task: the new one; its probe sees synthetic training images, chosen by their bytes alone.
    """
    synthetic = {c.index for c in task.classes if not c.is_real}
    images = sorted((s for s in task.train if s.class_index in synthetic), key=lambda s: s.md5)
    matches = nearest(workspace, state, params, images[: params.atlas.probe_images], fetch, told)
    start = Context.of_state(state, params).start
    usable = {branch.task for branch in state.branches if fits(branch.weights, start)}
    return [match for match in matches if match.task in usable]


def attribute(workspace: Workspace, state_dir: Path, params: Params, folder: Path, told: Told) -> dict[str, Any]:
    """Which known generator the images in a folder are most like, by a probe, and what the classifier says of them.

    Raises:
        ImageError: the folder has too few images.
        StateError: the state is damaged, or has no real exemplars.
    """
    predictor = Predictor.open(state_dir, params.run.device)
    state, handful = predictor.state, Handful.pick(folder, params.atlas.probe_images)
    learned = params.model_copy(
        update={name: getattr(Params.model_validate(state.parameters), name) for name in ("lora", "run")}
    )

    def fetch(samples: Iterable[Sample]) -> dict[str, Path]:
        wanted = list(samples)
        own = {s.md5: handful.paths[s.md5] for s in wanted if s.md5 in handful.paths}
        return own | dict(versions.fetch(workspace, [s for s in wanted if s.md5 not in own]))

    matches = nearest(workspace, state, learned, handful.samples, fetch, told)
    told("the classifier's answer")
    pixels = [decode_bytes(read(path), str(path)) for path in handful.paths.values()]
    verdicts = predictor.judge(pixels, [str(path) for path in handful.paths.values()])
    labels = _labels(state)
    return {
        "folder": str(folder),
        "images": len(handful.samples),
        "generators": [{"label": labels[m.task], **asdict(m)} for m in matches],
        "classifier": dict(Counter(v.verdict for v in verdicts).most_common()),
        "problems": list(handful.problems),
    }


def _labels(state: LearnerState) -> dict[str, str]:
    """Task -> its generators' labels."""
    return {
        task.name: "+".join(e.label for e in state.classes.entries if e.task == task.name and not e.is_real)
        for task in state.tasks
    }


def print_attribution(record: Mapping[str, Any], out: Console) -> None:
    """For people: the generators, the most similar first, and the classifier's answer beside them."""
    for problem in record["problems"]:
        out.print(f"passed over: {problem}", style="yellow", markup=False)
    table = Table(title=f"{record['images']} images, by a probe", title_justify="left")
    for name in ("known generator", "similarity"):
        table.add_column(name, justify="right" if name == "similarity" else "left")
    for match in record["generators"]:
        table.add_row(Text(match["label"]), f"{match['similarity']:.2f}")
    out.print(table)
    said = ", ".join(f"{verdict} {count}" for verdict, count in record["classifier"].items())
    out.print(f"the classifier says: {said}", markup=False)
