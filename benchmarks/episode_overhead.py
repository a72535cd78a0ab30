"""What an episode costs before and beside learning: states read and hashed, networks built; against another checkout.

python benchmarks/episode_overhead.py --before CHECKOUT [--branches 12] [--rounds 3]

The steps of one episode are run as plain functions on two small tasks, on top of a state of so many random branches on
a random ConViT-Base of small images, its LoRA as large as ever. The processor seconds within what opens, hashes and
builds are counted, in a process of its own for each checkout, in turns; the libraries were imported before.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "convit_base"
ARGUMENTS = {"img_size": 32}
OPENERS = ("load_state", "save_state", "state_digest", "open_network", "open_backbone", "reopen_backbone")
"""Of whichever module: the build before has the same names."""

STEPS = ("grow", "fit", "train_branch", "herd", "update_exemplars", "calibrate", "score", "evaluate", "assess")
"""The steps of either build, in order; then the atlas, and what registering reads."""


def prepare(home: Path, branches: int) -> None:
    """Weights, and a state of random branches; by this checkout's code."""
    import safetensors.torch
    import torch

    from lorax.learning.state import Branch, LearnerState
    from lorax.learning.state_files import save_state
    from lorax.network.building import import_timm, open_backbone
    from lorax.params import Params
    from lorax.stream import ClassTable, DataRevision, PinnedTask, TaskClass

    torch.manual_seed(0)
    weights = home / "base.safetensors"
    model = import_timm().create_model(NAME, num_classes=0, **ARGUMENTS)
    safetensors.torch.save_file({n: w.contiguous() for n, w in model.state_dict().items()}, weights)
    asked = {
        "backbone": {"name": NAME, "weights": str(weights), "arguments": ARGUMENTS, "crop": 32},
        "training": {"epochs": 1, "batch_size": 4, "views": 1},
        "exemplars": {"budget": 0},
        "head": {"solver": "gradient"},
        "calibration": {"per_class": 0},
        "robustness": {"per_class": 0},
        "run": {"threads": 1, "device": "cpu", "batch_size": 4},
    }
    (home / "asked.json").write_text(json.dumps(asked))
    params = Params.model_validate(asked)
    backbone, classes, learned = open_backbone(params.backbone), ClassTable(), []
    for k in range(branches):
        fresh = backbone.add_branch(params.lora, 0)
        noise = {name: value + 0.01 * torch.randn_like(value) for name, value in fresh.weights.items()}
        learned.append(Branch(f"task{k}", fresh.config, noise, 0))
        classes = classes.with_task(f"task{k}", (TaskClass(0, "real"), TaskClass(1, f"task{k}")))
    state = LearnerState(
        backbone.identity,
        tuple(learned),
        classes,
        torch.randn(2 * branches, branches * backbone.width),
        torch.zeros(2 * branches),
        tasks=tuple(PinnedTask(branch.task, "0" * 32) for branch in learned),
        accuracy=tuple(tuple([0.5] * (k + 1)) for k in range(branches)),
        revision=DataRevision("0" * 32, None),
        parameters=params.learning(),
    )
    save_state(state, home / "base")


def one_episode(home: Path, branches: int) -> dict[str, Any]:
    """Seconds of the steps, and those within OPENERS with how often each was called; by the code on the path."""
    import numpy as np
    from PIL import Image

    from flows import steps
    from lorax import stream
    from lorax.data import versions
    from lorax.data.layout import parse_task
    from lorax.learning.folder import EpisodeFolder
    from lorax.params import Params

    builder = "building" if importlib.util.find_spec("lorax.network.building") else "backbone"
    importlib.import_module(f"lorax.network.{builder}").import_timm()
    importlib.import_module("peft")

    files: dict[str, Path] = {}
    tasks = {f"task{k}": _task(f"task{k}", k, home, files, parse_task, np, Image) for k in range(branches + 1)}
    settings = Params.model_validate_json((home / "asked.json").read_text()).model_dump(mode="json")
    quiet(steps)
    versions.read_task = lambda _, name, *__: tasks[name]
    versions.fetch = lambda _, samples: {s.md5: files[s.md5] for s in samples}
    if importlib.util.find_spec("lorax.data.learned"):
        learned: Any = importlib.import_module("lorax.data.learned")
        learned.read_learned = lambda _, known: tasks[known.name]
    revision = getattr(versions, "DataRevision", None) or stream.DataRevision  # where either build has it
    versions.revision = lambda _: revision("1" * 32, None)
    spent, calls, inside = 0.0, dict.fromkeys(OPENERS, 0), False

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            nonlocal spent, inside
            calls[function.__name__] += 1
            if inside:
                return function(*arguments, **named)
            inside, started = True, time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                inside, spent = False, spent + time.process_time() - started

        return wrapper

    wrapped: dict[int, Callable[..., Any]] = {}
    for module in [m for name, m in sys.modules.items() if name.startswith(("lorax", "flows"))]:
        for name in OPENERS:
            function = getattr(module, name, None)
            if inspect.isfunction(function):
                wrapped.setdefault(id(function), timed(function))
                setattr(module, name, wrapped[id(function)])
    given: dict[str, Any] = {"root": str(home), "base": str(home / "base"), "settings": settings}
    with tempfile.TemporaryDirectory(dir=home) as parent:
        started = time.process_time()
        given["home"] = steps.plan_episode(str(home), Path(parent), given["base"], f"task{branches}", settings)
        for name in (*STEPS, "update_atlas"):
            if step := getattr(steps, name, None):
                step.fn(**{key: given[key] for key in inspect.signature(step.fn).parameters})
        registered(steps, given, EpisodeFolder(Path(given["home"])))
        whole = time.process_time() - started
    return {"overhead_s": spent, "steps_s": whole, "calls": calls}


def registered(steps: Any, given: dict[str, Any], folder: Any) -> None:
    """What the register step reads, without a server to register at."""
    from lorax.registry.candidate import open_candidate

    if hasattr(steps, "_opened"):
        with steps._opened(given["root"], given["home"]) as episode:
            steps._candidate(episode)
        return
    from lorax.learning.folder import Report
    from lorax.workspace import Workspace

    steps.versions.keep = lambda *_: None
    steps._keep_memory(Workspace(Path(given["root"])), folder)
    open_candidate(folder.state_dir, Report.read(folder.report_path), None, None)


def quiet(steps: Any) -> None:
    """Steps outside of a flow, with nobody to tell."""
    telling = importlib.import_module("flows.step" if importlib.util.find_spec("flows.step") else "flows.artifacts")
    for module in (steps, telling):
        module.get_run_logger = lambda: logging.getLogger("step")
    for name in ("create_progress_artifact", "update_progress_artifact", "create_table_artifact"):
        setattr(telling, name, lambda *_, **__: None)


def _task(name: str, seed: int, home: Path, files: dict[str, Path], parse_task: Any, np: Any, image: Any) -> Any:
    import hashlib

    random, found = np.random.default_rng(seed), {}
    for place in ("train/0_real", "train/1_fake", "val/0_real", "val/1_fake"):
        path = home / "data" / name / place / "0.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        files[md5], found[f"{place}/0.png"] = path, md5
    return parse_task(name, "0" * 32, found)


def run(checkout: Path, home: Path, branches: int) -> dict[str, Any]:
    """`one_episode` by a checkout's code, in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    command = [sys.executable, __file__, "--inside", str(home), "--branches", str(branches)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="a checkout of the build to compare with")
    parser.add_argument("--branches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(one_episode(given.inside, given.branches)))
        return
    from measure import report, spread

    here, rounds = Path(__file__).parents[1], []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), given.branches)
        for _ in range(given.rounds):
            rounds.append({name: run(path.resolve(), Path(folder), given.branches)
                           for name, path in (("before", given.before), ("after", here))})  # fmt: skip
            print({name: round(found["overhead_s"], 2) for name, found in rounds[-1].items()}, flush=True)
    ratios = [found["before"]["overhead_s"] / found["after"]["overhead_s"] for found in rounds]
    calls = {name: rounds[0][name]["calls"] for name in ("before", "after")}
    report("episode_overhead", [{"branches": given.branches, **spread(ratios)}], rounds=rounds, calls=calls)


if __name__ == "__main__":
    main()
