"""A task is withdrawn: what was learned after it is learned again without it, while the champion of now serves.

Its episodes are those of `learn`, up to where the registry would see them. Once all are there, their states become
versions, and the champion is moved once: to the last of them. Then data.dvc loses the task. Killed at any point, the
same run goes on: a finished step finds its output, and a git ref says that a withdrawal is under way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows import steps
from flows.step import Settings, step
from lorax import progress
from lorax.data import landing, versions
from lorax.data import withdrawal as data_withdrawal
from lorax.drafts import discard
from lorax.errors import DataVersionError, RegistryError
from lorax.learning.cutting import check_can_be_cut
from lorax.learning.folder import EpisodeFolder
from lorax.learning.state_files import load_state
from lorax.params import Params, load_params
from lorax.reconcile import one_at_a_time, registry_of_server
from lorax.registry import ModelVersion, Registry, withdrawal
from lorax.stream import DataRevision
from lorax.tidying import used
from lorax.verdicts.predictor import Predictor, check_predicts
from lorax.workspace import Workspace


@flow(name="withdraw", flow_run_name="withdraw {task}", persist_result=False)
def withdraw(
    workspace_root: str, task: str, reason: str, by: str, preset: str | None = None, fast: bool = False
) -> list[int]:
    """Have champion and data.dvc be as if `task` had never landed; the same run again goes on where it was cut off.

    Args:
        workspace_root: absolute path of the workspace.
        task: landed, or known to the champion.
        reason, by: why and who, for git's history and the registry's journal.
        preset: a preset of params.yaml, or None.
        fast: cut the task out of the champion's state instead of learning what came after it again.

    Returns:
        The model versions that were made without it.
    """
    workspace = Workspace(Path(workspace_root))
    params, log = load_params(workspace.params_path, preset=preset), get_run_logger()
    with one_at_a_time(workspace, lambda: log.info("another flow learns in this workspace; waiting for it")):
        landing.undo_killed(workspace)
        registry, numbers = registry_of_server(workspace, params), list[int]()
        here = _Withdrawal(workspace, registry, params, task, by, reason)
        landed = {known.name: known for known in versions.landed(workspace)}
        is_here = task in landed or task in data_withdrawal.under_way(workspace)
        champion = _knowing(registry.settle(), task)
        if champion and len(champion.tasks) == 1:  # told before anything is begun
            raise RegistryError(
                f"task {task!r} is all that version {champion.version} knows, so nothing would be left to serve. Land "
                "and learn another task first."
            )
        if champion is None and not is_here and withdrawal.is_withdrawn(registry, task):
            log.info("%s was withdrawn already", task)
            return numbers
        followers = iter(data_withdrawal.followers(workspace, task))  # told once, and of what isn't refused
        if champion is None:
            data_withdrawal.prepared(workspace, task, reason)
            _tell(followers, task, fast)
        while champion:
            others = set(champion.names) - {task}
            is_cut = fast and champion.tasks[-1].name != task  # else the version before it is there
            if is_cut:
                check_can_be_cut(load_state(here.state_of(champion)), task)
                data_withdrawal.check_is_read(workspace, task)
            else:
                here.check_landed(champion, set(landed))
            revision = data_withdrawal.prepared(workspace, task, reason, others) if is_here else None
            _tell(followers, task, fast)
            homes = (here.cut_out if is_cut else here.learned_again)(champion, revision)
            numbers = here.move_past(champion, homes)
            champion = _knowing(registry.settle(), task)  # it may have been moved meanwhile
        if task in landed:
            withdrawal.note(registry, landed[task], by=by, reason=reason)
        if is_here:
            data_withdrawal.carry_out(workspace, task)
        return numbers


@flow(name="withdraw-episode", flow_run_name="without it, episode {index}: {task}", persist_result=False)
def episode(
    workspace_root: str, task: str, index: int, base: str | None, settings: dict[str, Any], revision: list[str] | None
) -> str:
    """Learn one task on top of the state in `base`, registering nothing; returns the episode's folder."""
    progress.say(f"episode {index}: {task}", style="bold")
    parent, data = Workspace(Path(workspace_root)).episodes_dir, DataRevision(*revision) if revision else None
    home = steps.learn_task(workspace_root, parent, base, task, settings, data)
    steps.assess(workspace_root, home)
    return home


@step("make champion")
def make_champion(root: str, settings: Settings, task: str, before: int, number: int, by: str, reason: str) -> None:
    """Move the champion from version `before`, which knows the task, to `number`, unless it is another by now."""
    with progress.step("make champion") as shown:
        workspace, params = Workspace(Path(root)), Params.model_validate(settings)
        registry = registry_of_server(workspace, params)
        seen, champion = registry.finished_journal(), _knowing(registry.champion(), task)
        if champion is None or champion.version != before:
            shown.outcome = "the champion was moved meanwhile"
            return
        state_dir = used(registry.download_state(number, workspace.states_dir))
        check_predicts(Predictor.open(state_dir, params.run.device))
        pinned = next(known for known in champion.tasks if known.name == task)
        withdrawal.withdraw(registry, pinned, number, by=by, reason=reason, seen=seen)
        shown.outcome = f"version {before} -> version {number}"
        get_run_logger().info("champion: %s, without %s", shown.outcome, task)


@dataclass(frozen=True)
class _Withdrawal:
    """What is withdrawn from where, and who says so, and why."""

    workspace: Workspace
    registry: Registry
    params: Params
    task: str
    by: str
    reason: str

    @property
    def root(self) -> str:
        return str(self.workspace.root)

    @property
    def settings(self) -> dict[str, Any]:
        return self.params.model_dump(mode="json")

    def state_of(self, version: ModelVersion) -> Path:
        return used(self.registry.download_state(version.version, self.workspace.states_dir))

    def beyond(self, champion: ModelVersion) -> tuple[ModelVersion | None, list[str]]:
        """The newest version before the champion learned the task, and what it has learned since, less that."""
        base = self.registry.base_without(champion, self.task)
        known = base.names if base else []
        return base, [name for name in champion.names if name not in (*known, self.task)]

    def check_landed(self, champion: ModelVersion, landed: set[str]) -> None:
        """See that what must be learned again can be."""
        if lacking := [name for name in self.beyond(champion)[1] if name not in landed]:
            raise DataVersionError(
                f"without {self.task!r}, what version {champion.version} learned after it must be learned again, but "
                f"{', '.join(lacking)} is not landed any more. If it was withdrawn, withdraw it from this version "
                f"first: 'lorax withdraw {lacking[-1]} --reason TEXT'; else land it again. Nothing was changed."
            )

    def learned_again(self, champion: ModelVersion, revision: DataRevision | None) -> list[EpisodeFolder]:
        """The episodes of all that the champion learned since it knew the task, less that, in that order."""
        base, names = self.beyond(champion)
        homes, state = list[EpisodeFolder](), str(self.state_of(base)) if base else None
        told = [revision.digest, revision.commit or ""] if revision else None
        for index, name in enumerate(names, len(base.tasks) if base else 0):
            homes.append(EpisodeFolder(Path(episode(self.root, name, index, state, self.settings, told))))
            state = str(homes[-1].state_dir)
        return homes

    def cut_out(self, champion: ModelVersion, revision: DataRevision | None) -> list[EpisodeFolder]:
        """The one episode that ends as the champion, less the task."""
        revision, state = revision or versions.revision(self.workspace), str(self.state_of(champion))
        home = steps.cut_out(self.root, state, self.task, self.settings, revision)
        for step_of_episode in (steps.calibrate, steps.score, steps.assess):
            step_of_episode(self.root, home)
        return [EpisodeFolder(Path(home))]

    def move_past(self, champion: ModelVersion, homes: list[EpisodeFolder]) -> list[int]:
        """Make versions of what episodes left, and the last of it champion; returns them."""
        base, numbers = self.registry.base_without(champion, self.task), list[int]()
        candidates = [steps.candidate_in(home) for home in homes]
        withdrawal.check_gate(self.registry, candidates, self.params.gate, self.task)
        for home in homes:
            steps.update_atlas(self.root, str(home.root))
            numbers.append(steps.register(self.root, str(home.root)))
            steps.gate(self.root, str(home.root))
        number = numbers[-1] if numbers else base.version if base else 0
        make_champion(self.root, self.settings, self.task, champion.version, number, self.by, self.reason)
        for home in homes:
            discard(home.state_dir)  # the registry has it
        return numbers


def _tell(followers: Iterator[str], task: str, fast: bool) -> None:
    """What becomes of the next versions of a task that is withdrawn."""
    stays = f"its branch, which began as {task}'s, stays"
    now = stays if fast else "without that, its branch starts as any other's"
    for name in followers:
        progress.say(f"{name} is a next version of {task}: {now}")


def _knowing(champion: ModelVersion | None, task: str) -> ModelVersion | None:
    """The champion, if it knows a task."""
    return champion if champion and task in champion.names else None
