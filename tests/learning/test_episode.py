"""Episodes as a pure function: what changes, what may not, and that every run gives the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lorax.data.images import Images
from lorax.errors import BackboneError, StateError
from lorax.learning.episode import Episode, learn_episode
from lorax.learning.folder import EpisodeFolder, Report
from lorax.learning.state import check_learnable, open_network
from lorax.learning.state_files import load_state, state_digest
from lorax.network.building import import_timm
from lorax.network.network import Network
from lorax.params import Params, RobustnessParams
from lorax.stream import DataRevision
from tests.learning.conftest import Learn, Stream, learn_one, opened, plan_of

pytestmark = pytest.mark.slow


def test_an_episode_adds_a_branch_its_classes_a_row_and_exemplars(learned: list[EpisodeFolder]) -> None:
    for k, folder in enumerate(learned):
        state = load_state(folder.state_dir)
        assert len(state.branches) == len(state.tasks) == k + 1
        assert state.head_weight.shape == (2 * (k + 1), 16 * (k + 1))
        assert [len(row) for row in state.accuracy] == list(range(1, k + 2))
        assert len(state.exemplars) == 12 // (2 * (k + 1)) * 2 * (k + 1)
        assert state.parent == (state_digest(learned[k - 1].state_dir) if k else None)


def test_old_branches_stay_byte_identical(learned: list[EpisodeFolder]) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        files = [folder.state_dir / "branches/00-stripes" / name for folder in learned]
        assert len({f.read_bytes() for f in files}) == 1


def test_old_exemplars_keep_their_rank_and_shrink_to_a_prefix(learned: list[EpisodeFolder]) -> None:
    before, after = (load_state(folder.state_dir).exemplars for folder in learned[1:3])
    kept = [e for e in after if e.class_id < 4]
    assert kept == [e for e in before if e.rank < 2]


def test_the_report_agrees_with_the_state(learned: list[EpisodeFolder]) -> None:
    report, state = Report.read(learned[2].report_path), load_state(learned[2].state_dir)
    assert tuple(report.accuracy[task.name] for task in state.tasks) == state.accuracy[2]
    assert [row.epoch for row in report.curves] == [0, 1]
    assert sum(map(sum, report.confusion)) == 3 * 12
    assert report.lora_modules == 4
    assert report.trainable_parameters == sum(w.numel() for w in state.branches[2].weights.values())
    assert {"prepare", "train", "herd", "evaluate"} == report.seconds.keys()
    assert report.tested == {task.name: task.digest for task in state.tasks}


def test_the_paired_comparison_agrees_with_both_states(learned: list[EpisodeFolder]) -> None:
    report = Report.read(learned[2].report_path)
    before, after = (load_state(folder.state_dir).accuracy for folder in learned[1:3])
    assert report.against_base.keys() == {"stripes", "bars"}
    for i, name in enumerate(("stripes", "bars")):
        paired = report.against_base[name]
        change = (paired.only_after - paired.only_before) / paired.images
        assert change == pytest.approx(after[2][i] - before[1][i])
        detected = report.detection_against_base[name]
        first = Report.read(learned[1].report_path).binary_accuracy[name]
        change = (detected.only_after - detected.only_before) / detected.images
        assert change == pytest.approx(report.binary_accuracy[name] - first)


def test_the_same_episode_again_gives_the_same_state(
    learn: Learn, learned: list[EpisodeFolder], tmp_path: Path
) -> None:
    again = learn(tmp_path, learned[0].state_dir, 1)
    assert state_digest(again.state_dir) == state_digest(learned[1].state_dir)


def test_fresh_processes_give_the_same_states_as_one(
    learned: list[EpisodeFolder], stream, params: Params, tmp_path: Path
) -> None:
    script = tmp_path / "one_episode.py"
    script.write_text(
        "import json, sys\n"
        "from pathlib import Path\n"
        "from lorax.params import Params\n"
        "from tests.learning.conftest import Stream, learn_one\n"
        "home, data, base, k, params = json.loads(sys.argv[1])\n"
        "base = Path(base) if base else None\n"
        "print(learn_one(Stream(Path(data)), Params.model_validate(params), Path(home), base, k).state_dir)\n"
    )
    base = ""
    for k in range(2):
        argument = json.dumps([str(tmp_path / "home"), str(tmp_path / "data"), base, k, params.model_dump(mode="json")])
        done = subprocess.run(
            [sys.executable, script, argument],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 0, done.stderr
        base = done.stdout.strip().splitlines()[-1]
        assert state_digest(Path(base)) == state_digest(learned[k].state_dir)


def test_steps_that_are_done_are_not_done_again(
    learned: list[EpisodeFolder], stream, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("a finished step opened a network")

    monkeypatch.setattr("lorax.learning.episode.open_network", never)
    again = learn_episode(stream.open(learned[1]))
    assert again.accuracy == load_state(learned[1].state_dir).accuracy


def started_from(start: str, learned: list[EpisodeFolder], stream, params: Params, home: Path) -> EpisodeFolder:
    plan = replace(plan_of(learned[0].state_dir, stream.tasks[1], params), start=start)
    folder = EpisodeFolder.open(home, plan)
    learn_episode(stream.open(folder))
    return folder


def test_a_branch_may_start_from_another_and_the_state_says_so(
    learned: list[EpisodeFolder], stream, params: Params, tmp_path: Path
) -> None:
    rates = {"learning_rate": 1e-9, "warmup_rate": 1e-9, "minimum_rate": 0.0}
    hardly = params.model_copy(update={"training": params.training.model_copy(update=rates)})
    old, new = load_state(started_from("stripes", learned, stream, hardly, tmp_path).state_dir).branches
    assert (old.start, new.start) == (None, "stripes")
    for name, value in new.weights.items():
        torch.testing.assert_close(value, old.weights[name], atol=1e-6, rtol=0)
    fresh = load_state(learned[1].state_dir).branches[1]
    assert any(not torch.allclose(v, old.weights[n], atol=1e-6, rtol=0) for n, v in fresh.weights.items())


def test_a_start_that_the_state_does_not_know_is_refused(
    learned: list[EpisodeFolder], stream, params: Params, tmp_path: Path
) -> None:
    with pytest.raises(StateError, match="that of task 'dots': the learner state has stripes"):
        started_from("dots", learned, stream, params, tmp_path)


def test_a_known_task_is_refused(learned: list[EpisodeFolder], stream, params: Params, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="in the learner state already"):
        opened(stream, params, tmp_path, learned[0].state_dir, 0)


def test_a_first_task_without_reals_is_refused(stream, params: Params, tmp_path: Path) -> None:
    task = stream.tasks[0]
    fakes = replace(
        task, classes=task.classes[1:], train=tuple(s for s in task.train if s.class_index), test=task.test[:0]
    )
    folder = EpisodeFolder.open(tmp_path, plan_of(None, fakes, params))
    with pytest.raises(StateError, match="brings no real images"):
        Episode.open(folder, lambda _: fakes, stream.fetch)


def test_another_backbone_than_the_states_is_refused(
    learned: list[EpisodeFolder], stream: Stream, params: Params
) -> None:
    other = params.model_copy(update={"backbone": params.backbone.model_copy(update={"crop": 32})})
    with pytest.raises(StateError, match="Branches fit one backbone only"):
        check_learnable(load_state(learned[0].state_dir), stream.tasks[1], other)


def test_an_interrupted_episode_keeps_its_revision_and_takes_what_else_the_run_says(
    stream: Stream, params: Params, tmp_path: Path
) -> None:
    plan = plan_of(None, stream.tasks[0], params)
    first = EpisodeFolder.open(tmp_path, replace(plan, parameters=params.learning()))  # as before plans held them all
    asked = params.model_copy(update={"robustness": RobustnessParams(per_class=7)})
    newer = replace(plan_of(None, stream.tasks[0], asked), revision=DataRevision("newer", "later"))
    later = EpisodeFolder.open(tmp_path, newer)
    assert later.root == first.root
    assert later.plan().revision == DataRevision("root", "commit")
    assert later.plan().params == asked


def test_a_loaded_network_predicts_what_the_episode_scored(learned: list[EpisodeFolder], stream) -> None:
    state = load_state(learned[2].state_dir)
    network = open_network(state, "cpu")
    task = stream.tasks[2]
    images = Images.load(task.test, stream.fetch(task.test), network.crop)
    predicted = network.predict(images.batch(range(len(images)), images.center()[:, 0])).argmax(dim=1)
    merged = torch.tensor(state.classes.multi_real())
    right = merged[predicted] == merged[torch.tensor(state.classes.ids(task.test))]
    assert right.double().mean() == pytest.approx(state.accuracy[2][2])


def test_an_old_branch_is_asked_only_of_new_images(
    learn: Learn, learned: list[EpisodeFolder], stream, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(tmp_path, None, 0)
    learn(tmp_path, learned[0].state_dir, 1)
    asked: list[int] = []
    features = Network.features

    def spied(network: Network, images: torch.Tensor, branches: range) -> torch.Tensor:
        asked.extend(branches)
        return features(network, images, branches)

    monkeypatch.setattr(Network, "features", spied)
    episode = opened(stream, params, tmp_path, learned[1].state_dir, 2)

    def batches_asked(step: Callable[[], None]) -> list[int]:
        asked.clear()
        step()
        return [asked.count(k) for k in range(3)]

    assert batches_asked(episode.grow) == [0, 0, 0]
    assert len(episode.base.exemplars) == 12
    # Batches of 8: two views of 24 new images; those of 12 exemplars, equal ones once, about which branch 0 was asked
    # in episode 1, in which branch 1 itself learned; and when branch 2 has learned, each new image's view for herding.
    assert batches_asked(episode.fit) == [6, 6 + 2, 3]
    assert batches_asked(episode.herd) == [0, 0, 0]
    # 6 held-out images, and 12 old ones by the new branch alone; 12 new test images, and 24 old ones likewise
    assert batches_asked(episode.calibrate) == [1, 1, 1 + 2]
    assert batches_asked(episode.score) == [2, 2, 2 + 3]
    assert state_digest(episode.folder.state_dir) == state_digest(learned[2].state_dir)


def test_a_resumed_episode_finds_what_was_computed_before(
    learn: Learn, learned: list[EpisodeFolder], stream, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = learn(tmp_path, learned[1].state_dir, 2)
    for path in (folder.state_dir, folder.trained_dir):
        shutil.rmtree(path)
    folder.exemplars_path.unlink()

    def never(*arguments: object) -> None:
        raise AssertionError("a frozen branch was asked again")

    monkeypatch.setattr(Network, "features", never)
    assert state_digest(learn(tmp_path, learned[1].state_dir, 2).state_dir) == state_digest(learned[2].state_dir)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"calibration": {"per_class": 3}}, r"no patch embedding and blocks of one width"),
        ({"lora": {"targets": [r".*cpb_mlp\.2"]}}, r"can't learn in 2 of the 2 layers"),
        ({"backbone": {"crop": 48}}, r"can't look at images of 48 x 48 pixels"),
    ],
)
def test_a_backbone_that_can_not_do_what_is_asked_is_refused_before_an_image_is_read(
    stream: Stream, params: Params, tmp_path: Path, values: dict[str, dict[str, object]], message: str
) -> None:
    arguments = {"img_size": 64, "window_size": 2, "depths": [2], "embed_dim": 32, "num_heads": [2]}
    weights = tmp_path / "swin.safetensors"
    model = import_timm().create_model("swinv2_tiny_window8_256", num_classes=0, **arguments)
    for parameter in model.parameters():  # its norms begin at zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    safetensors.torch.save_file(model.state_dict(), weights)
    backbone = {"name": "swinv2_tiny_window8_256", "weights": str(weights), "arguments": arguments, "crop": 64}
    raw = {"backbone": backbone, "lora": {"rank": 2, "targets": [".*qkv"]}, "run": {"device": "cpu", "threads": 1}}
    chosen = Params.model_validate({k: {**raw.get(k, {}), **values.get(k, {})} for k in raw | values})
    folder = EpisodeFolder.open(tmp_path, plan_of(None, stream.tasks[0], chosen))
    episode = Episode.open(folder, lambda _: stream.tasks[0], lambda samples: pytest.fail("asked for images"))
    with pytest.raises(BackboneError, match=message):
        episode.grow()


def test_a_head_of_the_texture_is_the_same_whatever_the_memory_holds_and_goes_on_with_its_solver_only(
    stream: Stream, params: Params, tmp_path: Path
) -> None:
    sections = params.model_dump() | {"head": {"solver": "ridge", "perturbations": ["jpeg", "webp"]}}
    states = []
    for budget in (0, 12):
        ridge = Params.model_validate(sections | {"exemplars": {"budget": budget}})
        first = learn_one(stream, ridge, tmp_path / f"{budget}-0", None, 0)
        second = learn_one(stream, ridge, tmp_path / f"{budget}-1", first.state_dir, 1)
        states.append(load_state(second.state_dir))
    held = len(states[0].calibration_memory)
    images = {"clean": 0, "jpeg": 0, "webp": 0}
    for kind in images:
        none, some = (state.statistics[kind] for state in states)
        assert torch.equal(none.scatter, some.scatter) and torch.equal(none.means, some.means)
        images[kind] = int(none.counts.sum())
    assert images["clean"] == 2 * 30 - held and held > 0, "held-out images are not among the sums"
    assert images["jpeg"] + images["webp"] == images["clean"] and min(images.values()) > 10, "each is perturbed once"
    weights = [state.texture_head.weight[0] for state in states if state.texture_head]
    torch.testing.assert_close(*(weight / weight.norm() for weight in weights))
    with pytest.raises(StateError, match=r"head\.solver is gradient, but the learner state of stripes, bars was"):
        learn_one(stream, params, tmp_path / "other", second.state_dir, 2)
    fewer = Params.model_validate(sections | {"head": {"solver": "ridge"}})
    with pytest.raises(
        StateError, match=r"head\.perturbations is \[\], but .* Set head\.perturbations: \[\"jpeg\", \"webp\"\]"
    ):
        learn_one(stream, fewer, tmp_path / "fewer", second.state_dir, 2)


def test_what_training_left_and_is_damaged_is_one_clear_error_before_anything_is_written(
    stream: Stream, params: Params, tmp_path: Path
) -> None:
    ridge = Params.model_validate(params.model_dump() | {"head": {"solver": "ridge"}})
    episode = opened(stream, ridge, tmp_path, None, 0)
    episode.fit()
    folder = episode.folder
    names = ("head.safetensors", "adapter_model.safetensors", "adapter_config.json", "statistics.safetensors")
    for path in (folder.trained_dir / name for name in names):
        whole = path.read_bytes()
        for damage in (lambda p: p.write_bytes(p.read_bytes()[:20]), Path.unlink):
            damage(path)
            with pytest.raises(StateError, match=rf"{path.name} is damaged .* run again"):
                stream.open(folder).herd()
            path.write_bytes(whole)
    assert not folder.exemplars_path.exists()
