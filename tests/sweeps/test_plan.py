"""A sweep's file, and the cells that it comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorax.data import repository
from lorax.errors import DataVersionError, LayoutError, ParamsError
from lorax.learning import state_files
from lorax.sweeps.plan import Plan, plan_sweep
from lorax.workspace import Workspace

SOUND = "scenarios: [landed]\nmethods: [lorax]\nseeds: [0]\n"


def planned(workspace: Workspace, folder: Path, text: str, name: str = "one.yaml") -> Plan:
    (folder / name).write_text(text)
    return plan_sweep(workspace, folder / name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("methods: [lorax]\nseeds: [0]\n", "scenarios: Field required"),
        (f"{SOUND}order: 2\n", "order: Extra inputs are not permitted, found 2"),
        (f"{SOUND}orders: yes\n", "orders: Input should be a valid integer, found True"),
        (f"{SOUND}orders: 0\n", "orders: Input should be greater than or equal to 1, found 0"),
        (SOUND.replace("[0]", "[0, '1']"), "seeds.1: Input should be a valid integer, found '1'"),
        (SOUND.replace("[0]", "[0, 0]"), "seeds: 0 is there twice"),
        (SOUND.replace("[0]", "[-1]"), "seeds.0: Input should be greater than or equal to 0, found -1"),
        (SOUND.replace("[lorax]", "[lorax, ewc]"), "methods: there is no method 'ewc'; there are lorax, .*linear"),
        (SOUND.replace("[landed]", "[[alpha, alpha]]"), r"scenarios: \['alpha', 'alpha'\] is no scenario"),
        ("- 1\n", "is no sweep: .*found"),
        ("a: [", "can't be read as YAML"),
    ],
)
def test_what_is_no_sweep_is_told_in_a_line(
    text: str, says: str, shared_landed_workspace: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match=says) as error:
        planned(shared_landed_workspace, tmp_path, text)
    assert str(tmp_path / "one.yaml") in str(error.value)
    assert str(error.value).isprintable()


def test_what_a_sweep_names_must_be_there(shared_landed_workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(DataVersionError, match=r"'alpha, gamma' needs tasks that have not landed .*: gamma"):
        planned(shared_landed_workspace, tmp_path, SOUND.replace("[landed]", "[[alpha, gamma]]"))
    with pytest.raises(DataVersionError, match="3 orders of scenario 'landed' were asked for"):
        planned(shared_landed_workspace, tmp_path, f"{SOUND}orders: 3\n")
    with pytest.raises(ParamsError, match="has no preset 'paper'"):
        planned(shared_landed_workspace, tmp_path, f"{SOUND}preset: paper\n")
    for name in ("A b", "two.parts"):  # of which two.others.yaml would have had the same folder
        with pytest.raises(LayoutError, match=rf"'{name}' can't name a sweep: .* Rename the file"):
            planned(shared_landed_workspace, tmp_path, SOUND, f"{name}.yaml")


def test_a_sweep_s_cells_are_all_combinations_and_each_learns_alone(
    shared_landed_workspace: Workspace, tmp_path: Path
) -> None:
    text = "scenarios: [landed, [beta]]\nmethods: [lorax, linear]\nseeds: [3, 4]\norders: 1\n"
    plan = planned(shared_landed_workspace, tmp_path, text)
    assert [(c.scenario, c.method, c.seed, c.tasks) for c in plan.cells] == [
        (scenario, method, seed, tasks)
        for scenario, tasks in (("landed", ("alpha", "beta")), ("beta", ("beta",)))
        for seed in (3, 4)
        for method in ("lorax", "linear")
    ]
    assert len({cell.key for cell in plan.cells}) == 8
    params = plan.params_of(plan.cells[-1])
    assert (params.run.seed, params.run.threads, params.run.processes) == (4, 1, 1)
    orders = planned(shared_landed_workspace, tmp_path, f"{SOUND}orders: 2\n").cells
    assert [cell.tasks for cell in orders] == [("alpha", "beta"), ("beta", "alpha")]


def test_a_cell_is_another_one_by_other_parameters_data_or_code_and_only_then(
    landed_workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(text: str = "") -> str:
        return planned(landed_workspace, tmp_path, SOUND + text).cells[0].key

    first = key()
    assert key("overrides: [serving.queue=7, run.threads=2]\n") == first, "which no result depends on"
    assert key("overrides: [training.epochs=7]\n") != first
    assert planned(landed_workspace, tmp_path, SOUND.replace("[0]", "[1]")).cells[0].key != first
    path = landed_workspace.data_dvc_path
    with monkeypatch.context() as other:
        other.setattr(state_files, "FORMAT", 99)
        assert key() != first
    digest = next(line for line in path.read_text().splitlines() if "digest: " in line).split()[-1]
    path.write_text(path.read_text().replace(digest, "0" * len(digest)))
    repository.commit(landed_workspace.root, ["data.dvc"], "Other data")
    assert key() != first
