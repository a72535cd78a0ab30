"""Whole episodes, published against ours: decoding, frozen features, training, herding, evaluation.

At a data set's real size both take hours on two cores, so the parts are measured on the real code in turns, and
episodes 1 to 12 are composed of them (composition.py holds the counts). To check the composition, a few episodes of few
images are run whole, both ways, and set against what is composed for their size; and the features that ours computes in
them are counted.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from composition import CLASSES, Parts, Sizes, compared, growth, our_features
from measure import Work, in_turns, report, seconds
from published import DecodedEachTime, PublishedFit, PublishedLearner
from setting import Setting, add_options, opened, result_name
from tasks import TaskFiles, write_task
from torch.utils.data import DataLoader

from lorax.data.images import Images
from lorax.learning.batches import TrainingSet
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.training import Fit
from lorax.network.building import open_backbone
from lorax.network.features import FeatureCache, views_of
from lorax.network.network import Network
from lorax.params import Params
from lorax.stream import DataRevision, Task

SIZES = Sizes()
"""Of the episodes that are composed."""

SMALL = Sizes(train=16, test=8, budget=8, epochs=4)
"""Of the episodes that are run whole."""


def published_parts(setting: Setting, params: Params, k: int, files: TaskFiles) -> dict[str, Work]:
    """See composition.published_seconds."""
    network = setting.published(params, k)
    fit = PublishedFit(network, (k - 1) * CLASSES, params, k - 1)
    samples = files.tasks[0].train[: params.training.batch_size]
    labels = [s.class_index for s in samples]
    data = DecodedEachTime(network, samples, labels, files.fetch, random=True)

    def step() -> None:
        for pixels, known in DataLoader(data, batch_size=len(samples)):
            fit.step(pixels, known)

    @torch.no_grad()
    def passing() -> None:
        network.eval()
        for pixels, _ in DataLoader(data, batch_size=len(samples)):
            network.features(pixels.to(setting.device))

    return {"published_step": step, "published_pass": passing}


def our_parts(setting: Setting, params: Params, k: int, files: TaskFiles, home: Path) -> dict[str, Work]:
    """See composition.our_seconds; here `our_pass` keeps what each branch says of a batch for every thread, and
    `our_decode` reads a batch.
    """
    network = setting.ours(params, k)
    samples = files.tasks[0].train[: params.training.batch_size]
    images = Images.load(samples, files.fetch(samples), network.crop)
    if setting.device.type == "cuda":
        images.to(setting.device)
    labels = torch.tensor([s.class_index for s in samples])
    shown, cache = np.arange(len(samples))[:, None], FeatureCache(home / f"features-{k}")
    data = TrainingSet.build(network, images, labels, shown, params.run, cache)
    fit = Fit(network, range((k - 1) * CLASSES, k * CLASSES), params.training, params.run, k - 1)
    bytes_at_hand = images.batch(range(len(samples)), images.center()[:, 0])
    count = len(samples) * batches_at_once(setting)
    names = views_of([samples[0].md5] * count, np.arange(2 * count).reshape(count, 2))

    def step() -> None:
        with fit.side_by_side():
            for batch in data.batches([torch.arange(len(samples))], 0):
                fit.step(*batch)

    def each_branch() -> None:
        with tempfile.TemporaryDirectory(dir=home) as empty:
            read = lambda rows: bytes_at_hand[torch.from_numpy(rows % len(samples))]  # noqa: E731
            FeatureCache(Path(empty)).fill(network, range(k), names, read, len(samples))

    return {
        "our_step": step,
        "our_pass": each_branch,
        "our_decode": lambda: Images.load(samples, files.fetch(samples), network.crop),
        "our_opening": lambda: open_backbone(params.backbone),
    }


def batches_at_once(setting: Setting) -> int:
    """How many batches are in work together when frozen branches are asked."""
    return torch.get_num_threads() if setting.device.type == "cpu" else 1


def measured_parts(setting: Setting, k: int, files: TaskFiles, rounds: int) -> list[dict[str, float]]:
    """Seconds of each part at K = k, a record per round, as composition.py takes them."""
    batch = SIZES.batch
    params = setting.params(f"training.batch_size={batch}", f"run.batch_size={batch}")
    with tempfile.TemporaryDirectory() as home:
        works = published_parts(setting, params, k, files) | our_parts(setting, params, k, files, Path(home))
        taken = in_turns(works, rounds)
    # what one of each is, of what was measured
    shares = {"our_pass": k * batches_at_once(setting), "our_decode": batch, "our_opening": 1 / 3}
    return [{name: value / shares.get(name, 1) for name, value in parts.items()} for parts in taken]


def whole_episodes(setting: Setting, files: TaskFiles, home: Path, count: int) -> Iterator[dict[str, float]]:
    """Run the first `count` tasks whole, each both ways, one after the other."""
    params = setting.params(
        *(f"training.epochs={SMALL.epochs}", f"training.views={SMALL.views}", f"training.batch_size={SMALL.batch}"),
        *(f"run.batch_size={SMALL.batch}", f"exemplars.budget={SMALL.budget}"),
    )
    learner, base = PublishedLearner(params), None
    for task in files.tasks[:count]:
        folder = EpisodeFolder.open(home, plan_of(base, task, params))
        with counted_features() as asked:
            ours_s = seconds(lambda f=folder: learn_ours(f, files))
        published_s = seconds(lambda t=task: learner.learn(t, files.fetch))
        base = folder.state_dir
        yield {"published_s": published_s, "ours_s": ours_s, "features": sum(asked)}


def learn_ours(folder: EpisodeFolder, files: TaskFiles) -> None:
    learn_episode(Episode.open(folder, {one.name: one for one in files.tasks}.__getitem__, files.fetch))


def plan_of(base: Path | None, task: Task, params: Params) -> Plan:
    return Plan.of(base, task, params, DataRevision("benchmark", "none"))


@contextmanager
def counted_features() -> Iterator[list[int]]:
    """How many features, fillers of incomplete batches included, networks are asked for while the block runs."""
    asked: list[int] = []
    plain = Network.features

    def counting(self: Network, images: torch.Tensor, branches: range | None = None) -> torch.Tensor:
        asked.append(len(images) * len(range(self.branches) if branches is None else branches))
        return plain(self, images, branches)

    Network.features = counting
    try:
        yield asked
    finally:
        Network.features = plain


def whole_against_composed(
    setting: Setting, files: TaskFiles, rounds: Sequence[Mapping[int, Parts]], count: int
) -> Iterator[dict[str, object]]:
    """Small episodes run whole, and what they took over what is composed for their size: 1 would be perfect."""
    with tempfile.TemporaryDirectory() as home:
        for k, taken in enumerate(whole_episodes(setting, files, Path(home), count), start=1):
            expected = compared(rounds, [k], SMALL)
            over = {f"{way}_over_composed": taken[f"{way}_s"] / expected[f"{way}_s"] for way in ("published", "ours")}
            counted = sum(our_features(k, SMALL).values())
            yield {"what": f"episode {k} run whole", **taken, "features_composed": counted, **over}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, branches=[1, 2, 4, 8, 12], rounds=3)
    parser.add_argument("--whole", type=int, default=4, help="how many small episodes are run whole")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with opened(arguments) as setting, tempfile.TemporaryDirectory() as folder:
        files = TaskFiles()
        for number in range(max(1, arguments.whole)):
            place = Path(folder) / f"task{number:02d}"
            write_task(place, train=SMALL.train, test=SMALL.test, side=arguments.crop * 256 // 224, seed=number)
            files.read(place)
        by_count = {k: measured_parts(setting, k, files, arguments.rounds) for k in arguments.branches}
        rounds = [{k: parts[r] for k, parts in by_count.items()} for r in range(arguments.rounds)]
        whole = list(whole_against_composed(setting, files, rounds, arguments.whole))
    last = max(arguments.branches)
    rows = [{"episode": k, **compared(rounds, [k], SIZES), "load_before": load} for k in range(1, last + 1)]
    growing = {"what": f"ours, episode {last} / 1", **growth(rounds, last, SIZES)}
    report(result_name("episode", arguments), [*rows, growing, *whole], sizes=asdict(SIZES), parts=rounds)


if __name__ == "__main__":
    main()
