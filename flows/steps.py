"""The steps of an episode: thin wrappers that Prefect retries and shows. Paths, digests and JSON values in and out.

Resume is by content: an episode's folder is named by what the episode is a function of, every step leaves its output
there whole or not at all, and a step whose output is there says so and does nothing. Prefect's own result cache is off.
The folder's plan has all parameters. Steps of one process share one opened `Episode`; a step in a process of its own
opens it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from prefect import get_run_logger
from prefect.runtime import flow_run

from flows.step import Settings, epochs_shown, show_accuracy, show_verdicts, step, trust
from lorax import attribution, lineage, progress, reconcile
from lorax.addresses import without_password
from lorax.atlas import layer_similarity
from lorax.data import learned, pins, reals, versions
from lorax.drafts import discard
from lorax.errors import DataVersionError, StateError
from lorax.learning import assessment, cutting
from lorax.learning.assessment import Assessment
from lorax.learning.episode import Episode
from lorax.learning.folder import EpisodeFolder, Plan, Report
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state, state_digest
from lorax.params import Params
from lorax.registry import Registry
from lorax.registry.candidate import Candidate, open_candidate
from lorax.stream import DataRevision
from lorax.tidying import used
from lorax.workspace import Workspace

_open: dict[str, Episode] = {}
"""The episode that this process has in hand, by its folder."""

_bases: dict[str, LearnerState] = {}
"""The base state that was read to choose its episode's start, by its directory."""


@step("open base state")
def open_base_state(root: str, settings: Settings) -> str | None:
    """Fetch the champion's learner state from the registry; None while there is no champion."""
    with progress.step("open base state") as shown:
        workspace = Workspace(Path(root))
        registry = reconcile.registry_of_server(workspace, Params.model_validate(settings))
        champion = registry.champion()
        shown.outcome = f"version {champion.version}" if champion else "none: the first task"
        get_run_logger().info("base state: %s", shown.outcome)
        if champion is None:
            return None
        return str(used(registry.download_state(champion.version, workspace.states_dir)))


def learn_task(
    root: str, parent: Path, base: str | None, name: str, settings: Settings, revision: DataRevision | None = None
) -> str:
    """The steps of the method, in `learn_episode`'s order; arguments and result as `plan_episode`."""
    commit = (revision and revision.commit) or "HEAD"
    start = choose_start(root, base, name, settings, commit)
    home = plan_episode(root, parent, base, name, settings, start, revision)
    grow(root, home)
    fit(root, home)
    herd(root, home)
    calibrate(root, home)
    score(root, home)
    return home


def plan_episode(
    root: str,
    parent: Path,
    base: str | None,
    name: str,
    settings: Settings,
    start: str | None = None,
    revision: DataRevision | None = None,
) -> str:
    """The folder of the episode that learns task `name` on top of `base`; the same work has the same folder.

    Args:
        root: the workspace.
        parent: the folder that holds the episodes' folders.
        base: directory of the base state, or None.
        name: a landed task.
        settings: all sections of params.yaml, which the plan holds.
        start: the task whose branch the new one starts from (`choose_start`), or None.
        revision: the data revision that the next state is to name; None: what is checked out.
    """
    workspace, params = Workspace(Path(root)), Params.model_validate(settings)
    reals.pinned(workspace, params.reals)  # else it would be missed after the training
    revision = revision or versions.revision(workspace)
    new = versions.read_task(workspace, name, revision.commit or "HEAD")
    plan = Plan.of(Path(base) if base else None, new, params, revision, start)
    _open.clear()  # of other parameters, maybe
    return str(EpisodeFolder.open(parent, plan).root)


@step("cut out")
def cut_out(root: str, base: str, name: str, settings: Settings, revision: DataRevision) -> str:
    """Cut a task out of the state in `base`; returns the folder of an episode that is to be calibrated and scored."""
    with progress.step("cut out"):
        workspace, params = Workspace(Path(root)), Params.model_validate(settings)
        reads = (partial(versions.read_task, workspace), partial(versions.fetch, workspace))
        _open.clear()
        return str(cutting.cut_out(workspace.episodes_dir, Path(base), name, *reads, params, revision).root)


@step("grow network")
def grow(root: str, home: str) -> None:
    """Grow the network by a branch that knows nothing yet, and by outputs for the task's classes."""
    with progress.step("grow network") as shown:
        if _is_done(shown, EpisodeFolder(Path(home)).trained_dir.is_dir()):
            return
        with _opened(root, home) as episode:
            episode.grow()
            known, new = len(episode.base.classes), len(episode.classes) - len(episode.base.classes)
            extends = episode.task.extends
            shown.outcome = f"{extends}'s branch goes on, {known} classes" if extends else f"{known} + {new} classes"


@step("train branch")
def fit(root: str, home: str) -> None:
    """Fit the new branch and the head to the task's images and the exemplars."""
    with progress.step("train branch", counts=True) as shown:
        if _is_done(shown, EpisodeFolder(Path(home)).trained_dir.is_dir()):
            return
        with _opened(root, home) as episode:
            episode.fit(epochs_shown(shown, episode.task.name), shown.on_progress)


@step("update exemplars")
def herd(root: str, home: str) -> None:
    """Herd the new classes' exemplars, and shrink the old ones' within the budget."""
    with progress.step("update exemplars") as shown:
        if _is_done(shown, EpisodeFolder(Path(home)).exemplars_path.is_file()):
            return
        with _opened(root, home) as episode:
            episode.herd()
            shown.outcome = f"budget {episode.params.exemplars.budget}"


@step("calibrate")
def calibrate(root: str, home: str) -> None:
    """Fit on held-out images what turns answers into probabilities, and how much the texture counts in them."""
    with progress.step("calibrate") as shown:
        if _is_done(shown, EpisodeFolder(Path(home)).is_scored):
            return
        with _opened(root, home) as episode:
            episode.calibrate()


@step("evaluate all past tasks")
def score(root: str, home: str) -> str:
    """Score the network on every task it knows and write the next learner state; returns its digest."""
    with progress.step("evaluate all past tasks", counts=True) as shown:
        folder = EpisodeFolder(Path(home))
        if _is_done(shown, folder.is_scored):
            return state_digest(folder.state_dir)
        with _opened(root, home) as episode:
            episode.score(shown.on_progress)
            _shrink_features(episode)
            report = Report.read(folder.report_path)
            show_accuracy(report, episode.base)
            shown.outcome = ", ".join(f"{task.name} {100 * report.accuracy[task.name]:.1f}" for task in episode.tasks)
            get_run_logger().info("accuracy, %%: %s", shown.outcome)
        return state_digest(folder.state_dir)


@step("assess verdicts")
def assess(root: str, home: str) -> None:
    """Measure how far the verdicts can be trusted: calibration, unknown generators, robustness, false positives."""
    with progress.step("assess verdicts", counts=True) as shown:
        folder = EpisodeFolder(Path(home))
        photographs = reals.read_reals(Workspace(Path(root)), folder.plan().params.reals)
        if _is_done(shown, assessment.kept_assessment(folder, photographs) is not None):
            return
        with _opened(root, home) as episode:
            assessed = assessment.assess(episode, photographs, shown.on_progress)
            _shrink_features(episode)
        shown.outcome = trust(assessed)
        get_run_logger().info("verdicts: %s", shown.outcome)


@step("update atlas")
def update_atlas(root: str, home: str) -> None:
    """Say which branches are alike, and add them to the workspace's atlas; what goes wrong here fails no episode."""
    with progress.step("update atlas") as shown, _opened(root, home) as episode:
        atlas_dir, log = Workspace(Path(root)).atlas_dir, get_run_logger()
        shown.outcome = layer_similarity.update(episode.folder, atlas_dir, log.warning, episode.state)
        log.info("atlas: %s", shown.outcome)


@step("register")
def register(root: str, home: str) -> int:
    """Register the episode's learner state as a model version and challenger; returns its number."""
    with progress.step("register") as shown, _opened(root, home) as episode:
        _keep_memory(Workspace(Path(root)), episode)
        candidate = replace(_candidate(episode), origins=_origins(Workspace(Path(root)), episode))
        version = _registry(root, episode).register(candidate)
        shown.outcome = f"version {version.version}"
        get_run_logger().info("registered as %s of %s", shown.outcome, episode.params.registry.model)
        return version.version


@step("gate")
def gate(root: str, home: str) -> None:
    """Have the gate judge the challenger; one that fails is refused, and its task held."""
    with progress.step("gate") as shown, _opened(root, home) as episode:
        registry = _registry(root, episode)
        version = registry.judge(_candidate(episode), episode.params.gate)
        shown.outcome = show_verdicts(version, registry.links(version))
        get_run_logger().info("version %d: %s", version.version, shown.outcome)


@step("promote")
def promote(root: str, home: str) -> int:
    """Make a challenger that passed the gate champion, unless it is to wait for approval; returns its number."""
    with progress.step("promote") as shown, _opened(root, home) as episode:
        registry = _registry(root, episode)
        with lineage.run("promote") as told:
            version = registry.promote_passed(_candidate(episode), episode.params.gate)
            told.inputs.append(lineage.version(registry.name, version.version))
            told.outputs += [lineage.champion(registry.name, version.version)] if version.outcome == "promoted" else []
        shown.outcome = f"version {version.version} {version.outcome}"
        log = get_run_logger()
        tell = log.info if version.outcome == "promoted" else log.warning
        tell("%s: %s", shown.outcome, version.reason)
        discard(episode.folder.state_dir)  # it holds every branch, and the registry has it
        return version.version


@contextmanager
def _opened(root: str, home: str) -> Iterator[Episode]:
    """The episode of a folder, opened once in this process; anew after an error, whatever that left in memory."""
    episode = _open.pop(home, None)
    _open.clear()
    if episode is None:
        workspace = Workspace(Path(root))
        read_task, read_learned = (partial(of, workspace) for of in (versions.read_task, learned.read_learned))
        folder, fetch = EpisodeFolder(Path(home)), partial(versions.fetch, workspace)
        base = _bases.get(folder.plan().base_dir or "")
        _bases.clear()
        episode = Episode.open(folder, read_task, fetch, read_learned=read_learned, base=base)
    yield episode
    _open[home] = episode


def _registry(root: str, episode: Episode) -> Registry:
    return reconcile.registry_of_server(Workspace(Path(root)), episode.params)


def _candidate(episode: Episode) -> Candidate:
    return candidate_in(episode.folder, episode.state)


def _origins(workspace: Workspace, episode: Episode) -> dict[str, str]:
    """What was told of where the images of its tasks come from."""
    kept = pins.committed(workspace, episode.plan.revision.commit or "HEAD")
    told = {task.name: kept.notes_of(task.name).origin for task in episode.state.tasks}
    return {task: origin for task, origin in told.items() if origin}


def candidate_in(folder: EpisodeFolder, state: LearnerState | None = None) -> Candidate:
    """What an episode left, and all that was measured of it; the state is read unless it is given."""
    report, assessed = Report.read(folder.report_path), Assessment.read(folder.assessment_path)
    compared = layer_similarity.compared_dir(folder)
    found = open_candidate(folder.state_dir, report, assessed, folder.plan().revision.commit, compared, state)
    return replace(found, flow_run=without_password(flow_run.ui_url or ""))


def _is_done(shown: progress.Shown, is_there: bool) -> bool:
    """Whether a step's output is there already; then that is told."""
    if is_there:
        shown.outcome = "already done"
        get_run_logger().info("already done: its output is whole on disk")
    return is_there


def _shrink_features(episode: Episode) -> None:
    episode.cache.evict(int(episode.params.features.limit_gb * 1e9))


def _keep_memory(workspace: Workspace, episode: Episode) -> None:
    """Keep the images that the learner state needs; a remote that takes none fails no episode."""
    samples = [exemplar.sample for exemplar in (*episode.state.exemplars, *episode.state.calibration_memory)]
    try:
        versions.keep(workspace, state_digest(episode.folder.state_dir), samples)
    except DataVersionError as error:
        get_run_logger().warning("the exemplars are kept in this workspace only: %s", error)


def choose_start(root: str, base: str | None, name: str, settings: Settings, commit: str = "HEAD") -> str | None:
    """The known task whose branch the new one starts from; None, for a fresh start, unless something asks for one.

    What a commit's data.dvc calls a new version of another starts from that one, whatever params.yaml says of others.
    """
    kept = pins.committed(Workspace(Path(root)), commit).notes_of(name)
    if base is None or kept.extends:
        return None
    if kept.new_version_of:
        return find_older(root, base, kept.new_version_of, settings)
    if Params.model_validate(settings).training.branch_init == "fresh":
        return None
    return find_nearest(root, base, name, settings)


@step("find older branch")
def find_older(root: str, base: str, older: str, settings: Settings) -> str | None:
    """The task that the new one is the next version of, if its branch is known and could be started from."""
    with progress.step("find older branch") as shown:
        state, params = _base(base), Params.model_validate(settings)
        if why := attribution.unstartable(state, params, older):
            shown.outcome = f"{why}: a fresh start"
            get_run_logger().warning("the branch starts fresh: %s", why)
            return None
        shown.outcome = older
        return older


@step("find nearest branch")
def find_nearest(root: str, base: str, name: str, settings: Settings) -> str | None:
    """The known task whose branch the new task's probe is most like; None where none could be started from."""
    with progress.step("find nearest branch") as shown:
        workspace, params = Workspace(Path(root)), Params.model_validate(settings)
        new, state, log = versions.read_task(workspace, name), _base(base), get_run_logger()
        fetch = partial(versions.fetch, workspace)
        try:
            similar = attribution.startable(workspace, state, params, new, fetch, log.info)
        except StateError as error:  # only learning can mend it
            shown.outcome = f"{str(error).partition(', ')[0]}: a fresh start"
            log.warning("the branch starts fresh: %s", error)
            return None
        shown.outcome = ", ".join(f"{task} {cosine:.2f}" for task, cosine in similar) or "none that fits: a fresh start"
        log.info("nearest to its probe: %s", shown.outcome)
        return similar[0][0] if similar else None


def _base(directory: str) -> LearnerState:
    """The base state, read for the episode, too, which is opened next."""
    _bases.clear()
    _bases[directory] = load_state(Path(directory))
    return _bases[directory]
