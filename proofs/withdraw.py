"""What a withdrawal leaves of a task: `python -m proofs.withdraw`.

Four simulated generators are learned, by plain functions, and the second is withdrawn: exactly (what came after it is
learned again) and fast (cut out of the last state). Prints the accuracy on the others, and how well images that the
withdrawn task was trained on are told from as many of the same generator, over patches of the same photographs, that
nobody ever learned from, by what the network answers: the larger AUROC of either direction, of several scores. 0.5 is
chance; how far chance alone leads is told by the network that never saw any of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from lorax.commands.init import initialize
from lorax.data import versions
from lorax.data.generators import SIDE
from lorax.data.landing import land
from lorax.data.simulate import simulate
from lorax.learning.cutting import cut_out
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.queries import Asker, FeatureQuery
from lorax.learning.state import open_network
from lorax.learning.state_files import load_state
from lorax.network.features import FeatureCache
from lorax.params import Params, load_params
from lorax.stream import Sample
from lorax.workspace import Workspace

TASKS, GONE = 4, 1


def learned(workspace: Workspace, params: Params, names: list[str], base: Path | None) -> EpisodeFolder:
    """The last of the episodes that learn `names` on top of `base`."""
    read_task, fetch = partial(versions.read_task, workspace), partial(versions.fetch, workspace)
    home = None
    for name in names:
        plan = Plan.of(base, read_task(name), params, versions.revision(workspace))
        home = EpisodeFolder.open(workspace.episodes_dir, plan)
        learn_episode(Episode.open(home, read_task, fetch))
        base = home.state_dir
    assert home is not None
    return home


def answers(
    workspace: Workspace, params: Params, state_dir: Path, samples: list[Sample], files: dict[str, Path]
) -> torch.Tensor:
    """The logits (n, C) of images."""
    network = open_network(load_state(state_dir), params.run.device)
    cache = FeatureCache(workspace.episodes_dir / "features")

    def fetch(wanted: Iterable[Sample]) -> dict[str, Path]:
        return files | dict(versions.fetch(workspace, [sample for sample in wanted if sample.md5 not in files]))

    asker = Asker(network, cache, fetch, params.run.batch_size)
    features, textures = asker.ask(FeatureQuery.of_centers(samples), with_texture=True)
    return network.logits(features, textures).cpu()


def membership(logits: torch.Tensor, is_member: list[int]) -> dict[str, float]:
    """Of each score, how well it tells members."""
    probabilities = logits.double().softmax(1)
    top = probabilities.topk(2).values
    scores = {
        "confidence": top[:, 0],
        "margin": top[:, 0] - top[:, 1],
        "entropy": -(probabilities * probabilities.clamp(min=1e-12).log()).sum(1),
        "energy": logits.double().logsumexp(1),
    }
    found = {name: float(roc_auc_score(is_member, score)) for name, score in scores.items()}
    return {name: round(max(value, 1 - value), 3) for name, value in found.items()}


def held_back(raw: Path, names: list[str], gone: str, count: int) -> list[Path]:
    """Leave the first `count` training images of each class; returns the withdrawn generator's others."""
    others = []
    for name in names:
        for kind in ("0_real", "1_fake"):
            more = sorted((raw / name / "train" / kind).iterdir())[count:]
            moved = [path.rename(raw / f"{name}-{kind}-{path.name}") for path in more]
            others += moved if (name, kind) == (gone, "1_fake") else []
    return others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=150, help="training images of each class")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = simulate(Path(folder, "raw"), seed=asked.seed, train_per_class=2 * asked.train)[:TASKS]
        unseen = held_back(Path(folder, "raw"), names, names[GONE], asked.train)
        values = {"backbone": {"crop": SIDE}, "run": {"seed": asked.seed, "device": "cpu"}}
        values |= {"landing": {"min_train": 1}}
        workspace = initialize(Path(folder, "workspace"), values=values)
        for name in names:
            land(workspace, Path(folder, "raw", name), name)
        print(json.dumps(measured(workspace, names, unseen), indent=1))


def measured(workspace: Workspace, names: list[str], others: list[Path]) -> dict[str, object]:
    params, gone = load_params(workspace.params_path), names[GONE]
    first = learned(workspace, params, names[:GONE], None)
    homes = {
        "with it": learned(workspace, params, names[GONE:], first.state_dir),
        "exact": learned(workspace, params, names[GONE + 1 :], first.state_dir),
    }
    read_task, fetch = partial(versions.read_task, workspace), partial(versions.fetch, workspace)
    told = (read_task, fetch, params, versions.revision(workspace))
    homes["fast"] = cut_out(workspace.episodes_dir, homes["with it"].state_dir, gone, *told)
    learn_episode(Episode.open(homes["fast"], read_task, fetch))
    task = read_task(gone)
    held = {entry.sample.md5 for entry in load_state(homes["with it"].state_dir).calibration_memory}
    members = [sample for sample in task.train if sample.class_index and sample.md5 not in held]
    files = {versions.md5_of(path): path for path in others}
    unseen = [Sample(path.name, md5, gone, 1) for md5, path in files.items()]
    is_member = [1] * len(members) + [0] * len(unseen)
    found: dict[str, object] = {"withdrawn": gone, "members": len(members), "unseen": len(unseen)}
    for what, home in homes.items():
        state = load_state(home.state_dir)
        accuracy = dict(zip((t.name for t in state.tasks), state.accuracy[-1], strict=True))
        logits = answers(workspace, params, home.state_dir, [*members, *unseen], files)
        found[what] = {"accuracy": accuracy, "membership": membership(logits, is_member)}
    return found


if __name__ == "__main__":
    main()
