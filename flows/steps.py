"""The steps of an episode: thin wrappers that Prefect retries and shows. Paths, digests and JSON values in and out.

Resume is by content: an episode's folder is named by what the episode is a function of, every step leaves its output
there whole or not at all, and a step whose output is there says so and does nothing. Prefect's own result cache is off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task as Step
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows import artifacts
from lorax import attribution, progress, reconcile
from lorax.atlas import layer_similarity
from lorax.data import reals, versions
from lorax.drafts import discard
from lorax.errors import DataVersionError, LoraxError, RegistryError, StateError
from lorax.learning import assessment, episode, loading
from lorax.learning.folder import EpisodeFolder, Plan, Report
from lorax.learning.state import LearnedTask, Revision, load_state, state_digest
from lorax.learning.training import EpochRow
from lorax.network.features import FeatureCache
from lorax.params import Params
from lorax.stream import Sample, Task
from lorax.tidying import used
from lorax.workspace import Workspace

Settings = Mapping[str, Any]
"""All sections of params.yaml with the run's preset, as plain JSON values: read once a run, for all of its steps."""

_P = ParamSpec("_P")
_R = TypeVar("_R")

_RETRY_DELAYS_S = [5.0, 15.0, 40.0]  # a server that died is back in about 20 s


def _may_pass(_: Step[Any, Any], __: TaskRun, state: State[Any]) -> bool:
    """Whether another try can help: not with bad input, which stays bad."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, LoraxError) or isinstance(error, RegistryError)


def step(name: str) -> Callable[[Callable[_P, _R]], Step[_P, _R]]:
    """Make a function a step of the flow's page, retried where another try can help."""
    return task(
        name=name,
        retries=len(_RETRY_DELAYS_S),
        retry_delay_seconds=_RETRY_DELAYS_S,
        retry_condition_fn=_may_pass,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@step("open base state")
def open_base_state(root: str, settings: Settings) -> str | None:
    """Fetch the champion's learner state from the registry; None while there is no champion."""
    with progress.step("base state") as shown:
        workspace = Workspace(Path(root))
        registry = reconcile.registry_of_server(workspace, Params.model_validate(settings).registry.model)
        champion = registry.champion()
        shown.outcome = f"version {champion.version}" if champion else "none: the first task"
        get_run_logger().info("base state: %s", shown.outcome)
        if champion is None:
            return None
        return str(used(registry.download_state(champion.version, workspace.states_dir)))


def choose_start(root: str, base: str | None, name: str, settings: Settings) -> str | None:
    """The known task whose branch the new one starts from; None, for a fresh start, unless params.yaml asks for one."""
    if base is None or Params.model_validate(settings).training.branch_init == "fresh":
        return None
    return find_nearest(root, base, name, settings)


@step("find nearest branch")
def find_nearest(root: str, base: str, name: str, settings: Settings) -> str | None:
    """The known task whose branch the new task's probe is most like; None where none could be started from."""
    with progress.step("find nearest branch") as shown:
        workspace, params = Workspace(Path(root)), Params.model_validate(settings)
        new, state, log = versions.read_task(workspace, name), load_state(Path(base)), get_run_logger()
        try:
            found = attribution.startable(workspace, state, params, new, _fetch(root), log.info)
        except StateError as error:  # only learning can mend it
            shown.outcome = f"{str(error).partition(', ')[0]}: a fresh start"
            log.warning("the branch starts fresh: %s", error)
            return None
        shown.outcome = ", ".join(f"{task} {cosine:.2f}" for task, cosine in found) or "none that fits: a fresh start"
        log.info("nearest to its probe: %s", shown.outcome)
        return found[0][0] if found else None


@step("train branch")
def train_branch(root: str, home: str, base: str | None, settings: Settings) -> None:
    """Grow the network by the episode's task and fit the new branch and the head."""
    with progress.step("train branch", counts=True) as shown:
        folder, log = EpisodeFolder(Path(home)), get_run_logger()
        if folder.trained_dir.is_dir():
            _already_done(shown)
            return
        params, move_bar = _params(folder, settings), artifacts.progress_bar(folder.plan().task.name)

        def on_epoch(row: EpochRow, epochs: int) -> None:
            left_s = (epochs - row.epoch - 1) * row.seconds
            now = f"loss {row.loss:.3f}  {row.images_per_s:,.0f} images/s  {left_s:.0f} s left"
            shown.on_progress(row.epoch + 1, epochs, now)
            move_bar(100.0 * (row.epoch + 1) / epochs)
            shown.outcome = f"{epochs} epochs, loss {row.loss:.3f}, {row.images_per_s:,.0f} images/s"
            log.info(
                "epoch %d/%d: loss %.4f, training accuracy %.3f, %.0f images/s, %.0f s left",
                *(row.epoch + 1, epochs, row.loss, row.train_accuracy, row.images_per_s, left_s),
            )

        state = loading.base_state(_path(base), params)
        episode.train_branch(folder, state, _task(root, folder), _fetch(root), params, on_epoch, shown.on_progress)


@step("update exemplars")
def update_exemplars(root: str, home: str, base: str | None, settings: Settings) -> None:
    """Herd the new classes' exemplars, and shrink the old ones' within the budget."""
    with progress.step("update exemplars") as shown:
        folder = EpisodeFolder(Path(home))
        if folder.exemplars_path.is_file():
            _already_done(shown)
            return
        params = _params(folder, settings)
        state = loading.base_state(_path(base), params)
        episode.update_exemplars(folder, state, _task(root, folder), _fetch(root), params)
        shown.outcome = f"budget {params.exemplars.budget}"


@step("evaluate all past tasks")
def evaluate(root: str, home: str, base: str | None, settings: Settings) -> str:
    """Score the network on every task it knows and write the next learner state; returns its digest."""
    with progress.step("evaluate", counts=True) as shown:
        folder = EpisodeFolder(Path(home))
        if folder.state_dir.is_dir() and folder.report_path.is_file():
            _already_done(shown)
            return state_digest(folder.state_dir)
        params = _params(folder, settings)
        state = loading.base_state(_path(base), params)
        earlier = [versions.read_task(Workspace(Path(root)), known.name) for known in state.tasks]
        new, fetch = _task(root, folder), _fetch(root)
        digest = episode.evaluate(folder, state, new, earlier, fetch, params, shown.on_progress)
        _shrink_features(folder, params)
        report = Report.read(folder.report_path)
        names = [*(known.name for known in state.tasks), report.task]
        artifacts.show_accuracy(report, names, [row[-1] for row in state.accuracy])
        shown.outcome = ", ".join(f"{name} {100 * report.accuracy[name]:.1f}" for name in names)
        get_run_logger().info("accuracy, %%: %s", shown.outcome)
        return digest


@step("assess verdicts")
def assess(root: str, home: str, base: str | None, settings: Settings) -> None:
    """Measure how far the verdicts can be trusted: calibration, unknown generators, robustness, false positives."""
    with progress.step("assess verdicts", counts=True) as shown:
        folder, workspace = EpisodeFolder(Path(home)), Workspace(Path(root))
        params = _params(folder, settings)
        photographs = reals.read_reals(workspace, params.reals)
        if assessment.kept_assessment(folder, params, photographs):
            _already_done(shown)
            return
        state, before = load_state(folder.state_dir), loading.base_state(_path(base), params)
        tasks = [versions.read_task(workspace, known.name) for known in before.tasks]
        tasks.append(_task(root, folder))
        found = assessment.assess(folder, state, before, tasks, _fetch(root), params, shown.on_progress, photographs)
        _shrink_features(folder, params)
        shown.outcome = _trust(found)
        get_run_logger().info("verdicts: %s", shown.outcome)


@step("update atlas")
def update_atlas(root: str, home: str) -> None:
    """Say which branches are alike, and add them to the workspace's atlas; what goes wrong here fails no episode."""
    with progress.step("update atlas") as shown:
        folder, log = EpisodeFolder(Path(home)), get_run_logger()
        shown.outcome = layer_similarity.update(folder, Workspace(Path(root)).atlas_dir, log.warning)
        log.info("atlas: %s", shown.outcome)


@step("register")
def register(root: str, home: str, settings: Settings) -> int:
    """Register the episode's learner state as a model version, champion if the gate lets it; returns its number."""
    with progress.step("register") as shown:
        folder, params = EpisodeFolder(Path(home)), Params.model_validate(settings)
        model, gate = params.registry.model, params.gate
        registry = reconcile.registry_of_server(Workspace(Path(root)), model)
        report = Report.read(folder.report_path)
        commit = folder.plan().revision.commit
        _keep_memory(Workspace(Path(root)), folder)
        assessed, atlas_dir = assessment.Assessment.read(folder.assessment_path), layer_similarity.compared_dir(folder)
        version = registry.register(
            folder.state_dir, report, gate=gate, git_commit=commit, assessment=assessed, atlas_dir=atlas_dir
        )
        artifacts.show_verdicts(version)
        shown.outcome = f"version {version.version} {version.outcome}"
        log = get_run_logger()
        tell = log.info if version.outcome == "promoted" else log.warning
        tell("registered as %s of %s: %s", shown.outcome, model, version.reason)
        discard(folder.state_dir)  # it holds every branch, and the registry has it
        return version.version


def plan_episode(
    root: str, parent: Path, base: str | None, name: str, settings: Settings, start: str | None = None
) -> str:
    """The folder of the episode that learns task `name` on top of `base`; the same work has the same folder.

    Args:
        root: the workspace.
        parent: the folder that holds the episodes' folders.
        base: directory of the base state, or None.
        name: a landed task.
        settings: all sections of params.yaml; the plan holds those that an episode depends on (`Params.learning`).
        start: the task whose branch the new one starts from (`choose_start`), or None.
    """
    workspace = Workspace(Path(root))
    reals.pinned(workspace, Params.model_validate(settings).reals)  # else it would be missed after the training
    revision = versions.revision(workspace)
    learned = LearnedTask(name, versions.read_task(workspace, name, revision.commit or "HEAD").digest)
    digest = state_digest(Path(base)) if base else None
    parameters = Params.model_validate(settings).learning()
    plan = Plan(digest, learned, parameters, Revision(revision.digest, revision.commit), start)
    return str(EpisodeFolder.open(parent, plan).root)


def _already_done(shown: progress.Shown) -> None:
    shown.outcome = "already done"
    get_run_logger().info("already done: its output is whole on disk")


def _params(folder: EpisodeFolder, settings: Settings) -> Params:
    """The parameters that the episode was planned with, and for all else those of the run."""
    return Params.model_validate({**settings, **folder.plan().parameters})


def _path(base: str | None) -> Path | None:
    return Path(base) if base else None


def _task(root: str, folder: EpisodeFolder) -> Task:
    """The task that the episode learns, still made of the bytes that were planned."""
    planned = folder.plan().task
    found = versions.read_task(Workspace(Path(root)), planned.name)
    if found.digest != planned.digest:
        raise DataVersionError(
            f"task {planned.name!r} changed while it was being learned: digest {found.digest[:12]} instead of "
            f"{planned.digest[:12]}. Run 'lorax learn' again to learn it as it is now."
        )
    return found


def _fetch(root: str) -> Callable[[Iterable[Sample]], dict[str, Path]]:
    return lambda samples: versions.fetch(Workspace(Path(root)), samples)


def _shrink_features(folder: EpisodeFolder, params: Params) -> None:
    FeatureCache(folder.features_dir).evict(int(params.features.limit_gb * 1e9))


def _trust(found: assessment.Assessment) -> str:
    """An assessment in one line."""
    clean, photographs = found.reliability[0], found.false_positives.clean if found.false_positives else None
    parts = [f"calibration error {100 * (clean.error_after or 0):.1f} % (by chance {100 * clean.floor:.1f} %)"]
    if not found.calibrated:
        parts = ['uncalibrated: not every class has calibration images (docs/method.md, "Verdicts")']
    if found.calibrated and found.foreseen:
        parts.append(f"{found.task} was strange before: AUROC {found.foreseen.auroc:.2f}")
    if found.calibrated and found.robustness is not None:
        parts.append(f"robustness {100 * found.robustness:.0f} %")
    if photographs:
        parts.append(f"false positives {100 * photographs.share:.1f} %")
    return ", ".join(parts)


def _keep_memory(workspace: Workspace, folder: EpisodeFolder) -> None:
    """Keep the images that the learner state needs; a remote that takes none fails no episode."""
    state = load_state(folder.state_dir)
    samples = [exemplar.sample for exemplar in (*state.exemplars, *state.calibration_memory)]
    try:
        versions.keep(workspace, state_digest(folder.state_dir), samples)
    except DataVersionError as error:
        get_run_logger().warning("the exemplars are kept in this workspace only: %s", error)
