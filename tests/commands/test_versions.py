"""The commands about model versions, on a real MLflow server while no Prefect server answers.

One registered model is used from top to bottom: the tests run in order, each finding what the last one left.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lorax import reconcile
from lorax.cli import app
from lorax.commands import console
from lorax.data import versions
from lorax.data.landing import land
from lorax.learning.assessment import Assessment
from lorax.learning.branch_similarity import NEIGHBOURS, BranchComparison, BranchNeighbours, SimilarBranch
from lorax.params import GateParams, load_params
from lorax.registry import CHAMPION, Registry
from lorax.storage import write_record
from lorax.workspace import Workspace
from tests.commands.test_cli import HEAVY, said_and_imported
from tests.conftest import SMALL_CONTRACT, write_task_files
from tests.lineage_receiver import receiving
from tests.mlflow_server import Server
from tests.registry.assessments import FORESEEN, assessed
from tests.registry.conftest import OPEN, enter
from tests.tiny_learner import Learned, calibrated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(server: Server) -> Registry:
    return Registry(server.uri, f"story-{uuid.uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def workspace(
    _empty_template: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workspace]:
    """The workspace of `registry`, and the current folder. Only gamma has landed here."""
    folder = tmp_path_factory.mktemp("story")
    made = Workspace(folder / "workspace")
    shutil.copytree(_empty_template, made.root)
    land(made, write_task_files(folder / "gamma"), "gamma")
    made.params_path.write_text(f"{SMALL_CONTRACT}registry: {{model: {registry.name}}}\nrun: {{device: cpu}}\n")
    here, environment = Path.cwd(), dict(os.environ)
    os.chdir(made.root)
    os.environ |= {"MLFLOW_TRACKING_URI": registry.uri, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    yield made
    os.chdir(here)
    os.environ.clear()
    os.environ.update(environment)


def register(
    registry: Registry,
    *episodes: Learned,
    gate: GateParams = OPEN,
    assessment: Assessment | None = None,
    atlas_dir: Path | None = None,
) -> None:
    for e in episodes:
        enter(registry, e, gate=gate, assessment=assessment, atlas_dir=atlas_dir)


def lorax(*arguments: str, code: int = 0, answer: str | None = None) -> str:
    """Run the command; returns what it printed, on success to stdout and else to stderr."""
    done = CliRunner().invoke(app, arguments, input=answer)
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout if code == 0 else done.stderr


def lorax_json(*arguments: str) -> Any:
    return json.loads(lorax(*arguments, "--json"))


def champion(registry: Registry) -> int | None:
    found = registry.champion()
    return found.version if found else None


def test_a_rollback_says_what_is_held_now_how_to_free_it_and_where_the_data_is(
    workspace: Workspace, registry: Registry, stream: list[Learned]
) -> None:
    register(registry, *stream)
    said = lorax("rollback", "--previous", "--reason", "gamma flags real photos")
    assert champion(registry) == 2
    assert said.startswith("champion: version 3 (alpha, beta, gamma) -> version 2 (alpha, beta)\nheld: gamma (bytes ")
    assert "gamma flags real photos" in said
    assert "lorax release TASK" in said
    assert "git checkout c0ffee -- data.dvc && dvc checkout data.dvc" in said
    record = lorax_json("rollback", "--to", "1", "--reason", "beta too")
    assert (record["before"]["version"], record["champion"]["version"]) == (2, 1)
    assert [hold["task"] for hold in record["held"]] == ["gamma", "beta"]
    [by] = {entry.by for entry in registry.journal() if entry.kind == "rolled back"}
    assert "@" in by


def test_back_to_what_never_was_champion_names_the_nearest_that_was(
    workspace: Workspace, server: Server, stream: list[Learned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a withdrawal, whose last version alone becomes champion; in a registry of its own."""
    apart, elsewhere = Registry(server.uri, f"withdrawn-{uuid.uuid4().hex[:8]}"), Workspace(tmp_path / "workspace")
    shutil.copytree(workspace.root, elsewhere.root)
    elsewhere.params_path.write_text(f"{SMALL_CONTRACT}registry: {{model: {apart.name}}}\nrun: {{device: cpu}}\n")
    monkeypatch.chdir(elsewhere.root)
    first, second, third = stream
    register(apart, first)
    register(apart, second, gate=OPEN.model_copy(update={"approval": True}))
    register(apart, third)
    lorax("promote", "3", "--reason", "as if withdrawn")
    said = lorax("rollback", "--previous", "--reason", "x", code=1)
    assert "version 3 grew from version 2, which never was champion" in said
    assert "was is version 1 (alpha): 'lorax rollback --to 1 --reason TEXT'." in said
    assert champion(apart) == 3


def test_moves_by_hand_are_told_to_who_collects_lineage(
    workspace: Workspace, server: Server, stream: list[Learned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openlineage.client")  # of the extra `dev`
    apart, elsewhere = Registry(server.uri, f"lineage-{uuid.uuid4().hex[:8]}"), Workspace(tmp_path / "workspace")
    shutil.copytree(workspace.root, elsewhere.root)
    elsewhere.params_path.write_text(f"{SMALL_CONTRACT}registry: {{model: {apart.name}}}\nrun: {{device: cpu}}\n")
    monkeypatch.chdir(elsewhere.root)
    register(apart, *stream[:2])
    with receiving() as received:
        monkeypatch.setenv("OPENLINEAGE_URL", received.address)
        lorax("rollback", "--previous", "--reason", "x")
        lorax("promote", "2", "--reason", "x")
    model, served = f"models/{apart.name}", f"models/{apart.name}@champion"
    assert received.told("rollback")[1:] == [("rollback", "COMPLETE", {model: "1"}, {served: "1"})]
    assert received.told("promote")[1:] == [("promote", "COMPLETE", {model: "2"}, {served: "2"})]


def test_behind_a_proxy_that_was_not_told_of_loopback_the_server_is_asked_all_the_same(
    workspace: Workspace, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behind_a_proxy() -> None:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)

    behind_a_proxy()
    said = lorax("status")
    assert "version 1" in said
    assert "(up)" in said
    behind_a_proxy()
    assert "version 1" in lorax("history")
    behind_a_proxy()
    params = load_params(workspace.params_path)
    assert reconcile.registry_of_server(workspace, params).champion() is not None  # as the flow asks


def test_status_with_a_champion_imports_mlflow_and_nothing_else_that_takes_long(workspace: Workspace) -> None:
    said, imported = said_and_imported("status", cwd=workspace.root)
    assert "version 1" in said
    assert said.split()[said.split().index("verdicts") + 1] == "uncalibrated"
    assert "mlflow" in imported
    assert not imported & HEAVY


def test_relearning_is_refused_while_a_task_that_would_be_lost_has_not_landed_here(
    workspace: Workspace, registry: Registry
) -> None:
    lorax("promote", "3", "--reason", "it was right")
    assert "task 'beta' has not landed" in lorax("relearn", "beta", "--no-learn", code=1)
    assert champion(registry) == 3


def test_relearning_goes_back_to_before_the_task_and_holds_nothing(
    workspace: Workspace, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "read_task", lambda workspace, name: None)  # as if all had landed
    said = lorax("relearn", "beta", "--no-learn")
    assert "champion: version 3 (alpha, beta, gamma) -> version 1 (alpha)" in said
    assert "held" not in said
    assert (champion(registry), registry.quarantined()) == (1, [])
    assert registry.journal()[-1].reason == "to relearn beta: its data changed"


def test_history_draws_the_lines_of_descent_and_lists_the_journal(
    workspace: Workspace, registry: Registry, other_second: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = replace(
        other_second,
        state_dir=calibrated(other_second.state_dir, tmp_path / "calibrated"),  # which tiny tasks don't suffice for
        report=replace(other_second.report, detection_against_base={}),
    )
    like_alpha = BranchNeighbours("delta", "delta", None, (SimilarBranch("alpha", "alpha", 0.6251),))
    write_record(tmp_path / NEIGHBOURS, BranchComparison(1, "delta", "product", (like_alpha,)))
    register(registry, bad, assessment=assessed(1, "delta", foreseen=FORESEEN), atlas_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(console.out, "width", 80)
        assert "robustness 79.6 %" in " ".join(lorax("history").replace("│", "").split())  # wrapped, not cut off
        patch.setattr(console.out, "width", 400)
        shown = lorax("history")
    first, fourth, because, second, third, *rest = shown.splitlines()
    assert first.startswith("version 1 +alpha  [champion]  average ")
    assert first.endswith("to relearn beta: its data changed")
    assert second.startswith("version 2 +beta  average ")
    assert third.startswith("version 3 +gamma  average ")
    assert fourth.startswith("└── version 4 +delta  [challenger]  average ")
    assert fourth.endswith(
        ", calibration error 2.0 %, unknown AUROC 91.0 %, robustness 79.6 %, nearest alpha 0.63"
        ", data 000000000000  refused  (from version 1)"
    )
    assert ["nearest" in line for line in (first, second, third)] == [False, False, False]
    assert ["uncalibrated" in line for line in (first, second, third, fourth)] == [True, True, True, False]
    assert because.strip() == "└── alpha: detection could not be compared with the champion"
    assert [line.split()[2:4] for line in rest if line.startswith("20")][-2:] == [["rolled", "back"], ["refused", "4"]]
    assert "beta: attribution" not in shown
    told = lorax("history", "--gate")
    assert "passed: beta: attribution" in told
    assert "failed: alpha: detection could not be compared" in told
    record = lorax_json("history")
    assert [version["calibrated"] for version in record["versions"]] == [False, False, False, True]
    nearest = {"task": "alpha", "similarity": 0.6251}
    assert [version["nearest"] for version in record["versions"]] == [None, None, None, nearest]
    new, drop, *of_names = record["versions"][3]["verdicts"]
    assert (new["passed"], drop["passed"], drop["before"]) == (True, False, None)
    assert [verdict["kind"] for verdict in of_names] == ["new", "drop", "forgetting"]
    assert [hold["task"] for hold in record["held"]] == ["delta"]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["rollback", "--reason", "x"], 2, "one of --to VERSION and"),
        (["rollback", "--to", "1", "--previous", "--reason", "x"], 2, "one of --to VERSION and"),
        (["rollback", "--to", "1"], 2, "--reason"),
        (["rollback", "--to", "1", "--reason", " "], 2, "expected a text"),
        (["promote", "2", "--reason", ""], 2, "expected a text"),
        (["rollback", "--previous", "--reason", "x"], 1, "version 1 is the first of its line"),
        (["rollback", "--to", "1", "--reason", "x"], 1, "version 1 is the champion already"),
        (
            ["rollback", "--to", "4", "--reason", "x"],
            1,
            "never was champion (refused: alpha: detection could not be compared",
        ),
        (["rollback", "--to", "9", "--reason", "x"], 1, "has no version 9; there are: 1, 2, 3, 4"),
        (["promote", "1", "--reason", "x"], 1, "version 1 is the champion already"),
        (["promote", "9", "--reason", "x"], 1, "has no version 9"),
        (["refuse", "4", "--reason", "x"], 1, "does not wait for approval"),
        (["release", "alpha"], 1, "task 'alpha' is not held; held are: delta"),
        (["relearn", "beta"], 1, "the champion does not know task 'beta'"),
        (["relearn", "alpha"], 1, "it was learned first. Learn the whole stream anew beside this model"),
        (["delete", "1", "--yes"], 1, "it is the champion"),
        (["delete", "4", "--yes"], 1, "it is the challenger"),
        (["delete", "9"], 1, "has no version 9"),
        (["diff", "1", "9"], 1, "has no version 9"),
    ],
)
def test_what_is_refused_is_said_and_nothing_is_changed(
    workspace: Workspace, registry: Registry, arguments: list[str], code: int, expected: str
) -> None:
    before = (registry.journal(), registry.versions())
    assert expected in " ".join(lorax(*arguments, code=code).replace("│", "").split())
    assert (registry.journal(), registry.versions()) == before


def test_diff_sets_two_versions_side_by_side(workspace: Workspace, registry: Registry) -> None:
    record = lorax_json("diff", "2", "4")
    _, second, _, fourth = registry.versions()
    assert {name: row["data"] for name, row in record["tasks"].items()} == {
        "alpha": "same", "beta": "only in version 2", "delta": "only in version 4",
    }  # fmt: skip
    assert record["tasks"]["alpha"]["accuracy"] == [v.metrics["accuracy/alpha"] for v in (second, fourth)]
    assert record["tasks"]["beta"]["accuracy"] == [second.metrics["accuracy/beta"], None]
    assert record["classes"] == {
        "in both": ["alpha/real", "alpha"], "gone": ["beta/real", "beta"], "new": ["delta/real", "delta"],
    }  # fmt: skip
    assert record["parameters"] == {}
    assert record["calibrated"] == [False, True]
    assert record["newest"] == [
        {"task": "beta", "nearest": None, "start": None},
        {"task": "delta", "nearest": {"task": "alpha", "similarity": 0.6251}, "start": None},
    ]
    assert record["metrics"]["robustness"] == [None, pytest.approx((0.9 + 0.57 + 0.8) / 3 / 0.95)]
    shown = lorax("diff", "2", "4")
    assert "classes new: delta/real, delta" in shown
    assert f"data revision: {'0' * 32} (commit c0ffee) in both" in shown
    assert "the same parameters" in shown
    assert "version 2 is uncalibrated" in shown
    assert "version 4 +delta: nearest alpha 0.63" in shown
    assert "version 2 +beta" not in shown
    assert ["robustness", "79.6"] in [line.replace("│", " ").split() for line in shown.splitlines()]


def test_a_lost_alias_is_shown_and_mended_by_promoting(workspace: Workspace, registry: Registry) -> None:
    registry.client.delete_registered_model_alias(registry.name, CHAMPION)
    status = lorax_json("status")
    assert (status["champion"], len(status["broken"])) == (None, 1)
    assert "lorax promote VERSION --reason TEXT" in status["error"]
    assert "no alias 'champion' any more" in lorax("status")
    shown = lorax("history")
    assert shown.startswith("broken: ")
    assert "version 2 +beta" in shown
    assert "lorax promote VERSION" in lorax("rollback", "--previous", "--reason", "x", code=1)
    lorax("promote", "1", "--reason", "mend")
    assert (champion(registry), lorax_json("status")["broken"]) == (1, [])


def test_promoting_overrules_the_gate(workspace: Workspace, registry: Registry) -> None:
    assert "champion: version 1 (alpha) -> version 4 (alpha, delta)" in lorax("promote", "4", "--reason", "so be it")
    assert registry.quarantined() == []
    assert registry.version(4).outcome == "promoted"


def test_deleting_asks_first_and_leaves_an_orphan_as_a_root(workspace: Workspace, registry: Registry) -> None:
    assert "it can't be promoted or rolled back to any more" in lorax("delete", "2", code=1, answer="n\n")
    assert [v.version for v in registry.versions()] == [1, 2, 3, 4]
    assert "mlflow gc" in lorax("delete", "2", answer="y\n")
    assert [v.version for v in registry.versions()] == [1, 3, 4]
    [orphan] = [line for line in lorax("history").splitlines() if line.startswith("version 3")]
    assert orphan.endswith("(parent deleted)")
    assert registry.journal()[-1].kind == "deleted"
    assert lorax_json("status")["broken"] == []


def test_a_version_that_waits_is_shown_until_a_person_decides(
    workspace: Workspace, registry: Registry, stream: list[Learned]
) -> None:
    lorax("rollback", "--to", "1", "--reason", "delta is out")
    register(registry, stream[1], gate=OPEN.model_copy(update={"approval": True}))
    assert lorax_json("status")["approval"] == 5
    assert "version 5 waits for approval" in lorax("status")
    assert "version 5 waits for approval" in lorax("learn")
    assert "while version 5 waits for approval" in lorax("release", "beta", code=1)
    assert "version 5 is refused; its task beta is held" in lorax("refuse", "5", "--reason", "false alarms")
    assert lorax_json("status")["approval"] is None
    assert "Other bytes have landed under this name, or none" in lorax("release", "beta")
    assert [hold.task for hold in registry.quarantined()] == ["delta"]


def test_a_version_whose_artifacts_are_damaged_does_not_become_champion_though_a_whole_copy_is_here(
    workspace: Workspace, server: Server, registry: Registry
) -> None:
    registry.download_state(4, workspace.states_dir)
    model = registry.client.get_model_version(registry.name, "4").source.removeprefix("models:/")
    [head] = [path for path in server.folder.rglob("head.safetensors") if model in path.parts]
    head.write_bytes(b"")
    entries = registry.journal()
    for command in (["rollback", "--to", "4"], ["promote", "4"]):
        assert "are not the learner state" in lorax(*command, "--reason", "no", code=1)
    assert (champion(registry), registry.journal()) == (1, entries)
    assert list(workspace.work_dir.glob("trial-*")) == []


def test_status_says_what_it_can_while_the_registry_is_silent(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    record = lorax_json("status")
    assert "does not answer" in record["error"]
    assert (record["champion"], record["landed"]) == (None, ["gamma"])
    assert "does not answer" in lorax("status")
    assert "does not answer" in lorax("history", code=1)
    assert "does not answer" in lorax("rollback", "--to", "1", "--reason", "x", code=1)


def test_a_task_is_set_aside_before_any_version_is_there_and_taken_back(
    workspace: Workspace, registry: Registry, server: Server
) -> None:
    fresh = Registry(server.uri, f"{registry.name}-fresh")
    workspace.params_path.write_text(f"{SMALL_CONTRACT}registry: {{model: {fresh.name}}}\nrun: {{device: cpu}}\n")
    assert "task 'alpha' has not landed" in lorax("hold", "alpha", "--reason", "why not", code=1)
    said = lorax("hold", "gamma", "--reason", "its license is being asked for")
    assert said.startswith("held: gamma (bytes ")
    assert ": its license is being asked for (" in said
    status = lorax_json("status")
    assert ([hold["task"] for hold in status["held"]], status["waiting"], status["broken"]) == (["gamma"], [], [])
    assert "held already" in lorax("hold", "gamma", "--reason", "again", code=1)
    assert "gamma" in lorax("history")
    lorax("release", "gamma")
    assert lorax_json("status")["waiting"] == ["gamma"]
