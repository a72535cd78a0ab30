"""The atlas on disk: whole or not at all, each adapter once, and nearest first."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lorax.atlas import adding
from lorax.atlas.adapter import Adapter
from lorax.atlas.descriptor import Describer
from lorax.atlas.index import Atlas, remove
from lorax.atlas.record import Record
from lorax.atlas.searching import search
from lorax.errors import AdapterError, AtlasError, StorageError
from tests.atlas.made import PLACES, adapter, layers_of, made, zoo

ROOT = Path(__file__).parents[2]


@pytest.fixture
def atlas(tmp_path: Path) -> Atlas:
    return Atlas.open(tmp_path / "atlas")


@pytest.fixture(scope="module")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "atlas"
    Atlas.open(folder).add(*zoo(4, 6))
    return folder


@pytest.fixture
def filled(_filled: Path, tmp_path: Path) -> Atlas:
    """Four families of six, f0-0 to f3-5, in an atlas of one's own."""
    folder = tmp_path / "filled"
    subprocess.run(["cp", "-r", _filled, folder], check=True)
    return Atlas.open(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(atlas: Atlas) -> list[str]:
    return [entry.name for entry in atlas.entries]


def turned(of: Adapter, name: str) -> Adapter:
    """The same adapter in other numbers: (R⁻¹ A, B R)."""
    turn = torch.tensor([[2.0, 1.0], [0.5, 1.5]])
    return adapter(name, [(torch.linalg.inv(turn) @ a, b @ turn) for a, b in of.factors()], of.layers)


def test_what_was_added_is_there_when_the_atlas_is_opened_again(atlas: Atlas) -> None:
    adapters, labels = zoo(2, 2)
    added = atlas.add(adapters, labels)
    again = Atlas.open(atlas.folder)
    assert again.entries == atlas.entries == added
    assert names(again) == ["f0-0", "f0-1", "f1-0", "f1-1"]
    table = again.table()
    assert list(table["label"]) == ["f0", "f0", "f1", "f1"]
    assert set(table["rank"]) == {2}
    expected = again.describer.describe(adapters[2].factors())["product"].numpy()
    assert np.array_equal(again.row("f1-0"), expected)
    assert np.array_equal(again.frame().loc["f1-0"], expected)
    assert again.entries[2].length == pytest.approx(float(np.linalg.norm(expected)))
    assert again.frame("spectrum", "feed-forward").shape == (4, 6 * 9)


def test_the_nearest_entries_are_of_the_family_with_few_entries_and_with_many(atlas: Atlas) -> None:
    atlas.add(*zoo(2, 3))
    assert atlas.view().basis is None
    assert "plain cosine, since 6 entries are too few" in atlas.view().described
    for _ in range(2):
        assert {n.name for n in search(atlas, "f1-0", 2).neighbours} == {"f1-1", "f1-2"}
        found = search(atlas, made("another of family 1", 1, 9), 3).neighbours
        assert {n.name for n in found} == {"f1-0", "f1-1", "f1-2"}
        assert [n.similarity for n in found] == sorted((n.similarity for n in found), reverse=True)
        assert {n.label for n in found} == {"f1"}
        atlas.add(
            [made(f"f{family}-{member}", family, member) for family in range(2, 8) for member in range(3)],
            missing_only=True,
        )
    assert "components fitted on 24 entries" in atlas.view().described
    assert len(search(atlas, "f1-0", 100).neighbours) == 23


def test_an_adapter_of_the_atlas_is_its_own_nearest_neighbour(filled: Atlas) -> None:
    [nearest] = search(filled, made("again", 2, 3), 1, "spectrum").neighbours
    assert (nearest.name, round(nearest.similarity, 5)) == ("f2-3", 1)


@pytest.mark.parametrize(
    ("offered", "why"),
    [
        (made("copy", 1, 2), "copy.safetensors is in the atlas already, number for number, as 'f1-2'"),
        (turned(made("f1-2", 1, 2), "turned"), "as 'f1-2': other factors, but their product B A is the same"),
        (made("more", 0, 7, layers=layers_of(places=PLACES[1:])), "adapts 11 layers, the atlas's adapters 12"),
        (made("other base", 0, 7, base="sd15"), "states the base model 'sd15', the atlas's adapters 'vit'"),
        (adapter("untrained", [(a, 0 * b) for a, b in made("x").factors()], layers_of()), "B A is zero in every layer"),
        (adapter("NaN", [(a, b * torch.nan) for a, b in made("x").factors()], layers_of()), "NaN or infinite"),
        (adapter("huge", [(a * 1e30, b * 1e30) for a, b in made("x").factors()], layers_of()), "numbers are too large"),
    ],
    ids=lambda v: v.name if isinstance(v, Adapter) else "",
)
def test_what_is_refused_leaves_the_atlas_as_it_was(filled: Atlas, offered: Adapter, why: str) -> None:
    filled.add([made("first", 7, base="vit")])
    before = files(filled.folder)
    with pytest.raises(AdapterError) as caught:
        filled.add([offered])
    assert why in str(caught.value)
    with pytest.raises(AdapterError, match="1 was refused, so nothing was added") as caught:
        filled.add([offered, made("good", 8)])
    assert why in str(caught.value)
    assert files(filled.folder) == before
    assert names(filled) == names(Atlas.open(filled.folder))


def test_one_infinite_number_is_told_by_its_layer(filled: Atlas) -> None:
    factors, layers = made("one").factors(), layers_of()
    factors[5][0][1, 3] = -torch.inf
    with pytest.raises(AdapterError, match=rf"one\.safetensors: model\.{layers[5].name} holds NaN or infinite"):
        filled.add([adapter("one", factors, layers)])


def test_keep_going_adds_the_others_and_names_every_bad_one(filled: Atlas) -> None:
    with filled.adding(keep_going=True) as newcomers:
        for offered in (made("copy", 1, 2), made("good", 8), made("good too", 9), made("twice", 8)):
            with newcomers.judging():
                newcomers.offer(offered)
    assert names(filled)[-2:] == ["good", "good too"]
    assert ["f1-2" in newcomers.refused[0], "'good'" in newcomers.refused[1]] == [True, True]
    assert len(newcomers.refused) == 2


def test_an_adapter_whose_length_differs_is_another_one(filled: Atlas) -> None:
    stronger = adapter("stronger", [(a, 1.01 * b) for a, b in made("f1-2", 1, 2).factors()], layers_of())
    assert [entry.name for entry in filled.add([stronger])] == ["stronger"]


def test_a_rank_of_its_own_is_no_reason_to_refuse(filled: Atlas) -> None:
    wide = adapter(
        "wide", [(torch.cat([a, a]), torch.cat([b, b], 1)) for a, b in made("x", 0, 8).factors()], layers_of(4)
    )
    filled.add([wide])
    assert filled.entry("wide").rank == 4
    assert search(filled, "wide", 1).neighbours[0].label == "f0"


def test_factors_are_kept_where_the_first_add_asked_for_them(atlas: Atlas, filled: Atlas) -> None:
    first = made("first")
    with atlas.adding(with_factors=True) as newcomers:
        newcomers.offer(first)
    expected = torch.cat([factor.flatten() for pair in first.factors() for factor in pair])
    assert np.array_equal(atlas.row("first", "factors"), expected.numpy())
    with pytest.raises(AdapterError, match="rank 4"):
        atlas.add([made("wide", rank=4)])
    with pytest.raises(AdapterError, match="rank 4"):
        search(atlas, made("wide", rank=4), descriptor="factors")
    for descriptor in ("product", "spectrum"):
        assert [n.name for n in search(atlas, made("wide", rank=4), descriptor=descriptor).neighbours] == ["first"]
    with pytest.raises(AtlasError, match="keeps no factors"), filled.adding(with_factors=True):
        pass
    with pytest.raises(AtlasError, match="keeps no 'factors', but product, spectrum"):
        filled.view("factors")


def test_a_name_that_is_taken_gets_the_digest_behind_it(filled: Atlas) -> None:
    [second] = filled.add([made("f0-0", 9)])
    assert second.name == f"f0-0@{second.digest[:8]}"
    assert filled.entry(second.name) == second
    [odd] = filled.add([made("new\nline\x1b[31m\udcff", 10)])
    assert odd.name == "new\\nline\\x1b[31m\\udcff"


def test_adding_what_is_missing_may_be_repeated(filled: Atlas) -> None:
    adapters, labels = zoo(5, 6)
    assert [entry.label for entry in filled.add(adapters, labels, missing_only=True)] == ["f4"] * 6
    before = files(filled.folder)
    assert filled.add(adapters, labels, missing_only=True) == []
    assert files(filled.folder) == before


def test_the_first_base_that_is_stated_binds_all_that_state_one(atlas: Atlas) -> None:
    atlas.add([made("silent"), made("sd15", 1, base="sd15"), made("silent too", 2)])
    assert Atlas.open(atlas.folder).base == "sd15"
    with pytest.raises(AdapterError, match="states the base model 'sdxl'"):
        atlas.add([made("sdxl", 3, base="sdxl")])
    with pytest.raises(AdapterError, match=r"states the base model 'sdxl'.*--descriptor spectrum"):
        search(atlas, made("sdxl", 3, base="sdxl"))


def test_other_layers_are_compared_through_pooled_spectra_only(filled: Atlas) -> None:
    other = made("other", 2, layers=layers_of(3, [(f"layers_{i}_to_q", 20 + i, 16) for i in range(5)]))
    with pytest.raises(AdapterError, match="--descriptor spectrum"):
        search(filled, other, 1)
    assert len(search(filled, other, 3, "pooled").neighbours) == 3
    with pytest.raises(AtlasError, match="are of all layers, not of late"):
        search(filled, other, 3, "pooled", "late")
    [nearest] = search(filled, made("again", 2, 3), 1, "pooled").neighbours
    assert (nearest.name, round(nearest.similarity, 4)) == ("f2-3", 1)


@pytest.mark.parametrize("descriptor", ["product", "spectrum", "pooled"])
def test_what_is_zero_or_too_large_is_not_compared(filled: Atlas, descriptor: str) -> None:
    factors = made("x").factors()
    with pytest.raises(AdapterError, match="B A is zero in every layer"):
        search(filled, adapter("untrained", [(a, 0 * b) for a, b in factors], layers_of()), descriptor=descriptor)
    with pytest.raises(AdapterError, match="numbers are too large"):
        search(filled, adapter("huge", [(a * 1e30, b * 1e30) for a, b in factors], layers_of()), descriptor=descriptor)


def test_where_as_many_components_as_columns_are_fitted_nothing_lies_outside(atlas: Atlas) -> None:
    one = PLACES[:1]
    atlas.add([made(str(i), i, layers=layers_of(2, one)) for i in range(24)])
    atlas.add([made("new", 99, layers=layers_of(2, one))])
    view = atlas.view("spectrum")
    assert view.basis is not None
    assert (view.limit, view.residual_of(24), view.is_drifting([24])) == (None, None, False)


def test_segments_are_bounded_and_duplicates_are_found_across_them(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "_SEGMENT_ENTRIES", 3)
    adapters, labels = zoo(4, 2)
    with pytest.raises(AdapterError, match="as 'f0-0': other factors"):
        atlas.add([*adapters, turned(adapters[0], "turned")])
    assert not list((atlas.folder / "segments").iterdir())
    with pytest.raises(AdapterError, match="as 'f3-1': other factors"):
        atlas.add([*adapters, turned(adapters[-1], "turned")])
    atlas.add(adapters, labels)
    record = json.loads((atlas.folder / "atlas.json").read_text())
    assert [segment["count"] for segment in record["segments"]] == [3, 3, 2]
    assert names(Atlas.open(atlas.folder)) == [a.name for a in adapters]
    assert np.array_equal(atlas.row("f3-1"), atlas.frame().loc["f3-1"])


def test_newcomers_are_placed_in_the_basis_that_was_fitted_and_drift_is_seen(filled: Atlas) -> None:
    before = filled.view().basis
    filled.add([made("near", 1, 9)])
    assert not filled.view().is_drifting([24])
    filled.add([made("far", 9), made("far too", 10)])
    view = Atlas.open(filled.folder).view()
    assert before is not None
    assert view.basis is not None
    assert np.array_equal(view.basis.components, before.components)
    assert view.is_drifting([25, 26])
    assert "outside" in view.refit_advice([25, 26])
    assert view.refit_advice([24]) == ""
    filled.add([made(f"more {i}", i % 4, 10 + i) for i in range(21)])
    assert filled.view().refit_advice(range(27, 48)) == "the basis was fitted on 24 of now 48 entries"
    assert view.residuals[25] > view.basis.limit > view.residuals[24]
    vector, residual = view.place(filled.row("far"))
    assert np.allclose(vector, view.vectors[25], atol=1e-5)
    assert residual == pytest.approx(view.residuals[25], abs=1e-6)
    fitted = filled.fit(dims=4)
    assert fitted.vectors.shape == (48, 4)
    assert np.array_equal(Atlas.open(filled.folder).view().vectors, fitted.vectors)


@pytest.mark.parametrize("harm", ["removed", "damaged", "a folder", "of other segments"])
def test_what_is_derived_is_made_again_when_it_cannot_be_used(filled: Atlas, harm: str) -> None:
    vectors = filled.view().vectors
    path = filled.folder / "bases" / "product-all.safetensors"
    if harm == "removed":
        path.unlink()
    elif harm == "a folder":
        path.unlink()
        path.mkdir()
    elif harm == "damaged":
        data = bytearray(path.read_bytes())
        data[-3] ^= 4
        path.write_bytes(data)
    else:
        record = json.loads((filled.folder / "atlas.json").read_text())
        named = filled.folder / "segments" / record["segments"][0]["name"]
        record["segments"][0]["name"] = "000009-0123abcd"
        named.rename(named.with_name("000009-0123abcd"))
        (filled.folder / "atlas.json").write_text(json.dumps(record))
    again = Atlas.open(filled.folder).view()
    assert np.array_equal(again.vectors, vectors)
    assert np.array_equal(Atlas.open(filled.folder).view().vectors, vectors)


def test_an_atlas_of_another_sketch_seed_is_searched_by_its_own(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    other = partial(Describer, seed=7)
    other.from_record = Describer.from_record  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(adding, "Describer", other)
        atlas.add(*zoo(3, 1))
    again = Atlas.open(atlas.folder)
    assert again.describer.seed == 7
    assert search(again, made("again", 1, 0), 1).neighbours[0].similarity == pytest.approx(1, abs=1e-5)


def test_a_killed_add_leaves_nothing_that_counts_and_the_next_one_tidies_up(filled: Atlas) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom lorax.atlas.index import Atlas\n"
        "from tests.atlas.made import made\n"
        "with Atlas.open(Path(sys.argv[1])).adding() as newcomers:\n"
        "    newcomers.offer(made('lost', 9))\n    newcomers._flush()\n    os.kill(os.getpid(), 9)\n"
    )
    before = names(filled)
    done = subprocess.run([sys.executable, "-c", code, filled.folder], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((filled.folder / "segments").iterdir())) == 2
    again = Atlas.open(filled.folder)
    assert names(again) == before
    again.add([made("lost", 9)])
    assert len(list((filled.folder / "segments").iterdir())) == 2
    assert names(Atlas.open(filled.folder)) == [*before, "lost"]


def test_an_interruption_right_after_the_atlas_was_written_takes_nothing_back(
    filled: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Record.write

    def interrupted(record: Record, atlas_dir: Path) -> None:
        write(record, atlas_dir)
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        filled.add([made("new", 9)])
    again = Atlas.open(filled.folder)
    assert names(again)[-1] == "new"
    assert len(again.row("new")) == len(again.row("f0-0"))


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 8 KB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_atlas_as_it_was_and_can_be_searched(filled: Atlas) -> None:
    before = files(filled.folder)
    with full_disk():
        with pytest.raises(StorageError, match="Nothing was changed"):
            filled.add([made("new", 9)])
        assert search(filled, "f0-0", 1).neighbours[0].label == "f0"
    assert files(filled.folder) == before


def test_a_fit_that_cannot_be_kept_is_no_success(filled: Atlas) -> None:
    with full_disk(), pytest.raises(StorageError, match="Nothing was changed"):
        filled.fit()


def test_of_two_adds_at_once_one_waits_and_both_are_kept(filled: Atlas) -> None:
    waits = threading.Event()

    def add_other() -> None:
        with Atlas.open(filled.folder).adding(on_wait=waits.set) as newcomers:
            newcomers.offer(made("f0-0", 9))

    with filled.adding() as newcomers:
        newcomers.offer(made("first", 10))
        thread = threading.Thread(target=add_other)
        thread.start()
        assert waits.wait(10)
    thread.join(10)
    found = names(Atlas.open(filled.folder))
    assert found[24] == "first"
    assert found[25].startswith("f0-0@")


@pytest.mark.parametrize("kind", ["entries.csv", "product.safetensors"])
@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_damage_is_refused_and_named(filled: Atlas, kind: str, harm: str) -> None:
    [path] = filled.folder.glob(f"segments/*/{kind}")
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(AtlasError) as caught:
        search(Atlas.open(filled.folder), "f0-0")
    assert str(path) in str(caught.value)
    assert {"missing": "it is missing", "damaged": "its sha256 is"}[harm] in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"format": 99, "anything": []}', "is of format 99; this version of lorax reads 1"),
        ('{"format": 1, "segm', "is damaged"),
        ('{"format": 1}', "is damaged (describer: Field required, and 3 more)"),
        ("[]", "is damaged"),
        (
            '{"format": 1, "segments": [], "describer": {"layers": 3}, "base": "", "revision": 1}',
            "is damaged (describer.layers: Input should be a valid array, and 3 more)",
        ),
        (
            '{"format": 1, "segments": [], "describer": null, "base": "", "revision": "x"}',
            "revision: Input should be a valid integer",
        ),
        (
            '{"format": 1, "base": "", "describer": null, "segments": [{"name": 1, "count": 1, "files": {}}]}',
            "segments.0.name: Input should be a valid string",
        ),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(filled: Atlas, text: str, why: str) -> None:
    (filled.folder / "atlas.json").write_text(text)
    with pytest.raises(AtlasError) as caught:
        Atlas.open(filled.folder)
    assert why in str(caught.value)
    with pytest.raises(AtlasError):
        filled.add([made("new", 9)])


def test_a_record_of_another_sketch_than_the_rows_is_refused(filled: Atlas) -> None:
    path = filled.folder / "atlas.json"
    path.write_text(path.read_text().replace('"side": 32', '"side": 4'))
    for doing in (lambda: search(Atlas.open(filled.folder), "f0-0"), lambda: filled.add([made("new", 9)])):
        with pytest.raises(AtlasError, match=r"its rows have 12288 numbers, 192 by atlas\.json"):
            doing()


def test_a_lock_that_cannot_be_written_is_named(filled: Atlas) -> None:
    (filled.folder / "atlas.lock").unlink()
    (filled.folder / "atlas.lock").mkdir()
    with pytest.raises(StorageError, match=r"could not write .*atlas.lock: Is a directory"):
        filled.add([made("new", 9)])


def test_what_others_put_beside_the_segments_is_let_be(filled: Atlas) -> None:
    beside = filled.folder / "segments"
    (beside / ".DS_Store").touch()
    (beside / "mydata").mkdir()
    (beside / "mydata" / "f").write_text("x")
    filled.add([made("new", 9)])
    assert (beside / "mydata" / "f").read_text() == "x"
    assert names(Atlas.open(filled.folder))[-1] == "new"


def test_segments_whose_record_was_lost_are_not_added_to_but_kept(filled: Atlas) -> None:
    (filled.folder / "atlas.json").unlink()
    before = files(filled.folder)
    with pytest.raises(AtlasError, match=r"has segments, but no atlas\.json"):
        filled.add([made("new", 9)])
    with pytest.raises(AtlasError, match=r"Bring atlas\.json back"):
        Atlas.open(filled.folder)
    assert files(filled.folder) == before


def test_an_atlas_whose_first_add_failed_is_an_empty_one(atlas: Atlas) -> None:
    with pytest.raises(AdapterError):
        atlas.add([made("one"), made("one")])
    assert len(Atlas.open(atlas.folder)) == 0
    atlas.add([made("one")])
    assert names(Atlas.open(atlas.folder)) == ["one"]


def test_a_folder_of_something_else_is_no_atlas(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    with pytest.raises(AtlasError, match=r"is no atlas: it has no atlas.json, but 'photo.png'"):
        Atlas.open(tmp_path)
    with pytest.raises(AtlasError, match="is a file"):
        Atlas.open(tmp_path / "photo.png")


def test_an_empty_atlas_and_an_unknown_name_say_what_to_do(atlas: Atlas, filled: Atlas) -> None:
    with pytest.raises(AtlasError, match="holds nothing yet: 'lorax atlas add PATH'"):
        search(atlas, "gaugan")
    assert not atlas.folder.exists()
    with pytest.raises(AtlasError, match=r"no entry 'f0-00' among its 24. Near it: f0-0"):
        search(filled, "f0-00")
    with pytest.raises(AdapterError, match="no module group 'nonsense'"):
        search(filled, "f0-0", group="nonsense")
    with pytest.raises(AtlasError, match="a basis needs 8"):
        few = Atlas.open(atlas.folder)
        few.add([made("one")])
        few.fit()


def test_what_is_removed_is_in_no_file_and_the_others_are_as_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "atlas"
    assert remove(folder, lambda entry: True) == []
    together = ("beta", "alpha", "gamma", "delta", "epsilon", "zeta", "eta")
    Atlas.open(folder).add([made(name, number) for number, name in enumerate(together)])
    Atlas.open(folder).add([made("beta-2", 7)])
    before = Atlas.open(folder)
    before.fit()
    rows = {name: before.row(name) for name in (*together[1:], "beta-2")}
    assert remove(folder, lambda entry: entry.name == "beta") == ["beta"]
    after = Atlas.open(folder)
    assert [entry.name for entry in after.entries] == list(rows)
    assert all(np.array_equal(after.row(name), row) for name, row in rows.items())
    assert (folder / "bases").exists() is False, "it was fitted to all"
    assert len(search(after, "alpha", 5).neighbours) == 5
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert not any(b"beta," in path.read_bytes() for path in left)
    assert sorted(path.name for path in folder.iterdir()) == ["atlas.json", "atlas.lock", "segments"]
    after.add([made("beta", 0)])
    assert len(after) == 8, "it may come again"
    remove(folder, lambda entry: True)
    assert len(Atlas.open(folder)) == 0
    Atlas.open(folder).add([made("theta", 8, rank=1)])
