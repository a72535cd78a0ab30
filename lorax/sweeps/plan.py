"""What a sweep is: a file of scenarios, methods, seeds and orders, and the cells that it comes to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lorax.data import pins, versions
from lorax.errors import LayoutError, ParamsError, printable
from lorax.learning import state_files
from lorax.learning.methods import METHODS
from lorax.params import Params, load_params
from lorax.reconcile import scenario_orders
from lorax.storage import canonical_json
from lorax.stream import DataRevision, check_task_name
from lorax.workspace import Workspace

LORAX = "lorax"
"""The method that is learned by episodes, as `lorax learn` and `lorax scenario` learn; the others are `METHODS`."""

METHODS_KNOWN: tuple[str, ...] = (LORAX, *METHODS)
"""All that a sweep can compare."""

_FORMAT = 1
"""Raised when a method comes to other figures by the same parameters, so that older results are not found."""

_ALONE = {"threads": 1, "processes": 1}
"""A cell runs on one core, or on one GPU; and threads are part of a result's last bits."""

_NEVER_GB = 1e9
"""Cells share kept features while others look at them; so the sweep itself makes room, when none runs."""


class Sweep(BaseModel):
    """A sweep's file, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    scenarios: list[str | list[str]] = Field(min_length=1)
    methods: list[str] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(min_length=1)
    orders: int = Field(1, ge=1)
    preset: str | None = None
    overrides: list[str] = Field(default_factory=list)

    @field_validator("scenarios", "methods", "seeds")
    @classmethod
    def _each_once(cls, values: list[Any]) -> list[Any]:
        if twice := [value for value in values if values.count(value) > 1]:
            raise ValueError(f"{twice[0]!r} is there twice; expected each once")
        return values

    @field_validator("scenarios")
    @classmethod
    def _lists_name_tasks(cls, scenarios: list[str | list[str]]) -> list[str | list[str]]:
        for tasks in scenarios:
            if not tasks or (isinstance(tasks, list) and len(set(tasks)) < len(tasks)):
                raise ValueError(f"{tasks!r} is no scenario; expected a name, or a list of tasks, each once")
        return scenarios

    @field_validator("methods")
    @classmethod
    def _are_methods(cls, methods: list[str]) -> list[str]:
        if unknown := [method for method in methods if method not in METHODS_KNOWN]:
            raise ValueError(f"there is no method {unknown[0]!r}; there are {', '.join(METHODS_KNOWN)}")
        return methods


@dataclass(frozen=True)
class Cell:
    """One method on one scenario, by one seed, in one order of its tasks; `key` names its content."""

    scenario: str
    method: str
    seed: int
    order: int
    tasks: tuple[str, ...]
    key: str

    @property
    def title(self) -> str:
        return f"{self.scenario}, {self.method}, seed {self.seed}, order {self.order}"


@dataclass(frozen=True)
class Plan:
    """A sweep of a workspace, at the data revision of the moment in which it was planned."""

    workspace: Workspace
    name: str
    sweep: Sweep
    params: Params
    revision: DataRevision
    cells: tuple[Cell, ...]

    @property
    def home(self) -> Path:
        """Where its results are."""
        return self.workspace.work_dir / "sweeps" / self.name

    @property
    def episodes_dir(self) -> Path:
        """What cells share: episodes that begin alike, and what frozen branches said of images."""
        return self.home / "episodes"

    def params_of(self, cell: Cell) -> Params:
        """Those that a cell learns with."""
        return _seeded(self.params, cell.seed)


def plan_sweep(workspace: Workspace, path: Path) -> Plan:
    """The cells of the sweep that a file describes, in the order in which they are run.

    Raises:
        ParamsError: the file is no sweep, or params.yaml or its overrides hold something that the schema refuses.
        LayoutError: the file's name can't name a folder.
        DataVersionError: there is no such scenario, its tasks have not landed, or have not so many orders.
    """
    name, sweep = _name_of(path), read_sweep(path)
    params = _alone(load_params(workspace.params_path, preset=sweep.preset, overrides=sweep.overrides))
    found = versions.revision(workspace)
    return Plan(workspace, name, sweep, params, found, tuple(_cells(workspace, sweep, params)))


def _name_of(path: Path) -> str:
    """What a file calls its sweep, whose results lie in a folder of that name."""
    try:
        return check_task_name(path.stem)
    except LayoutError:
        raise LayoutError(
            f"{path.stem!r} can't name a sweep: expected 1 to 63 lower-case letters, digits, '_' or '-', beginning "
            "with a letter or digit. Rename the file."
        ) from None


def read_sweep(path: Path) -> Sweep:
    """What a sweep's file holds.

    Raises:
        ParamsError: it can't be read, or holds something else.
    """
    try:
        return Sweep.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        faults = "; ".join(_fault(one) for one in error.errors(include_url=False))
        raise ParamsError(
            f"{path} is no sweep: {printable(faults)}. Expected lists 'scenarios', 'methods' and 'seeds', and if "
            "wanted 'orders', 'preset' and 'overrides' (docs/scale.md, \"Sweeps\"); correct it, and run again."
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        why = printable(" ".join(str(error).split()))
        raise ParamsError(f"{path} can't be read as YAML: {why}. Name a sweep's file, such as sweep.yaml.") from error


def _fault(error: Any) -> str:
    where, found = ".".join(map(str, error["loc"])), error["input"]
    said = error["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, (where, said if error["type"] == "missing" else f"{said}, found {found!r}")))


def _cells(workspace: Workspace, sweep: Sweep, params: Params) -> Iterator[Cell]:
    digests = {task.name: task.digest for task in versions.landed(workspace)}
    notes = {task.name: (kept.extends, kept.new_version_of) for task, kept in pins.committed(workspace).notes.items()}
    for one in sweep.scenarios:
        scenario = one if isinstance(one, str) else ", ".join(one)
        orders = scenario_orders(workspace, one, sweep.orders, params.run.seed)
        for (order, names), seed, method in product(enumerate(orders), sweep.seeds, sweep.methods):
            content = {
                "format": [_FORMAT, state_files.FORMAT],
                "scenario": scenario,
                "method": method,
                "tasks": [[name, digests[name], *notes[name]] for name in names],
                "parameters": _seeded(params, seed).learning(),
            }
            key = hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]
            yield Cell(scenario, method, seed, order, tuple(names), key)


def _alone(params: Params) -> Params:
    run = params.run.model_copy(update=_ALONE)
    return params.model_copy(
        update={"run": run, "features": params.features.model_copy(update={"limit_gb": _NEVER_GB})}
    )


def _seeded(params: Params, seed: int) -> Params:
    return params.model_copy(update={"run": params.run.model_copy(update={"seed": seed})})
