"""Classifying images with many branches, all of them asked, by ours and: as published, by PEFT's mixed batch, before.

As published means PEFT's adapters in turn and timm's attention; before, by another checkout's code.

    python benchmarks/prediction.py [--before CHECKOUT]
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from build import Build
from measure import report, spread
from published import PublishedNetwork
from setting import Setting, add_options, opened, result_name


def measured(setting: Setting, branches: int, batch: int, rounds: int) -> dict[str, object]:
    params, images = setting.params(), setting.images(batch)
    published = setting.published(params, branches)
    ours = setting.ours_like(published, params)
    found = setting.compare(batch, lambda: published.predict(images), lambda: ours.predict(images), rounds)
    difference = float((published.predict(images) - ours.predict(images)).abs().max())
    return {"branches": branches, "batch": batch, **found, "difference": difference}


def mixed(setting: Setting, branches: int, batch: int, rounds: int) -> dict[str, object]:
    """Against PEFT's one batch in which each image stands once for every adapter, on timm's own attention."""
    params, images = setting.params(), setting.images(batch)
    published = setting.published(params, branches).eval()
    ours = setting.ours_like(published, params)
    found = setting.compare(batch, lambda: _mixed(published, images), lambda: ours.predict(images), rounds)
    difference = float((_mixed(published, images) - ours.predict(images)).abs().max())
    return {"what": "PEFT's mixed batch", "branches": branches, "batch": batch, **found, "difference": difference}


@torch.no_grad()
def _mixed(network: PublishedNetwork, images: torch.Tensor) -> torch.Tensor:
    names = [name for name in network.model.peft_config for _ in images]
    with network.autocast():
        said = network.model(network.normalised(images).repeat(network.branches, 1, 1, 1), adapter_names=names)
    features = said.float().view(network.branches, len(images), -1).transpose(0, 1).flatten(1)
    probabilities: torch.Tensor = network.head(features).softmax(dim=1)
    return probabilities


def against(before: Path, setting: Setting, branches: int, batch: int, rounds: int) -> dict[str, object]:
    """Features of all branches by another checkout's code and by this one's, in turns, each in its own process."""
    params, load = setting.params(), os.getloadavg()[0]
    asked = {"backbone": params.backbone.model_dump(), "lora": params.lora.model_dump()}
    asked |= {"branches": branches, "images": batch, "threads": torch.get_num_threads()}
    with ExitStack() as both:
        builds = [both.enter_context(Build(path, asked)) for path in (before, Path(__file__).parents[1])]
        _, *taken = ([build.ask("predict") for build in builds] for _ in range(1 + rounds))  # the first warms up
    medians = [statistics.median(each) for each in zip(*taken, strict=True)]
    found = dict(zip(("before_s", "ours_s"), medians, strict=True))
    ratios = spread([earlier / now for earlier, now in taken])
    return {"what": "before / ours", "branches": branches, "batch": batch, **found, **ratios, "load_before": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, batch=[1, 16], branches=[12], rounds=5)
    parser.add_argument("--before", type=Path, help="a checkout of the build to compare with")
    arguments = parser.parse_args()
    ways: list[Callable[[Setting, int, int, int], dict[str, object]]] = [measured, mixed]
    if arguments.before:
        ways.append(lambda *given: against(arguments.before, *given))
    with opened(arguments) as setting:
        sizes = [(k, b) for k in arguments.branches for b in arguments.batch]
        rows = [way(setting, k, b, arguments.rounds) for way in ways for k, b in sizes]
    report(result_name("prediction", arguments), rows)


if __name__ == "__main__":
    main()
