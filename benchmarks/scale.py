"""What so many images a day and so many generators cost, composed of measured constants; docs/scale.md reads it out.

    python -m benchmarks.scale --images 1e9 --generators 60 --nodes 10
    python -m benchmarks.scale --tables                 # those of docs/scale.md

Constants come from benchmarks/results: parts of a verdict (scale_parts.py), what Ray costs (proofs/score_cluster.py),
rows, bytes and an episode's overhead (proofs/many_versions.py), landing (landing.py). All seconds are of one core's
time. `python -m proofs.scale_check` compares the model with what really happens, at a size that runs on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.measure import read_report

DAY_S = 86_400
_STUDENT_NEEDS = 200
"""Held-out images, before there is a student: 1 / `MAY_DIFFER` of lorax/learning/student.py."""

_FLOAT, _ROW_BYTES = 4, 90
"""Bytes of a number, and of a row of exemplars.csv or calibration.csv."""

_KINDS = 5
"""Clean images, and the kinds of perturbed ones that heads are solved for by default."""

_CARD = 10
"""Perturbations of the robustness card."""

_PROCESS_MB = 290
"""A process that judges, without branches: benchmarks/branch_memory.py."""


@dataclass(frozen=True)
class Task:
    """What one landing brings and an episode does with it: params.yaml's defaults, for 600 + 600 images."""

    train: int = 1200
    test: int = 400
    epochs: int = 6
    budget: int = 500
    held_out: int = 60
    on_card: int = 50


@dataclass(frozen=True)
class Setting:
    """What is asked for.

    Args:
        images: a day.
        generators: known; each task brings one, and real images of its own.
        nodes, cores: machines that judge, and cores of each.
        side: of an image, pixels.
        crops: that are looked at: 5 where the image is at least two crops wide and high.
        backbone: of scale_parts.
        asked: share of the images that the student leaves to the branches.
        task: see above.
    """

    images: float = 1e6
    generators: int = 60
    nodes: int = 1
    cores: int = 16
    side: int = 256
    crops: int = 5
    backbone: str = "residual"
    asked: float = 0.025
    task: Task = Task()

    @property
    def classes(self) -> int:
        return 2 * self.generators

    @property
    def share(self) -> float:
        """Of the images, about which the branches are asked."""
        return self.asked if self.generators * self.task.held_out >= _STUDENT_NEEDS else 1.0


class Constants:
    """The measured figures."""

    def __init__(self) -> None:
        parts = read_report("scale_parts")["rows"]
        self.backbones: Mapping[str, Mapping[str, Any]] = {row["backbone"]: row for row in parts if "backbone" in row}
        self.decode = _line([(row["side"] ** 2, row["decode_ms"]) for row in parts if "side" in row])
        self.row_ms = _line([(row["classes"], row["row_ms"]) for row in parts if "classes" in row])
        self.row_bytes = _line([(row["classes"], row["row_bytes"]) for row in parts if "classes" in row])
        self.life = read_report("many_versions")["rows"]
        self.ray = min(row["ratio"] for row in read_report("score_cluster")["rows"])
        self.land_ms = read_report("landing-50000-tree")["rows"][0]["land_processor_ms"]

    def branch_ms(self, backbone: str) -> float:
        """Of a crop, by one branch."""
        row = self.backbones[backbone]
        return float(row["exact_12_ms"] - row["exact_1_ms"]) / 11

    def rows(self, of: str, tasks: int) -> float:
        """A server's, after so many tasks: the curve a + b·n + c·n² through the long life's first three counts."""
        return self._fitted(f"{of}_rows", 2, tasks)

    def seconds(self, of: str, tasks: int) -> float:
        """Of processors, after so many tasks: a straight line."""
        return max(self._fitted(f"{of}_processor_s", 1, tasks), 0.0)

    @property
    def pictures_bytes(self) -> float:
        """Of a version, beside its learner state: pictures, card, report."""
        before, after = self.life[-2:]
        added = (after["artifact_bytes"] - before["artifact_bytes"]) / (after["versions"] - before["versions"])
        return float(added - after["state_bytes"])

    def _fitted(self, figure: str, degree: int, tasks: int) -> float:
        rows = self.life[:3]
        return float(np.polyval(np.polyfit([r["tasks"] for r in rows], [r[figure] for r in rows], degree), tasks))


def verdict_ms(asked: Setting, c: Constants) -> float:
    """Of one core, an image, in `lorax score`."""
    student, branch = c.backbones[asked.backbone]["student_1_ms"], c.branch_ms(asked.backbone)
    network = asked.crops * (student + asked.share * asked.generators * branch)
    return float(c.decode(asked.side**2) + network + c.row_ms(asked.classes)) / min(1.0, c.ray)


def state_bytes(asked: Setting, c: Constants) -> float:
    """Of a learner state: what is there at once, what grows with generators, and the head, with their square."""
    row, classes = c.backbones[asked.backbone], asked.classes
    width, texture = row["width"], row["texture_width"]
    statistics = _KINDS * texture * (texture + 1) / 2 * _FLOAT
    of_a_class = (3 * _KINDS + 1) * texture * _FLOAT  # heads of the texture, its means, its distance; the student
    tables = (asked.task.budget + asked.generators * asked.task.held_out) * _ROW_BYTES
    head = classes * asked.generators * width * _FLOAT
    return float(statistics + classes * of_a_class + asked.generators * row["branch_bytes"] + head + tables)


def memory_mb(asked: Setting, c: Constants) -> float:
    """Of one process that judges; a node has one for each core."""
    return _PROCESS_MB + state_bytes(asked, c) / 1e6


def episode_s(asked: Setting, c: Constants) -> dict[str, float]:
    """Of cores, by part: the episode that learns the last of the generators."""
    row, task, k = c.backbones[asked.backbone], asked.task, asked.generators
    branch, decode = c.branch_ms(asked.backbone), c.decode(asked.side**2)
    front = row["exact_1_ms"] - branch + decode
    share, texture = asked.share, row["student_1_ms"] + decode
    old = (k - 1) * task.test
    ms = {
        "frozen branches, new images": task.train * (front + (k - 1) * branch),
        "training": task.epochs * (task.train + task.budget) * row["step_ms"] + task.train * branch,
        "perturbed images": task.train * texture,
        "exemplars": task.budget * (front + branch),
        "calibration": task.held_out * (_KINDS * texture + k * branch) + (k - 1) * task.held_out * (front + branch),
        "tests": task.test * (texture + share * k * branch) + share * old * branch,
        "card": _CARD * (task.on_card * (texture + share * k * branch) + share * (k - 1) * task.on_card * branch),
    }
    return {name: value / 1000 for name, value in ms.items()} | {"orchestration": c.seconds("episode", k)}


def kept_bytes(asked: Setting, c: Constants) -> float:
    """Of all versions, one for each generator."""
    states = sum(state_bytes(replace(asked, generators=k), c) for k in range(1, asked.generators + 1))
    return states + asked.generators * c.pictures_bytes


def told(asked: Setting, c: Constants) -> dict[str, str]:
    """All that the model says of a setting."""
    ms = verdict_ms(asked, c)
    rate = 1000 / ms * asked.cores * asked.nodes
    days = asked.images / (rate * DAY_S)
    parts = episode_s(asked, c)
    dearest = max(parts, key=parts.__getitem__)
    row_bytes = float(c.row_bytes(asked.classes))
    return {
        "a verdict": f"{ms:.1f} ms of a core",
        "images a day that the nodes judge": f"{rate * DAY_S:.2g} ({rate:,.0f} a second)",
        "share of the day": f"{days:.1%}" if days < 1 else f"{days:.1f} days",
        f"nodes of {asked.cores} cores for it": f"{asked.images / DAY_S * ms / 1000 / asked.cores:,.1f}",
        "memory of a node": f"{asked.cores * memory_mb(asked, c) / 1000:,.1f} GB",
        "verdicts": f"{row_bytes:,.0f} bytes an image, {asked.images * row_bytes / 1e9:,.1f} GB a day",
        "landing so many": f"{asked.images * c.land_ms / 1000 / 3600:,.1f} core hours",
        "an episode": f"{sum(parts.values()):,.0f} s of a core, of them {parts[dearest]:,.0f} {dearest}",
        "a version": f"{state_bytes(asked, c) / 1e6:,.0f} MB; all of them {kept_bytes(asked, c) / 1e9:,.1f} GB",
        "MLflow's rows": f"{c.rows('mlflow', asked.generators):,.0f}",
        "Prefect's rows": f"{c.rows('prefect', asked.generators):,.0f}",
        "lorax status": f"{c.seconds('lorax status', asked.generators):.1f} s of processors",
    }


def _line(points: list[tuple[float, float]]) -> Any:
    """Straight between points and beyond them."""
    xs, ys = zip(*sorted(points), strict=True)

    def at(x: float) -> float:
        i = min(max(int(np.searchsorted(xs, x)), 1), len(xs) - 1)
        return float(ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1]))

    return at


_MANY = (20, 60, 200, 500)
_SHOWN = ("a verdict", "memory of a node", "verdicts", "an episode", "a version", "MLflow's rows")


def tables(c: Constants) -> None:
    """Those of docs/scale.md, in Markdown."""
    for backbone, crops in (("residual", 5), ("convit_tiny", 1)):
        columns = [told(Setting(generators=k, backbone=backbone, crops=crops), c) for k in _MANY]
        _print_row(f"{backbone}, generators", _MANY, is_head=True)
        for what in _SHOWN:
            _print_row(what, [column[what] for column in columns])
        print()
    _print_row("images a day, nodes", [f"{k} generators" for k in _MANY], is_head=True)
    for images in (1e6, 1e9):
        for nodes in (1, 10, 100):
            shares = [told(Setting(images, k, nodes), c)["share of the day"] for k in _MANY]
            _print_row(f"{images:.0e}, {nodes}", shares)


def _print_row(first: str, cells: Iterable[object], *, is_head: bool = False) -> None:
    row = [first, *map(str, cells)]
    print(f"| {' | '.join(row)} |" + ("\n|" + "---|" * len(row) if is_head else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = Setting()
    for name in ("images", "asked"):
        parser.add_argument(f"--{name}", type=float, default=getattr(usual, name))
    for name in ("generators", "nodes", "cores", "side", "crops"):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name))
    parser.add_argument("--backbone", choices=["residual", "convit_tiny"], default=usual.backbone)
    parser.add_argument("--tables", action="store_true", help="print those of docs/scale.md")
    given = vars(parser.parse_args())
    constants = Constants()
    if given.pop("tables"):
        tables(constants)
        return
    asked = Setting(**given)
    for name, value in told(asked, constants).items():
        print(f"{name:<36} {value}")
    for name, seconds in episode_s(asked, constants).items():
        print(f"  episode: {name:<28} {seconds:8.1f} s")


if __name__ == "__main__":
    main()
