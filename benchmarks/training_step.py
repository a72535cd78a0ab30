"""One training step at K branches: as published (every branch forward and backward) against ours (only the newest).

Ours is given the frozen branches' features; what it takes to have them is part of episode.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from measure import Work, alternate, report
from published import PublishedFit
from setting import CLASSES, Setting, add_options, opened, result_name

from lorax.learning.training import Fit


def published_step(setting: Setting, branches: int, batch: int) -> Work:
    params = setting.params(f"training.batch_size={batch}")
    network = setting.published(params, branches)
    fit = PublishedFit(network, (branches - 1) * CLASSES, params, branches - 1)
    pixels = network.normalised(setting.images(batch))
    labels = torch.randint(0, branches * CLASSES, (batch,), device=setting.device)
    return lambda: fit.step(pixels, labels)


def our_step(setting: Setting, branches: int, batch: int) -> Work:
    params = setting.params(f"training.batch_size={batch}")
    network = setting.ours(params, branches)
    fit = Fit(network, range((branches - 1) * CLASSES, branches * CLASSES), params.training, params.run, branches - 1)
    pixels = setting.images(batch)
    frozen = torch.randn(batch, (branches - 1) * network.backbone.width, device=setting.device)
    labels = torch.randint(0, branches * CLASSES, (batch,), device=setting.device)

    def work() -> None:
        with fit.side_by_side():
            fit.step(pixels, frozen, labels)

    return work


STEPS = {"published": published_step, "ours": our_step}


def memory_mib(way: str, arguments: argparse.Namespace, branches: int, batch: int) -> float:
    """How far a fresh process grows while it does two steps, above what it had once the model was built."""
    options = ["--crop", str(arguments.crop), "--model", arguments.model, "--precision", arguments.precision]
    options += ["--threads", str(arguments.threads)]
    sizes = ["--branches", str(branches), "--batch", str(batch), "--memory-of", way]
    done = subprocess.run([sys.executable, __file__, *options, *sizes], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def growth_mib(work: Work) -> float:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what there is now
    before = _resident_mib("VmRSS")
    work()
    work()  # the first step makes the optimiser's state
    return _resident_mib("VmHWM") - before


def _resident_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def measured(setting: Setting, arguments: argparse.Namespace) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    most, least, rounds = max(arguments.branches), min(arguments.branches), arguments.rounds
    for batch in arguments.batch:
        for k in arguments.branches:
            published, ours = (step(setting, k, batch) for step in STEPS.values())
            rows.append({"branches": k, "batch": batch, **setting.compare(batch, published, ours, rounds)})
        growing = alternate(our_step(setting, most, batch), our_step(setting, least, batch), rounds)
        shown = {name: growing[name] for name in ("ratio", "ratio_low", "ratio_high", "load_before")}
        rows.append({"what": f"ours, {most} branches / {least}", "batch": batch, **shown})
        if setting.device.type == "cpu":
            k = arguments.memory_branches
            mib = {f"{way}_peak_mib": memory_mib(way, arguments, k, batch) for way in STEPS}
            ratio = mib["published_peak_mib"] / mib["ours_peak_mib"]
            rows.append({"what": f"memory, {k} branches", "batch": batch, **mib, "ratio": ratio})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, batch=[8], branches=[1, 2, 4, 8, 12], rounds=5)
    parser.add_argument("--memory-branches", type=int, default=8)
    parser.add_argument("--memory-of", choices=list(STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with opened(arguments) as setting:
        if arguments.memory_of:
            step = STEPS[arguments.memory_of](setting, arguments.branches[0], arguments.batch[0])
            print(json.dumps(growth_mib(step)))
            return
        rows = measured(setting, arguments)
    report(result_name("training_step", arguments), rows)


if __name__ == "__main__":
    main()
