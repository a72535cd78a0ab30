"""What an episode costs before and beside learning: states read and hashed, networks built; against another checkout.

python benchmarks/episode_overhead.py --before CHECKOUT [--branches 12] [--rounds 3]

The steps of one episode are run as plain functions on two small tasks, on top of a state of so many random branches on
a random ConViT-Base of small images, its LoRA as large as ever. Counted are what opens, hashes and builds, and the
steps that register, judge and promote at an MLflow server of this machine, by the clock and in processor seconds, in a
process of its own for each checkout, in turns; the libraries were imported before, and the base was registered.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME = "convit_base"
ARGUMENTS = {"img_size": 32}
OPENERS = ("load_state", "save_state", "state_digest", "open_network", "open_backbone", "reopen_backbone")
"""Of whichever module: the build before has the same names."""

STEPS = ("grow", "fit", "train_branch", "herd", "update_exemplars", "calibrate", "score", "evaluate", "assess")
"""The steps of either build, in order; then the atlas."""

REGISTERING = ("register", "gate", "promote")
GATE = {f"{what}_{limit}": value for what in ("detection", "attribution")
        for limit, value in (("floor", 0.0), ("drop", 1.0), ("forgetting", 1.0))}  # fmt: skip
"""Random branches are no good at anything."""


@dataclass
class Spent:
    """Seconds by the clock, of this process and of MLflow's server; and calls."""

    clock: Counter[str] = field(default_factory=Counter)
    processor: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    inside: str = ""

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Count the block; what is inside of another that is counted belongs to that."""
        if self.inside:
            yield
            return
        self.inside, clock, processor = what, time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.inside = ""
            self.clock[what] += time.perf_counter() - clock
            self.processor[what] += time.process_time() - processor


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
        "gate": GATE,
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
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)
    named = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
    subprocess.run(["git", *named, "commit", "-qm", "nothing", "--allow-empty"], cwd=home, check=True)


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
    versions.keep = lambda *_: None
    spent = Spent()
    count_openers(spent)
    count_requests(spent)
    given: dict[str, Any] = {"root": str(home), "base": str(home / "base"), "settings": settings}
    with tempfile.TemporaryDirectory(dir=home) as parent, mlflow_server(Path(parent) / "mlflow") as server:
        register_base(home, branches)
        given["home"] = steps.plan_episode(str(home), Path(parent), given["base"], f"task{branches}", settings)
        spent = restarted(spent)
        started = time.process_time()
        for name in (*STEPS, "update_atlas"):
            run_step(steps, name, given)
        write_assessment(EpisodeFolder(Path(given["home"])), branches)
        server_s = processor_s(server)
        for name in REGISTERING:
            with spent.on(name):
                run_step(steps, name, given)
        whole = time.process_time() - started
        server_s = processor_s(server) - server_s
    return {
        "clock_s": sum(spent.clock.values()), "processor_s": sum(spent.processor.values()), "server_s": server_s,
        "clock": spent.clock, "processor": spent.processor, "calls": spent.calls, "steps_s": whole,
    }  # fmt: skip


def restarted(spent: Spent) -> Spent:
    """The same from zero on."""
    for counter in (spent.clock, spent.processor, spent.calls):
        counter.clear()
    return spent


def run_step(steps: Any, name: str, given: dict[str, Any]) -> None:
    """A step as a plain function, where this build has it."""
    if step := getattr(steps, name, None):
        step.fn(**{key: given[key] for key in inspect.signature(step.fn).parameters})


def count_openers(spent: Spent) -> None:
    """Count what opens, hashes and builds, wherever it is called."""

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            spent.calls[function.__name__] += 1
            with spent.on("open, hash, build"):
                return function(*arguments, **named)

        return wrapper

    wrapped: dict[int, Callable[..., Any]] = {}
    for module in [m for name, m in sys.modules.items() if name.startswith(("lorax", "flows"))]:
        for name in OPENERS:
            function = getattr(module, name, None)
            if inspect.isfunction(function):
                wrapped.setdefault(id(function), timed(function))
                setattr(module, name, wrapped[id(function)])


def count_requests(spent: Spent) -> None:
    """Count what is asked of MLflow's server."""
    import requests

    send = requests.Session.send

    def counted(session: Any, request: Any, **more: Any) -> Any:
        spent.calls[f"requests of {spent.inside}"] += 1
        return send(session, request, **more)

    requests.Session.send = counted  # type: ignore[method-assign]


@contextmanager
def mlflow_server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server of its own, which the environment names, as `lorax up` starts it."""
    import requests

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    told = {"DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_WORKERS": "1"}
    told |= {"MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow.db", "MLFLOW_ARTIFACTS_DESTINATION": "artifacts"}
    command = [sys.executable, "-m", "lorax.registry.server", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | told, stdout=log, stderr=log)
    os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            try:
                requests.get(f"{os.environ['MLFLOW_TRACKING_URI']}/health", timeout=10)
                break
            except requests.RequestException:
                time.sleep(0.3)
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.returncode not in (0, -15):
            sys.stderr.write((folder / "log").read_text())


def processor_s(process: subprocess.Popen[bytes]) -> float:
    import psutil

    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def register_base(home: Path, branches: int) -> None:
    """Make the base champion, as the episode's parent is."""
    from lorax.learning.folder import Report
    from lorax.params import Params
    from lorax.registry import Registry
    from lorax.registry.candidate import open_candidate

    names = [f"task{k}" for k in range(branches)]
    shares = dict.fromkeys(names, 0.5)
    confusion = [[1] * (2 * branches)] * (2 * branches)
    report = Report(
        accuracy=shares, binary_accuracy=shares, pooled_accuracy=0.5, confusion=confusion, against_base={},
        detection_against_base={},
        episode=branches - 1, task=names[-1], curves=[], seconds={}, trainable_parameters=1, lora_modules=1,
    )  # fmt: skip
    candidate = open_candidate(home / "base", report, None, None)
    registry = Registry(os.environ["MLFLOW_TRACKING_URI"], Params.model_validate({}).registry.model)
    version = registry.register(candidate)
    registry.promote(version.version, home / "base", by="benchmark", reason="it is random")


def write_assessment(folder: Any, branches: int) -> None:
    """An assessment as a calibrated version has it, in place of the episode's, which looks at one image a class."""
    from lorax.data.perturbations import CARD
    from lorax.learning.assessment import ALL, Assessment, Bin, CardRow, Reliability
    from lorax.learning.unknown import Foreseen
    from lorax.storage import write_record

    bins = [Bin(share, share, 100) for share in (0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)]
    reliability = [Reliability(name, 700, 0.5, 0.4, 0.1, 0.02, 0.015, bins) for name in ("clean", "jpeg-75")]
    tasks = [*(f"task{k}" for k in range(branches + 1)), ALL]
    card = [CardRow(of.name, task, 50, 0.9, 0.99, 0.03, 0.04) for of in CARD for task in tasks]
    foreseen = Foreseen(0.91, 0.62, 0.55, 0.17, 0.05, 0.25)
    assessment = Assessment(branches, f"task{branches}", True, reliability, card, foreseen, 25, 1.5, None, None)
    write_record(folder.assessment_path, assessment)


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

    checkouts = {"before": given.before.resolve()} if given.before else {}
    checkouts["now"] = Path(__file__).parents[1]
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), given.branches)
        for _ in range(given.rounds):
            rounds.append({})
            for name, path in checkouts.items():
                load = os.getloadavg()[0]
                rounds[-1][name] = run(path.resolve(), Path(folder), given.branches) | {"load": load}
                print(name, rounds[-1][name], flush=True)
    rows = [
        {
            "what": what,
            **{name: statistics.median(one[name][what] for one in rounds) for name in checkouts},
            **(spread([one["before"][what] / one["now"][what] for one in rounds]) if given.before else {}),
        }
        for what in ("clock_s", "processor_s", "server_s")
    ]
    report("episode_overhead", rows, branches=given.branches, rounds=rounds)


if __name__ == "__main__":
    main()
