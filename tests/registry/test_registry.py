from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import sqlite3
import time
import uuid
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner

from lorax.errors import RegistryError, StateError
from lorax.learning import metrics
from lorax.learning.state_files import load_state, state_digest
from lorax.registry import CHAMPION, Registry
from lorax.registry.candidate import open_candidate
from lorax.registry.pages import TIMELINE_FIGURE
from lorax.stream import PinnedTask
from tests.mlflow_server import FOLDERS, Server, free_port
from tests.registry.assessments import FORESEEN, assessed
from tests.registry.conftest import OPEN, LossyServer, enter
from tests.tiny_learner import Learned

pytestmark = pytest.mark.slow

NAMES, NOTE = ("alpha", "beta", "gamma"), "mlflow.note.content"


class Killed(BaseException):
    """What a process that is killed between two calls does not get to handle."""


class CutClient:
    """MLflow's client, cut off right after each kind of writing call that was not cut before."""

    def __init__(self, client: Any, done: set[tuple[str, int]]) -> None:
        self.client, self.done, self.calls = client, done, dict[str, int]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if name.startswith(("get_", "search_")):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self.calls[name] = self.calls.get(name, 0) + 1
            cut = (name, self.calls[name])
            if cut not in self.done:
                self.done.add(cut)
                raise Killed(name)
            return result

        return call


def runs(registry: Registry, role: str, name: str | None = None) -> list[Any]:
    client = registry.client
    experiment = client.get_experiment_by_name(name or registry.name).experiment_id
    return list(client.search_runs([experiment], f"tags.`lorax.role` = '{role}'", order_by=["attributes.run_name ASC"]))


def curves(registry: Registry, run: Any) -> dict[str, list[tuple[int, float]]]:
    """All points of a run, from the server's database at once: MLflow's client asks for each metric by itself."""
    found: dict[str, list[tuple[int, float]]] = {key: [] for key in run.data.metrics}
    with closing(sqlite3.connect(FOLDERS[registry.uri] / "mlflow.db", timeout=60)) as database:
        points = "SELECT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY step, value"
        for key, *point in database.execute(points, [run.info.run_id]):
            found[key].append(tuple(point))
    return found


def parameters(run: Any) -> dict[str, str]:
    """An episode's, without the moves that its version's being champion was followed by."""
    return {key: value for key, value in run.data.params.items() if not key.startswith("lorax.after/")}


def table_of(registry: Registry, run: Any, name: str) -> Any:
    """A table as MLflow itself finds and reads it."""
    mlflow.set_tracking_uri(registry.uri)  # which it searches, whatever the client's is
    return registry.client.load_table(run.info.experiment_id, name, [run.info.run_id])


def contents(registry: Registry) -> dict[str, Any]:
    """All that the registry holds, without what differs between any two: ids and times."""
    client = registry.client
    found: dict[str, Any] = {}
    for role in ("timeline", "episode"):
        found[role] = [
            (r.info.run_name, r.info.status, curves(registry, r), parameters(r), len(r.inputs.dataset_inputs))
            for r in runs(registry, role)
        ]
    experiment = client.get_experiment_by_name(registry.name).experiment_id
    found["models"] = [m.status for m in client.search_logged_models([experiment])]
    found["outputs"] = [len(r.outputs.model_outputs) for r in runs(registry, "episode")]
    found["versions"] = [
        (v.version, v.state_digest, v.line, v.aliases, v.metrics, v.outcome) for v in registry.versions()
    ]
    found["tables"] = [table_of(registry, r, "robustness.json").to_dict() for r in runs(registry, "episode")]
    found["moves"] = [(e.kind, e.version) for e in registry.journal()]
    return found


def test_detection_is_compared_with_that_of_the_version_that_learned_the_task(
    filled: Registry, stream: list[Learned]
) -> None:
    judged = [v for v in filled.version(3).verdicts if (v.figure, v.kind) == ("detection", "forgetting")]
    first = {episode.report.task: episode.report.binary_accuracy[episode.report.task] for episode in stream}
    assert [(v.task, v.before) for v in judged] == [(task, first[task]) for task in ("alpha", "beta")]
    assert [v.after for v in judged] == [stream[2].report.binary_accuracy[task] for task in ("alpha", "beta")]
    average = sum(stream[2].report.binary_accuracy.values()) / 3
    assert filled.version(3).metrics["average_binary_accuracy"] == pytest.approx(average)


def test_an_empty_registry_has_no_champion_and_no_versions(registry: Registry) -> None:
    assert registry.champion() is None
    assert registry.versions() == []
    assert registry.find("0" * 64) is None


def test_each_episode_of_a_stream_becomes_a_version_and_the_newest_is_champion(
    filled: Registry, stream: list[Learned]
) -> None:
    versions = filled.versions()
    assert [v.version for v in versions] == [1, 2, 3]
    assert [v.state_digest for v in versions] == [e.digest for e in stream]
    assert [v.parent_digest for v in versions] == [None, stream[0].digest, stream[1].digest]
    assert {v.line for v in versions} == {stream[0].digest}
    assert [v.aliases for v in versions] == [(), (), (CHAMPION,)]
    champion = filled.champion()
    assert champion == versions[-1]
    assert champion.episode == 2
    assert champion.task == "gamma"
    assert champion.tasks == tuple(PinnedTask(e.task.name, e.task.digest) for e in stream)
    assert (champion.data_digest, champion.data_commit) == ("0" * 32, "c0ffee")
    assert filled.find(stream[1].digest) == versions[1]


def test_the_timeline_has_one_point_per_metric_and_episode(filled: Registry, stream: list[Learned]) -> None:
    (timeline,) = runs(filled, "timeline")
    found = curves(filled, timeline)
    rows = load_state(stream[-1].state_dir).accuracy
    assert found["accuracy/alpha"] == [(0, rows[0][0]), (1, rows[1][0]), (2, rows[2][0])]
    assert found["accuracy/beta"] == [(1, rows[1][1]), (2, rows[2][1])]
    assert found["accuracy/gamma"] == [(2, rows[2][2])]
    for name in ("average_accuracy", "average_incremental_accuracy", "backward_transfer", "forgetting"):
        assert found[name] == [(j, getattr(metrics, name)(rows[: j + 1])) for j in range(3)]
    assert found["pooled_accuracy"] == [(e.report.episode, e.report.pooled_accuracy) for e in stream]
    assert [step for step, _ in found["binary_accuracy/alpha"]] == [0, 1, 2]
    assert timeline.info.run_name == "timeline"
    assert timeline.info.status == "FINISHED"


def test_an_episode_s_run_lies_below_the_timeline_and_holds_curves_parameters_and_data(filled: Registry) -> None:
    (timeline,) = runs(filled, "timeline")
    nested = runs(filled, "episode")
    assert [r.info.run_name for r in nested] == ["00 alpha", "01 beta", "02 gamma"]
    assert {r.data.tags["mlflow.parentRunId"] for r in nested} == {timeline.info.run_id}
    last = nested[-1]
    assert [step for step, _ in curves(filled, last)["training/loss"]] == [0, 1]
    assert last.data.params["training.epochs"] == "2"
    assert last.data.params["lora.targets"].startswith("[")
    assert last.data.tags["mlflow.source.git.commit"] == "c0ffee"
    inputs = {i.dataset.name: {t.key: t.value for t in i.tags} for i in last.inputs.dataset_inputs}
    assert inputs["gamma"]["mlflow.data.context"] == "training"
    assert inputs["alpha"]["mlflow.data.context"] == "evaluation"
    assert inputs["gamma"]["dvc.md5"] == "0" * 32


def test_figures_and_report_are_kept_with_the_run(filled: Registry, tmp_path: Path) -> None:
    run = runs(filled, "episode")[-1]
    filled.client.download_artifacts(run.info.run_id, "", str(tmp_path))
    figures = [f"figures/{name}.png" for name in ("accuracy_matrix", "confusion_matrix")]
    names = [*figures, "model_card.md", "report.json"]
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == names
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in names[:2])


def test_registering_again_changes_nothing(registry: Registry, stream: list[Learned]) -> None:
    given = assessed(0, "alpha")
    first = enter(registry, stream[0], assessment=given)
    before = contents(registry)
    assert enter(registry, stream[0], assessment=given) == first
    assert contents(registry) == before


def test_a_register_killed_after_any_of_its_writes_is_completed_by_the_next(
    server: Server, registry: Registry, stream: list[Learned]
) -> None:
    clean = Registry(server.uri, f"{registry.name}-clean")
    cuts: set[tuple[str, int]] = set()
    for episode in stream[:2]:
        given = assessed(episode.report.episode, episode.report.task, foreseen=FORESEEN)
        enter(clean, episode, assessment=given)
        cuts -= {(name, 1) for name in ("create_run", "finalize_logged_model", "create_model_version")}
        while True:
            attempt = Registry(server.uri, registry.name)
            attempt.__dict__["client"] = CutClient(attempt.client, cuts)
            try:
                enter(attempt, episode, assessment=given)
                break
            except Killed:
                pass
        assert contents(registry) == contents(clean)  # after each: the next would write what the timeline lacks
    names = {name for name, _ in cuts}
    assert {"create_run", "log_batch", "log_artifacts", "set_tag", "log_outputs", "create_model_version"} <= names


def test_an_answer_that_is_lost_makes_nothing_twice(
    server: Server, lossy: Callable[..., LossyServer], stream: list[Learned]
) -> None:
    """A server is killed after it did what it was asked, and is back before MLflow's client has tried again."""
    making = ("runs/create", "logged-models", "model-versions/create")
    front, name, lost = lossy(*making), f"model-{uuid.uuid4().hex[:8]}", 0
    while lost <= 2 * len(making):
        try:
            enter(Registry(front.uri, name), stream[0])
            break
        except RegistryError:
            lost += 1
    registry = Registry(server.uri, name)
    assert [(v.version, v.outcome, v.aliases) for v in registry.versions()] == [(1, "promoted", (CHAMPION,))]
    assert not front.lost and lost == len(making)
    assert [len(runs(registry, role)) for role in ("timeline", "episode")] == [1, 1]
    experiment = registry.client.get_experiment_by_name(name).experiment_id
    assert [model.status for model in registry.client.search_logged_models([experiment])] == ["READY"]


def test_a_second_child_of_a_version_starts_a_timeline_with_its_ancestor_s_points(
    registry: Registry, stream: list[Learned], other_second: Learned
) -> None:
    for episode in stream[:2]:
        enter(registry, episode)
    registry.rollback(1, by="ann", reason="beta was bad")
    version = enter(registry, other_second)
    assert version.line == other_second.digest
    by_line = {r.data.tags["lorax.line"]: curves(registry, r) for r in runs(registry, "timeline")}
    first, second = by_line[stream[0].digest], by_line[other_second.digest]
    assert [step for step, _ in first["accuracy/alpha"]] == [step for step, _ in second["accuracy/alpha"]] == [0, 1]
    assert first["pooled_accuracy"][0] == second["pooled_accuracy"][0]
    assert "accuracy/beta" not in second


def test_a_deleted_alias_is_an_error_that_names_the_version_it_was_on(
    registry: Registry, stream: list[Learned]
) -> None:
    enter(registry, stream[0])
    registry.client.delete_registered_model_alias(registry.name, CHAMPION)
    with pytest.raises(RegistryError, match="no alias 'champion' any more: it was on version 1"):
        registry.champion()
    assert [v.aliases for v in registry.versions()] == [()]


def test_a_deleted_champion_is_an_error_and_not_an_empty_registry(registry: Registry, stream: list[Learned]) -> None:
    enter(registry, stream[0])
    registry.client.delete_model_version(registry.name, "1")
    with pytest.raises(RegistryError, match="deleted in MLflow"):
        registry.champion()


def test_a_version_made_by_others_is_left_out_and_refused_as_champion(registry: Registry) -> None:
    client = registry.client
    run_id = client.create_run(client.create_experiment(registry.name)).info.run_id
    client.create_registered_model(registry.name)
    client.create_model_version(registry.name, source=f"runs:/{run_id}/theirs", run_id=run_id)
    client.set_registered_model_alias(registry.name, CHAMPION, "1")
    assert registry.versions() == []
    with pytest.raises(RegistryError, match="was not registered by lorax"):
        registry.champion()


def test_a_downloaded_state_is_the_registered_one(filled: Registry, stream: list[Learned], tmp_path: Path) -> None:
    found = filled.download_state(2, tmp_path)
    assert found == tmp_path / stream[1].digest
    assert state_digest(found) == stream[1].digest
    load_state(found)
    assert states_in(tmp_path) == [found]


def test_a_damaged_local_copy_is_fetched_again(filled: Registry, tmp_path: Path) -> None:
    found = filled.download_state(1, tmp_path)
    (found / "head.safetensors").write_bytes(b"damaged")
    assert filled.download_state(1, tmp_path) == found
    load_state(found)


def test_two_who_fetch_one_state_both_have_it(filled: Registry, stream: list[Learned], tmp_path: Path) -> None:
    start, found = Barrier(3), list[Path]()
    damaged = tmp_path / stream[1].digest
    damaged.mkdir()
    (damaged / "learner.json").write_text("damaged")

    def fetch() -> None:
        other = Registry(filled.uri, filled.name)
        other.champion()
        start.wait()
        state_dir = other.download_state(2, tmp_path)
        load_state(state_dir)
        found.append(state_dir)

    threads = [Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == 3 * [tmp_path / stream[1].digest]
    assert states_in(tmp_path) == [tmp_path / stream[1].digest]


def test_a_version_copied_to_another_model_opens_and_outlives_what_it_was_copied_from(
    server: Server, registry: Registry, stream: list[Learned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for episode in stream[:2]:
        enter(registry, episode)
    registry.rollback(1, by="ann", reason="to have one that may go")
    prod = Registry(server.uri, f"{registry.name}-prod")
    registry.client.copy_model_version(f"models:/{registry.name}/2", prod.name)
    registry.client.copy_model_version(f"models:/{prod.name}/1", f"{prod.name}-too")
    prod.client.set_registered_model_alias(prod.name, CHAMPION, "1")
    champion = prod.settle()
    assert champion is not None
    assert champion.state_digest == stream[1].digest
    assert prod.stored_bytes(1) == registry.stored_bytes(2) > 0
    assert registry.copies(2) == [f"{prod.name}-too, version 1", f"{prod.name}, version 1"]

    registry.delete(2, by="ann", reason="room")
    from mlflow.cli import cli as mlflow_command  # takes two seconds of every process that collects tests

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    done = CliRunner().invoke(mlflow_command, ["gc", "--backend-store-uri", server.database_uri])
    assert done.exit_code == 0, done.output
    state_dir = prod.download_state(1, tmp_path)
    load_state(state_dir)
    assert enter(prod, stream[2]).outcome == "promoted"
    assert [v.version for v in prod.versions()] == [1, 2]


def test_a_deleted_experiment_is_told_before_anything_is_learned_with_the_command_that_brings_it_back(
    registry: Registry, stream: list[Learned]
) -> None:
    from mlflow.cli import cli as mlflow_command

    assert registry.settle() is None
    enter(registry, stream[0])
    registry.track_scenario("demo", load_state(stream[0].state_dir), [stream[0].report])
    for name, ask in ((registry.name, registry.settle), (f"{registry.name}-scenarios", registry.check_scenarios)):
        experiment = registry.client.get_experiment_by_name(name)
        assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
        assert ("scenario" in experiment.tags["mlflow.note.content"]) == (name != registry.name)
        registry.client.delete_experiment(experiment.experiment_id)
        with pytest.raises(RegistryError, match=f"experiment '{name}' was deleted") as caught:
            ask()
        command = str(caught.value).split("'")[3]
        variable, program, *arguments = shlex.split(command)
        environment = dict([variable.split("=", 1)])
        assert (environment, program) == ({"MLFLOW_TRACKING_URI": registry.uri}, "mlflow")
        done = CliRunner(env=environment).invoke(mlflow_command, arguments)
        assert done.exit_code == 0, done.output
        ask()


def test_the_journal_stands_where_mlflow_s_page_does_not_show_it_and_older_entries_are_read(
    registry: Registry, stream: list[Learned]
) -> None:
    enter(registry, stream[0])
    [(key, text)] = registry.registered_model().tags.items()
    assert key.startswith("mlflow.")
    [entry] = registry.journal()
    registry.client.delete_registered_model_tag(registry.name, key)
    registry.client.set_registered_model_tag(registry.name, key.removeprefix("mlflow."), text)
    assert registry.journal() == [replace(entry, key=key.removeprefix("mlflow."))]
    assert enter(registry, stream[1]).outcome == "promoted"


def states_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def test_artifacts_changed_on_the_server_are_refused(
    server: Server, registry: Registry, stream: list[Learned], tmp_path: Path
) -> None:
    enter(registry, stream[0])
    model_id = registry.client.get_model_version(registry.name, "1").source.removeprefix("models:/")
    (head,) = (p for p in (server.folder / "artifacts").rglob("head.safetensors") if model_id in p.parts)
    head.write_bytes(b"changed")
    with pytest.raises(RegistryError, match="changed on the server"):
        registry.download_state(1, tmp_path)
    assert states_in(tmp_path) == []


def test_an_unknown_version_is_an_error(filled: Registry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="99"):
        filled.download_state(99, tmp_path)


def test_a_report_of_another_episode_is_refused_before_anything_is_written(
    registry: Registry, stream: list[Learned]
) -> None:
    with pytest.raises(StateError, match="report is of episode 1"):
        enter(registry, replace(stream[0], report=stream[1].report))
    assert registry.client.get_experiment_by_name(registry.name) is None


def test_a_damaged_state_is_refused(registry: Registry, stream: list[Learned], tmp_path: Path) -> None:
    copy = tmp_path / "state"
    shutil.copytree(stream[0].state_dir, copy)
    (copy / "exemplars.csv").write_text("changed")
    with pytest.raises(StateError, match="damaged"):
        enter(registry, replace(stream[0], state_dir=copy))
    assert registry.versions() == []


def test_the_database_can_be_looked_up_without_the_server_but_not_written(
    server: Server, filled: Registry, stream: list[Learned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Registry(server.database_uri, filled.name)
    assert reader.champion() == filled.champion()
    assert reader.versions() == filled.versions()
    with pytest.raises(RegistryError, match="lorax up"):
        enter(reader, stream[0])
    with pytest.raises(RegistryError, match="readonly"), reader.talking("write"):
        reader.client.set_registered_model_tag(filled.name, "written", "1")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_does_not_exist_yet_is_empty_and_is_not_made(tmp_path: Path) -> None:
    reader = Registry(f"sqlite:///{tmp_path / 'none.db'}", "lorax")
    assert reader.champion() is None
    assert reader.versions() == []
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_named_within_seconds(stream: list[Learned]) -> None:
    registry = Registry(f"http://127.0.0.1:{free_port()}", "lorax")
    started = time.monotonic()
    with pytest.raises(
        RegistryError, match=r"no MLflow server answers at http://127.0.0.1:\d+. Start it with 'lorax up'"
    ):
        registry.champion()
    assert time.monotonic() - started < 60  # MLflow's own client would try for many minutes


def test_a_scenario_is_tracked_and_touches_no_model(registry: Registry, stream: list[Learned], tmp_path: Path) -> None:
    extra = tmp_path / "metrics.json"
    extra.write_text("{}")
    reports = [episode.report for episode in stream]
    run_id = registry.track_scenario("demo", load_state(stream[-1].state_dir), reports, files=[extra])
    (run,) = runs(registry, "scenario", f"{registry.name}-scenarios")
    assert run.info.run_id == run_id
    assert [step for step, _ in curves(registry, run)["accuracy/alpha"]] == [0, 1, 2]
    assert "metrics.json" in {a.path for a in registry.client.list_artifacts(run_id)}
    assert registry.versions() == []


def test_all_tasks_are_in_one_figure_and_in_one_chart(filled: Registry) -> None:
    (timeline,) = runs(filled, "timeline")
    assert [file.path for file in filled.client.list_artifacts(timeline.info.run_id, "figures")] == [TIMELINE_FIGURE]
    assert f"get-artifact?path={TIMELINE_FIGURE}&run_uuid={timeline.info.run_id}" in timeline.data.tags[NOTE]
    tags = filled.client.get_experiment_by_name(filled.name).tags
    assert "viewStateShareKey=lorax-accuracy" in tags[NOTE]
    view = json.loads(tags["mlflow.sharedViewState.lorax-accuracy"])
    packed = base64.b64decode(view["state"].removeprefix("deflate;"))
    (chart,) = json.loads(zlib.decompress(packed))["compareRunCharts"]
    assert chart["selectedMetricKeys"] == [*(f"accuracy/{name}" for name in NAMES), "average_accuracy"]


def test_a_version_s_page_leads_to_what_it_was_made_of_and_by(registry: Registry, stream: list[Learned]) -> None:
    flow_run = "http://127.0.0.1:4200/runs/flow-run/1"
    candidate = open_candidate(stream[0].state_dir, stream[0].report, None, None)
    version = registry.register(replace(candidate, flow_run=flow_run))
    told = registry.client.get_model_version(registry.name, "1").description
    assert f"[Prefect's run]({flow_run})" in told
    assert f"/runs/{version.run_id}/artifacts/model_card.md" in told
    assert f"data.dvc `{version.data_digest}`" in told
    registry.judge(candidate, OPEN)
    judged = registry.client.get_model_version(registry.name, "1").description
    assert judged.startswith(told)
    assert re.search(r"\*\*Gate\*\*: (\d+) of \1 conditions hold\n\n- passed: alpha", judged)
    assert list(registry.links(version)) == ["version 1", "all tasks' accuracy over the versions"]


def test_pages_lead_to_the_timelines_and_the_model(filled: Registry) -> None:
    pages = filled.pages()
    assert "viewStateShareKey=lorax-accuracy" in pages["timeline"]
    assert pages["model"].endswith(f"#/models/{filled.name}")
