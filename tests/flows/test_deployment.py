"""A prefect.yaml that came with somebody's clone has nothing run but what comes with lorax."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import deployment
from lorax.errors import ServiceError

TEMPLATE = Path(deployment.__file__).parents[1] / "lorax" / "templates" / "prefect.yaml"
STEP = {"prefect.deployments.steps.run_shell_script": {"script": "true"}}
CLONE = {"prefect.deployments.steps.git_clone": {"repository": "https://git.example.org/team/detector.git"}}


def first(found: dict[str, Any]) -> dict[str, Any]:
    deployment: dict[str, Any] = found["deployments"][0]
    return deployment


def variables(found: dict[str, Any]) -> dict[str, Any]:
    inside: dict[str, Any] = first(found)["work_pool"]["job_variables"]
    return inside


def test_what_init_writes_is_taken_and_so_is_a_clone_for_every_run(tmp_path: Path) -> None:
    deployment.check(TEMPLATE)
    found = yaml.safe_load(TEMPLATE.read_text())
    first(found)["pull"] = [CLONE]
    path = tmp_path / "prefect.yaml"
    path.write_text(yaml.safe_dump(found))
    deployment.check(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.update(build=[STEP]), r"the build step '.*run_shell_script'"),
        (lambda found: found.update(push=[STEP]), r"the push step"),
        (lambda found: found.update(pull=[STEP]), r"the pull step"),
        (lambda found: first(found).update(build=[STEP]), r"the build step"),
        (lambda found: first(found).update(push=STEP), r"the push step"),
        (lambda found: first(found).update(pull=[CLONE, STEP]), r"the pull step"),
        (lambda found: first(found).update(build="prefect.deployments.steps.run_shell_script"), r"the build step"),
        (lambda found: first(found).update(entrypoint="learn.py:learn"), r"the entrypoint 'learn.py:learn'"),
        (lambda found: first(found).pop("entrypoint"), r"the entrypoint ''"),
        (lambda found: variables(found).update(command="true"), r"the job variable 'command'"),
        (lambda found: variables(found)["env"].update(PYTHONPATH="."), r"the variable 'PYTHONPATH'"),
        (lambda found: found["deployments"].append({"name": "more", "build": [STEP]}), r"the build step"),
    ],
)
def test_steps_foreign_flows_and_settings_of_the_process_are_refused_in_a_line(
    change: Callable[[dict[str, Any]], Any], says: str, tmp_path: Path
) -> None:
    found = yaml.safe_load(TEMPLATE.read_text())
    change(found)
    path = tmp_path / "prefect.yaml"
    path.write_text(yaml.safe_dump(found))
    with pytest.raises(ServiceError, match=f"{says}.*which could run anything here.*--prefect-file") as error:
        deployment.check(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text", ["", "- 1", "deployments: {a: 1}", "deployments: [1]", "deployments: 3", "a: [", "{", "\0"]
)
def test_what_is_no_such_file_is_told_in_a_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    with pytest.raises(ServiceError, match="can't be read as Prefect's file") as error:
        deployment.check(path)
    assert str(error.value).isprintable()


def test_runs_of_every_flow_are_watched() -> None:
    from prefect import Flow

    from flows import learn, scenario, sweep, withdraw

    rooms = (learn, scenario, sweep, withdraw)
    found = {one.name for room in rooms for one in vars(room).values() if isinstance(one, Flow)}
    assert found == set(deployment.FLOWS)
