"""The learn flow on a real Prefect and a real MLflow server, by the commands that a person types.

One workspace is used from top to bottom: the tests of this file run in order, each finding what the last one left.
"""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from flows.learn import OUTSIDE
from lorax import reconcile
from lorax.atlas.index import Atlas
from lorax.commands.init import initialize, with_values
from lorax.data import versions
from lorax.data.admission import LandingOptions
from lorax.data.landing import land
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Plan
from lorax.learning.state_files import load_state, state_digest
from lorax.params import load_params
from lorax.services import embedded
from lorax.services.prefect_api import PrefectApi
from lorax.stream import SCENARIOS, DataRevision
from lorax.workspace import Workspace
from tests.conftest import write_task_files
from tests.flows.commands import champion, environment, lorax, start, told
from tests.lineage_receiver import Received, receiving
from tests.mlflow_server import free_port
from tests.registry.conftest import OPEN
from tests.tiny_learner import tiny_params

TASKS = SCENARIOS["hard"]
STEPS = (
    "open base state",
    "grow network",
    "train branch",
    "update exemplars",
    "calibrate",
    "evaluate all past tasks",
    "assess verdicts",
    "update atlas",
    "register",
    "gate",
    "promote",
)
EPOCHS = 100
"""Of the task whose training is cut off: a signal sent at its first checkpoint arrives long before the last."""

# the servers alone take minutes to come up on a machine that is busy
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace where the first two tasks landed, with a tiny backbone; its servers are stopped in the end."""
    folder = tmp_path_factory.mktemp("learn")
    workspace = initialize(
        folder / "a 41%41 workspace", values={"services": {"prefect_port": free_port(), "mlflow_port": free_port()}}
    )
    path = workspace.params_path
    path.write_text(
        with_values(
            path.read_text(),
            {
                **tiny_params(folder).learning(),
                "landing": {"min_train": 1, "min_val": 1},
                "gate": OPEN.model_dump(),  # such small learners know little
                "robustness": {"per_class": 0},  # half of such an episode's seconds otherwise
            },
        )
    )
    for seed, name in enumerate(TASKS):
        write_task_files(folder / "raw" / name, {"0_real": 3, "1_fake": 3}, seed=seed, side=20)
    for name in TASKS[:2]:
        land(workspace, folder / "raw" / name, name)
    yield workspace
    embedded.down(workspace)


@pytest.fixture(scope="module")
def plain_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plain functions leave their episodes."""
    return tmp_path_factory.mktemp("plain")


def ask_prefect(workspace: Workspace, path: str) -> list[dict[str, Any]]:
    """All rows of a kind in Prefect's database, oldest first."""
    api = PrefectApi.of(workspace, load_params(workspace.params_path))
    return sorted(api.rows(f"{path}/filter", {}), key=lambda row: str(row["created"]))


def learned_by_plain_functions(workspace: Workspace, folder: Path, names: tuple[str, ...]) -> str:
    """The digest of the state after `names`, learned in this process without any flow."""
    base, read_task = None, partial(versions.read_task, workspace)
    for name in names:
        epochs = EPOCHS if name == TASKS[2] else 2
        params = load_params(workspace.params_path)
        params = params.model_copy(update={"training": params.training.model_copy(update={"epochs": epochs})})
        plan = Plan.of(base, read_task(name), params, revision_at(workspace, name))
        home = EpisodeFolder.open(folder, plan)
        learn_episode(Episode.open(home, read_task, partial(versions.fetch, workspace)))
        base = home.state_dir
    assert base is not None
    return state_digest(base)


def revision_at(workspace: Workspace, task: str) -> DataRevision:
    """The data revision that a version's episode was planned at."""
    registry = reconcile.look(workspace, load_params(workspace.params_path))
    found = next(version for version in registry.versions() if version.task == task)
    return DataRevision(found.data_digest, found.data_commit)


@pytest.fixture(scope="module")
def collected() -> Iterator[Received]:
    """What was told of the first two episodes' lineage."""
    with receiving() as received:
        yield received


def test_every_landed_task_is_learned_in_order_each_on_top_of_the_last(
    workspace: Workspace, collected: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", collected.address)
    printed = json.loads(lorax(workspace, "learn", "--json"))
    assert printed["learned"] == [1, 2]
    assert printed["champion"]["tasks"] == list(TASKS[:2])
    history = json.loads(told(workspace, "history", "--json"))["versions"]
    assert [row["parent_digest"] for row in history] == [None, history[0]["state_digest"]]
    assert [row["nearest"] and row["nearest"]["task"] for row in history] == [None, TASKS[0]]
    assert f"nearest {TASKS[0]} " in told(workspace, "history")


def test_episodes_and_promotions_are_told_to_who_collects_lineage(workspace: Workspace, collected: Received) -> None:
    pytest.importorskip("openlineage.client")  # of the extra `dev`
    digests = {f"data/{task.name}": task.digest for task in versions.landed(workspace)}
    first, second = ({name: digests[name]} for name in (f"data/{task}" for task in TASKS[:2]))
    data, model = {"data": versions.revision(workspace).digest}, "models/lorax"
    assert [told[1:] for told in collected.told("episode") if told[1] == "COMPLETE"] == [
        ("COMPLETE", first | data, {model: "1"}),
        ("COMPLETE", second | data | {model: "1"}, {model: "2"}),
    ]
    assert [told[1:] for told in collected.told("promote") if told[1] == "COMPLETE"] == [
        ("COMPLETE", {model: number}, {f"{model}@champion": number}) for number in ("1", "2")
    ]


def test_the_flow_learns_what_the_plain_functions_learn(workspace: Workspace, plain_dir: Path) -> None:
    assert champion(workspace)["state_digest"] == learned_by_plain_functions(workspace, plain_dir, TASKS[:2])


def test_every_run_and_step_is_in_prefects_database_with_progress_and_accuracies(workspace: Workspace) -> None:
    runs, steps = ask_prefect(workspace, "flow_runs"), ask_prefect(workspace, "task_runs")
    episodes = [run for run in runs if run["name"].startswith("episode")]
    assert [run["name"] for run in episodes] == [f"episode {i}: {name}" for i, name in enumerate(TASKS[:2])]
    assert {run["state_type"] for run in [*runs, *steps]} == {"COMPLETED"}
    for run in episodes:
        names = [step["name"].rsplit("-", 1)[0] for step in steps if step["flow_run_id"] == run["id"]]
        assert names == list(STEPS)
    artifacts = {artifact["key"]: artifact["data"] for artifact in ask_prefect(workspace, "artifacts")}
    assert [artifacts[f"training-{name}"] for name in TASKS[:2]] == [100, 100]
    first, second = json.loads(artifacts[f"accuracy-after-{TASKS[1]}"])
    [alone] = json.loads(artifacts[f"accuracy-after-{TASKS[0]}"])
    assert [first["task"], second["task"]] == list(TASKS[:2])
    assert first["when learned"] == alone["accuracy"]
    told = {artifact["key"]: artifact["description"] for artifact in ask_prefect(workspace, "artifacts")}
    assert "/#/models/lorax/versions/2)" in told[f"gate-{TASKS[1]}"]


def test_every_branch_is_in_the_workspace_s_atlas(workspace: Workspace) -> None:
    entries = Atlas.open(workspace.atlas_dir).entries
    assert [(entry.name, entry.label, entry.format) for entry in entries] == [(n, n, "branch") for n in TASKS[:2]]


def test_the_images_that_the_champion_needs_are_kept_beside_dvc_s_cache(workspace: Workspace) -> None:
    listed = (workspace.memory_dir / f"{champion(workspace)['state_digest']}.csv").read_text().splitlines()[1:]
    kept = [workspace.memory_dir / row.partition(",")[0] for row in listed]
    assert len(kept) >= load_params(workspace.params_path).exemplars.budget // 4  # of four classes
    assert all(versions.md5_of(path) == path.name for path in kept)


def test_a_learner_predicts_files_and_skips_a_bad_one_with_exit_code_1(workspace: Workspace) -> None:
    good = workspace.data_dir / TASKS[0] / "val" / "1_fake" / "0.png"
    [line] = told(workspace, "predict", "--json", str(good)).splitlines()
    verdict = json.loads(line)
    assert verdict["file"] == str(good)
    assert sum(verdict["probabilities"].values()) == pytest.approx(1)
    said = told(workspace, "predict", str(good), str(workspace.params_path), code=1)
    assert str(workspace.params_path) in said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_training_that_was_cut_off_goes_on_where_it_was(workspace: Workspace, how: signal.Signals) -> None:
    name = TASKS[2]
    if how == signal.SIGINT:
        path = workspace.params_path
        path.write_text(with_values(path.read_text(), {"training": {"epochs": EPOCHS}}))
        land(workspace, workspace.root.parent / "raw" / name, name)
    before = {path: path.stat().st_mtime_ns for path in checkpoints(workspace)}
    process = start(workspace, "learn")
    while {path: path.stat().st_mtime_ns for path in checkpoints(workspace)} == before and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in said
    assert checkpoints(workspace)
    assert json.loads(told(workspace, "status", "--json"))["waiting"] == [name]


def test_two_commands_at_once_learn_everything_once_and_end_as_if_nothing_had_happened(
    workspace: Workspace, plain_dir: Path
) -> None:
    both = [start(workspace, "learn", "--json") for _ in range(2)]
    printed = [json.loads(process.communicate()[0]) for process in both]
    assert sorted(p["learned"] for p in printed) == [[], [3]]
    assert champion(workspace)["state_digest"] == learned_by_plain_functions(workspace, plain_dir, TASKS[:3])


def test_a_refused_task_is_held_and_the_next_one_grows_from_the_champion(workspace: Workspace) -> None:
    """What trains as synthetic is tested as real, so nothing of it can be found right."""
    raw, path = workspace.root.parent / "raw", workspace.params_path
    write_plain_images(raw / "poisoned", train=(40, 200), val=(200, 40))
    write_plain_images(raw / "clean", train=(60, 220), val=(60, 220))
    for name in ("poisoned", "clean"):
        land(workspace, raw / name, name)
    few = {"gate": {"detection_floor": 0.5}, "training": {"epochs": 30}}  # enough for what is told by its brightness
    path.write_text(with_values(path.read_text(), few))
    printed = json.loads(lorax(workspace, "learn", "--json"))
    assert [(o["task"], o["outcome"]) for o in printed["outcomes"]] == [("poisoned", "refused"), ("clean", "promoted")]
    assert printed["champion"]["tasks"] == [*TASKS[:3], "clean"]
    record = json.loads(told(workspace, "history", "--json"))
    *_, base, refused, promoted = record["versions"]
    assert [refused["parent_digest"], promoted["parent_digest"]] == [base["state_digest"]] * 2
    assert [hold["task"] for hold in record["held"]] == ["poisoned"]
    assert record["held"][0]["reason"].startswith("poisoned: detection 0.0 %, the floor is 50.0 %")
    [verdict, *_] = json.loads(
        next(a["data"] for a in ask_prefect(workspace, "artifacts") if a["key"] == "gate-poisoned")
    )
    assert (verdict["task"], verdict["passed"]) == ("poisoned", False)


def test_a_task_that_changed_is_shown_and_learned_anew_only_when_asked_with_what_came_after_it(
    workspace: Workspace,
) -> None:
    name, folder, path = TASKS[2], workspace.root.parent / "raw" / "changed", workspace.params_path
    write_plain_images(folder, train=(20, 180), val=(20, 180))
    before = champion(workspace)
    land(workspace, folder, name, options=LandingOptions(replace=True))
    assert json.loads(told(workspace, "status", "--json"))["changed"] == [name]
    idle = json.loads(told(workspace, "learn", "--json"))
    assert (idle["learned"], idle["champion"]) == ([], before)
    path.write_text(with_values(path.read_text(), {"training": {"branch_init": "nearest"}}))
    printed = json.loads(lorax(workspace, "relearn", name, "--json"))
    assert (printed["before"]["version"], printed["champion"]["version"]) == (before["version"], 2)
    after = printed["learning"]["champion"]
    assert after["tasks"] == before["tasks"]
    assert {task for task in after["tasks"] if after["digests"][task] != before["digests"][task]} == {name}
    status = json.loads(told(workspace, "status", "--json"))
    assert (status["changed"], [hold["task"] for hold in status["held"]]) == ([], ["poisoned"])
    assert len([e for e in Atlas.open(workspace.atlas_dir).entries if e.name.startswith(f"{name}@")]) == 1
    assert list(workspace.episodes_dir.glob("*/state")) == [], "each has every branch, and the registry has them"
    registry = reconcile.open_registry(workspace, load_params(path))
    state_dir = registry.download_state(after["version"], workspace.states_dir)
    first, second, third, fourth = load_state(state_dir).branches
    assert (first.start, second.start) == (None, None)
    assert (third.start in TASKS[:2], fourth.start in TASKS) == (True, True), "as params.yaml asked, from the nearest"
    assert (after["start"], after["nearest"]) == (fourth.start, None)


def test_unknown_images_are_attributed_by_a_probe(workspace: Workspace) -> None:
    images = workspace.data_dir / TASKS[0] / "train" / "1_fake"
    said = told(workspace, "atlas", "attribute", str(images), code=1)
    assert "holds 3 images that can be read (0 files can't); a probe needs 5 or more" in said
    several = workspace.root.parent / "several"
    write_task_files(several, {"0_real": 3, "1_fake": 6}, seed=0, side=20)
    (several / "broken.png").write_bytes(b"no image")
    found = json.loads(told(workspace, "atlas", "attribute", str(several / "train"), "--json"))
    assert sorted(g["label"] for g in found["generators"]) == sorted(champion(workspace)["tasks"])
    assert (found["images"], sum(found["classifier"].values())) == (6, 6)


def test_a_task_whose_bytes_are_gone_is_held_with_its_reason_and_what_landed_behind_it_is_learned(
    workspace: Workspace,
) -> None:
    raw, path = workspace.root.parent / "raw", workspace.params_path
    path.write_text(
        with_values(
            path.read_text(), {"training": {"epochs": 2, "branch_init": "fresh"}, "gate": {"detection_floor": 0.0}}
        )
    )
    write_plain_images(raw / "gone", train=(30, 190), val=(30, 190))
    write_plain_images(raw / "behind", train=(50, 210), val=(50, 210))
    for name in ("gone", "behind"):
        land(workspace, raw / name, name)
    gone = versions.below(versions.manifest(workspace), "gone")
    for file in versions.cache_paths(workspace, gone.values()).values():
        file.unlink()
    shutil.rmtree(workspace.data_dir / "gone")
    printed = json.loads(lorax(workspace, "learn", "--json"))
    assert [(o["task"], o["outcome"]) for o in printed["outcomes"]] == [("behind", "promoted")]
    reasons = {hold["task"]: hold["reason"] for hold in printed["held"]}
    assert "images are neither in DVC's cache nor in" in reasons["gone"]
    assert json.loads(told(workspace, "status", "--json"))["waiting"] == []


def test_a_preset_holds_for_all_sections_in_every_step(workspace: Workspace) -> None:
    raw, path = workspace.root.parent / "raw", workspace.params_path
    write_plain_images(raw / "more", train=(10, 170), val=(10, 170))
    land(workspace, raw / "more", "more")
    path.write_text(f"{path.read_text()}  asked: {{gate: {{approval: true}}, robustness: {{per_class: 2}}}}\n")
    printed = json.loads(lorax(workspace, "learn", "--preset", "asked", "--json"))
    assert [(o["task"], o["outcome"]) for o in printed["outcomes"]] == [("more", "waiting")]
    newest = reconcile.look(workspace, load_params(path)).versions()[-1]
    assert (printed["approval"], "robustness" in newest.metrics) == (newest.version, True)
    told(workspace, "refuse", str(newest.version), "--reason", "only tried")


def test_a_scenario_is_reproduced_by_dvc_and_leaves_the_registry_alone(workspace: Workspace) -> None:
    for name in TASKS[3:]:
        land(workspace, workspace.root.parent / "raw" / name, name)
    before = champion(workspace)
    path = workspace.root / "dvc.yaml"
    path.write_text(path.read_text().replace("lorax scenario landed", f"{sys.executable} -m lorax scenario hard"))
    dvc(workspace, "repro")
    measured = json.loads((workspace.work_dir / "scenario" / "metrics.json").read_text())
    assert list(measured["accuracy"]) == sorted(TASKS)
    assert "average_accuracy" in dvc(workspace, "metrics", "show")
    assert "didn't change, skipping" in dvc(workspace, "repro")
    assert "accuracy_matrix.png" in dvc(workspace, "plots", "show", "--json")
    assert champion(workspace) == before


def test_a_scenario_in_several_orders_tells_how_much_is_the_order_s(workspace: Workspace) -> None:
    outputs = workspace.work_dir / "scenario"
    record = json.loads(lorax(workspace, "scenario", "hard", "--orders", "2", "--json"))
    first, second = record["orders"]
    assert (first["tasks"], sorted(second["tasks"])) == (list(TASKS), sorted(TASKS))
    assert first["tasks"] != second["tasks"]
    assert first["metrics"].items() <= json.loads((outputs / "metrics.json").read_text()).items(), "as it is alone"
    for name in ("average_accuracy", "forgetting"):
        one, other = first["metrics"][name], second["metrics"][name]
        assert record["spread"][name] == pytest.approx({
            "mean": (one + other) / 2,
            "deviation": abs(one - other) / 2**0.5,
            "least": min(one, other),
            "largest": max(one, other),
        })  # fmt: skip
    assert json.loads((outputs / "orders.json").read_text()) == record
    with (outputs / "orders.csv").open(newline="") as file:
        assert [row["tasks"].split() for row in csv.DictReader(file)] == [first["tasks"], second["tasks"]]
    with Image.open(outputs / "orders.png") as picture:
        picture.load()


def test_a_run_that_finds_nothing_to_learn_starts_no_server(workspace: Workspace) -> None:
    for name in TASKS[3:]:
        told(workspace, "hold", name, "--reason", "landed for the scenario")
    told(workspace, "down")
    before = champion(workspace)
    assert "nothing to learn" in told(workspace, "learn")
    assert json.loads(told(workspace, "status", "--json"))["champion"] == before
    assert not embedded.status(workspace, load_params(workspace.params_path)).mlflow.is_ready


def test_that_prefects_server_is_away_is_no_task_s_fault() -> None:
    with pytest.raises(OUTSIDE), SyncPrefectClient(api="http://127.0.0.1:9/api") as client:  # nobody listens there
        client.read_flows()


def test_that_prefects_server_is_too_busy_is_no_task_s_fault() -> None:
    asked = httpx.Request("POST", "http://127.0.0.1/api/flow_runs/")
    error = httpx.HTTPStatusError("", request=asked, response=httpx.Response(503, request=asked))
    with pytest.raises(OUTSIDE):
        raise PrefectHTTPStatusError.from_httpx_error(error)


def write_plain_images(folder: Path, *, train: tuple[int, int], val: tuple[int, int]) -> None:
    """A task that is told by its brightness: that of the real and of the synthetic images of each split."""
    for split, levels in (("train", train), ("val", val)):
        for kind, level in zip(("0_real", "1_fake"), levels, strict=True):
            (folder / split / kind).mkdir(parents=True)
            for number in range(3):
                pixels = np.full((20, 20, 3), level + 2 * number, dtype=np.uint8)
                pixels[number] = (sum(train) + len(split)) % 251  # no two splits or tasks share an image
                Image.fromarray(pixels).save(folder / split / kind / f"{number}.png")


def checkpoints(workspace: Workspace) -> list[Path]:
    return list(workspace.episodes_dir.glob("*/training.safetensors"))


def dvc(workspace: Workspace, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=workspace.root, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
