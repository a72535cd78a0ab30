"""An episode whose task brings more images of a task that is known: its branch is fitted on, in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax.errors import StateError
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.queries import Asker, FeatureQuery
from lorax.learning.state import LearnerState, open_network
from lorax.learning.state_files import load_state, state_digest
from lorax.params import Params
from lorax.stream import Task
from tests.learning.conftest import Stream, learn_one, plan_of

pytestmark = pytest.mark.slow


class Grown:
    """Stripes, bars, then more stripes; and what an episode on top of each is."""

    def __init__(self, home: Path, params: Params) -> None:
        self.home, self.params, self.stream = home, params, Stream(home / "data")
        self.more = self.stream.write(home / "data", 0, "stripes-2", seed=9).as_more_of(self.stream.tasks[0])
        self.folders = [learn_one(self.stream, params, home / "episodes", None, 0)]
        self.folders.append(learn_one(self.stream, params, home / "episodes", self.folders[0].state_dir, 1))
        self.stream.tasks.append(self.more)
        self.extended = self.learn("episodes", self.folders[1], self.more)

    def open(self, home: str, base: EpisodeFolder, task: Task) -> Episode:
        return self.stream.open(EpisodeFolder.open(self.home / home, plan_of(base.state_dir, task, self.params)))

    def learn(self, home: str, base: EpisodeFolder, task: Task) -> EpisodeFolder:
        episode = self.open(home, base, task)
        learn_episode(episode)
        return episode.folder

    @property
    def states(self) -> tuple[LearnerState, LearnerState]:
        """Before and after."""
        return load_state(self.folders[1].state_dir), load_state(self.extended.state_dir)


@pytest.fixture(scope="module", params=["gradient", "ridge"])
def grown(request: pytest.FixtureRequest, params: Params, tmp_path_factory: pytest.TempPathFactory) -> Grown:
    values = params.model_dump(mode="json")
    values["head"]["solver"] = request.param
    return Grown(tmp_path_factory.mktemp("grown"), Params.model_validate(values))


def test_an_extension_fits_the_branch_on_and_adds_neither_branch_nor_class(grown: Grown) -> None:
    before, after = grown.states
    assert [branch.task for branch in after.branches] == ["bars", "stripes"]
    assert after.branches[0].files() == before.branches[1].files()
    assert after.branches[1].files() != before.branches[0].files()
    assert after.classes == before.classes
    assert after.head_weight.shape == before.head_weight.shape
    assert [task.name for task in after.tasks] == ["stripes", "bars", "stripes-2"]
    assert after.extensions == {"stripes-2": "stripes"}
    assert [len(row) for row in after.accuracy] == [1, 2, 3]
    assert state_digest(grown.folders[1].state_dir) == after.parent  # the version before is what it was


def test_its_memories_hold_old_and_new_images_of_each_class_it_brings(grown: Grown) -> None:
    before, after = grown.states
    brought = {entry.id for entry in after.classes.entries if entry.task == "stripes"}
    for class_id in brought:
        assert sum(e.class_id == class_id for e in after.exemplars) == 3
        held = {e.sample.path.partition("/")[0] for e in after.calibration_memory if e.class_id == class_id}
        assert held == {"stripes", "stripes-2"}
    kept = {e.sample.path.partition("/")[0] for e in after.exemplars if e.class_id in brought}
    assert kept == {"stripes", "stripes-2"}
    others = [e for e in before.exemplars if e.class_id not in brought]
    assert [e for e in after.exemplars if e.class_id not in brought] == others


def test_it_is_compared_with_what_the_base_said_of_old_and_new_images(grown: Grown) -> None:
    before, after = grown.states
    report, network = Report.read(grown.extended.report_path), open_network(before, "cpu")
    episode = grown.open("episodes", grown.folders[1], grown.more)
    assert report.against_base.keys() == {"stripes", "bars", "stripes-2"}
    for i, task in enumerate(episode.tasks):
        asker = Asker(network, episode.cache, grown.stream.fetch, grown.params.run.batch_size)
        said = asker.ask(FeatureQuery.of_centers(task.test), with_texture=True)
        merged, true = torch.tensor(before.classes.multi_real()), torch.tensor(before.classes.ids(task.test))
        was = (merged[before.classes_of(*said)] == merged[true]).double().mean()
        paired = report.against_base[task.name]
        assert after.accuracy[2][i] - float(was) == pytest.approx((paired.only_after - paired.only_before) / 12)


def test_it_is_the_same_again_also_when_cut_off_and_opened_anew(grown: Grown) -> None:
    grown.open("again", grown.folders[1], grown.more).fit()
    episode = grown.open("again", grown.folders[1], grown.more)
    episode.herd()
    episode = grown.open("again", grown.folders[1], grown.more)
    learn_episode(episode)
    assert state_digest(episode.folder.state_dir) == state_digest(grown.extended.state_dir)


def test_the_next_task_and_a_second_extension_grow_from_it(grown: Grown) -> None:
    checks = grown.learn("episodes", grown.extended, grown.stream.tasks[2])
    state = load_state(checks.state_dir)
    assert [branch.task for branch in state.branches] == ["bars", "stripes", "checks"]
    third = grown.stream.write(grown.home / "data", 1, "bars-2", seed=11).as_more_of(grown.stream.tasks[1])
    grown.stream.tasks.append(third)
    last = load_state(grown.learn("episodes", checks, third).state_dir)
    assert [branch.task for branch in last.branches] == ["stripes", "checks", "bars"]
    assert last.extensions == {"stripes-2": "stripes", "bars-2": "bars"}
    assert len(last.accuracy[-1]) == 5


def test_an_extension_of_what_is_not_known_is_refused(grown: Grown) -> None:
    first, more = grown.folders[0], grown.stream.write(grown.home / "data", 1, "bars-9", seed=12)
    more = more.as_more_of(grown.stream.tasks[1])
    grown.stream.tasks.append(more)
    with pytest.raises(StateError, match="more images of 'bars', whose classes the champion does not know"):
        grown.open("unknown", first, more)
