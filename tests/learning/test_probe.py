"""Probes: the same images in the same context give the same weights; what the context is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lorax.errors import StateError
from lorax.learning import probe
from lorax.learning.folder import EpisodeFolder
from lorax.learning.probe import Context, kept_probe, known_images, train_probe
from lorax.learning.state import LearnerState
from lorax.learning.state_files import load_state
from lorax.network.building import open_backbone
from lorax.params import Params


@pytest.fixture(scope="module")
def quick(params: Params) -> Params:
    atlas = params.atlas.model_copy(update={"probe_images": 4, "probe_shown": 16})
    return params.model_copy(update={"atlas": atlas})


def test_the_context_takes_the_real_exemplars_that_were_herded_first(
    learned: list[EpisodeFolder], quick: Params
) -> None:
    state = load_state(learned[2].state_dir)
    real = Context.of_state(state, quick).real
    expected = {e.sample.md5 for e in state.exemplars if state.classes.entries[e.class_id].is_real and e.rank == 0}
    assert len(real) == 4
    assert {s.md5 for s in real[:3]} == expected  # one of each task's reals comes before any second


def test_every_known_generator_is_stood_for_by_its_exemplars(learned: list[EpisodeFolder], quick: Params) -> None:
    state = load_state(learned[2].state_dir)
    found = known_images(state, quick)
    assert list(found) == [e.label for e in state.classes.entries if not e.is_real]
    assert all((s.task, s.class_index) == ("bars", 1) for s in found["bars"])


def test_a_probe_is_learned_once_and_found_again(
    learned: list[EpisodeFolder], stream, quick: Params, tmp_path: Path
) -> None:
    state = load_state(learned[2].state_dir)
    context, images = Context.of_state(state, quick), known_images(state, quick)["bars"]
    first = kept_probe(tmp_path, context, images, stream.fetch)

    def fetch(_: object) -> dict[str, Path]:
        raise AssertionError("it is there")

    again = kept_probe(tmp_path, context, images, fetch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    [kept] = tmp_path.glob("*/*")
    (kept / "adapter_model.safetensors").write_bytes(b"damaged")
    anew = kept_probe(tmp_path, context, images, stream.fetch)
    assert all(torch.equal(first[name], anew[name]) for name in first)


def harmed(weights: dict[str, Tensor], harm: str) -> dict[str, Tensor]:
    name, first = next(iter(weights.items()))
    return {
        "not finite": weights | {name: first * torch.nan},
        "another shape": weights | {name: first[:1].contiguous()},
        "another name": {"x": first},
        "integers": weights | {name: first.to(torch.int32)},
    }[harm]


@pytest.mark.parametrize("harm", ["not finite", "another shape", "another name", "integers"])
def test_what_lies_there_and_is_no_probe_is_learned_anew(
    learned: list[EpisodeFolder], quick: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    state = load_state(learned[2].state_dir)
    context, images = Context.of_state(state, quick), known_images(state, quick)["bars"]
    new = replace(state.branches[0], weights=context.start)
    monkeypatch.setattr(probe, "train_probe", lambda *_: (new, []))
    kept_probe(tmp_path, context, images, dict)
    [kept] = tmp_path.glob("*/*/*.safetensors")
    safetensors.torch.save_file(harmed(dict(context.start), harm), kept)
    found = kept_probe(tmp_path, context, images, dict)
    assert all(torch.equal(found[name], weight) for name, weight in context.start.items())
    assert set(found) == set(context.start)


def test_probes_of_contexts_that_were_not_asked_for_long_are_removed(
    learned: list[EpisodeFolder], stream, quick: Params, tmp_path: Path
) -> None:
    state = load_state(learned[2].state_dir)
    context, images = Context.of_state(state, quick), known_images(state, quick)["bars"]
    kept_probe(tmp_path, context, images, stream.fetch)
    [asked] = tmp_path.iterdir()
    old = [tmp_path / f"old-{number}" for number in range(20)]
    for number, path in enumerate(old):
        path.mkdir()
        os.utime(path, (number, number))
    kept_probe(tmp_path, context, images[:1], stream.fetch)
    left = set(tmp_path.iterdir())
    assert asked in left
    assert left - {asked} == set(old[-len(left) + 1 :]), "those asked last stay"
    assert len(list(asked.iterdir())) == 2


def test_a_probe_is_the_same_again_and_another_of_other_images(
    learned: list[EpisodeFolder], stream, quick: Params
) -> None:
    state = load_state(learned[2].state_dir)
    context = Context.of_state(state, quick)
    stripes, bars = (known_images(state, quick)[label] for label in ("stripes", "bars"))
    (first, rows), (again, _) = (train_probe(context, stripes, stream.fetch) for _ in range(2))
    other, _ = train_probe(context, bars, stream.fetch)
    assert all(torch.equal(first.weights[n], again.weights[n]) for n in first.weights)
    assert any(not torch.equal(first.weights[n], other.weights[n]) for n in first.weights)
    assert len(rows) == 16 // (4 + 2) + 1


def test_other_real_images_are_another_context(learned: list[EpisodeFolder], quick: Params) -> None:
    digests = {Context.of_state(load_state(folder.state_dir), quick).digest for folder in learned[1:]}
    assert len(digests) == 2


def test_a_memory_without_real_images_is_an_error(quick: Params) -> None:
    with pytest.raises(StateError, match="no real images"):
        Context.of_state(LearnerState(open_backbone(quick.backbone).identity), quick)
