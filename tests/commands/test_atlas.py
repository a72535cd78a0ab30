"""The commands of `lorax atlas` over real files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from lorax.atlas.adding import Newcomers
from lorax.atlas.index import Atlas
from lorax.cli import app
from lorax.workspace import Workspace
from tests.atlas.made import made
from tests.commands.test_cli import HEAVY, said_and_imported

pytestmark = pytest.mark.slow

STATE = Path(__file__).parents[1] / "learning" / "fixtures" / "state-format-3"
COMMANDS = ("add", "search", "cluster", "map", "compare", "fit", "list")


def write_peft(folder: Path, family: int, member: int, **kwargs: Any) -> Path:
    """A PEFT folder of one of the made adapters; its name is the folder's."""
    of = made(folder.name, family, member, **kwargs)
    folder.mkdir(parents=True)
    tensors, names = {}, set()
    for layer, (a, b) in zip(of.layers, of.factors(), strict=True):
        path = layer.name.replace("_attn_", ".attn.").replace("_mlp_", ".mlp.").replace("blocks_", "blocks.")
        names.add(path)
        prefix = f"base_model.model.{path}"
        tensors |= {f"{prefix}.lora_A.weight": a.contiguous(), f"{prefix}.lora_B.weight": b.contiguous()}
    safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")
    rank = of.layers[0].rank
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": sorted(names)}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": of.base}))
    return folder


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three families of three as PEFT folders, and labels.csv."""
    home = tmp_path_factory.mktemp("loras")
    lines = ["name,label"]
    for family in range(3):
        for member in range(3):
            write_peft(home / f"f{family}-{member}", family, member)
            lines.append(f"f{family}-{member},family {family}")
    (home / "labels.csv").write_text("\n".join([*lines, "f9-9,nobody"]) + "\n")
    return home


@pytest.fixture(scope="module")
def styles(loras: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An atlas of them, to be read only."""
    folder = tmp_path_factory.mktemp("atlas") / "styles"
    record = told("add", str(loras), "--labels", str(loras / "labels.csv"), "--atlas", str(folder))
    assert len(record["added"]) == 9
    assert record["unused labels"] == ["f9-9"]
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def said(*arguments: str, code: int = 0) -> str:
    """What a command prints: on success to stdout, else to both."""
    done = CliRunner().invoke(app, ["atlas", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout if code == 0 else " ".join(done.output.split())


def told(*arguments: str) -> Any:
    return json.loads(said(*arguments, "--json"))


def test_help_is_instant_and_every_command_has_an_example() -> None:
    shown, imported = said_and_imported("atlas", "--help")
    assert all(command in shown for command in COMMANDS)
    assert not imported & {*HEAVY, "mlflow", "pandas", "scipy", "numpy"}
    for command in COMMANDS:
        assert f"lorax atlas {command}" in said(command, "--help")


def test_each_newcomer_is_told_its_nearest_neighbour(loras: Path, tmp_path: Path) -> None:
    atlas = ["--atlas", str(tmp_path / "new")]
    shown = said("add", str(loras / "f0-0"), str(loras / "f0-1"), str(loras / "f1-0"), "--label", "a style", *atlas)
    lines = [line.split() for line in shown.splitlines()]
    assert lines[0] == ["name", "label", "nearest", "its", "label", "similarity"]
    assert lines[1][:4] == ["f0-0", "a", "style", "f0-1"]
    assert "3 added: 3 in" in shown
    assert "plain cosine, since 3 entries are too few" in shown
    record = told("add", str(loras / "f0-2"), *atlas)
    [entry] = record["added"]
    assert entry["nearest"]["name"] in ("f0-0", "f0-1")
    assert (entry["label"], entry["rank"], entry["format"]) == ("", 2, "peft")


def test_newcomers_unlike_the_rest_bring_the_advice_to_refit(tmp_path: Path) -> None:
    for family in range(6):
        for member in range(4):
            write_peft(tmp_path / "many" / f"f{family}-{member}", family, member)
    atlas = ["--atlas", str(tmp_path / "atlas")]
    assert "refit" not in said("add", str(tmp_path / "many"), *atlas)
    shown = said("add", str(write_peft(tmp_path / "like", 1, 9)), *atlas)
    assert "outside the basis" in shown
    assert "refit" not in shown
    shown = said("add", str(write_peft(tmp_path / "unlike", 9, 0)), *atlas)
    assert "A refit is advised, 'lorax atlas fit': the newcomers lie outside what the basis was fitted on" in shown
    assert "fitted on 26 entries" in said("fit", *atlas)
    assert told("fit", "--dims", "5", *atlas)["dims"] == 5
    assert "greater than or equal to 2" in said("fit", "--dims", "1", *atlas, code=2)
    other = str(write_peft(tmp_path / "still other", 11, 0))
    assert "it is unlike what the atlas holds" in said("search", other, *atlas)


def test_one_bad_adapter_refuses_all_unless_the_good_ones_are_wanted(loras: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not at all")
    atlas = ["--atlas", str(tmp_path / "new")]
    paths = [str(loras / "f0-0"), str(tmp_path / "bad.safetensors"), str(tmp_path / "nowhere"), str(loras / "f1-0")]
    shown = said("add", *paths, *atlas, code=1)
    assert "2 were refused, so nothing was added ('--keep-going' adds the other 2)" in shown
    assert "bad.safetensors" in shown
    assert "nowhere" in shown
    assert len(Atlas.open(tmp_path / "new")) == 0
    shown = said("add", *paths, "--keep-going", *atlas, code=1)
    assert shown.count("refused: ") == 2
    assert "2 added: 2 in" in shown
    assert [entry["name"] for entry in told("list", *atlas)] == ["f0-0", "f1-0"]


def test_another_kind_of_adapter_is_told_with_the_share_that_is_lost(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, atlas = tmp_path / "x.safetensors", ["--atlas", str(tmp_path / "new")]
    layer = "lora_unet_mid_block_attn1_to_q"
    tensors = {f"{layer}.diff": torch.randn(200, 200), f"{layer}.diff_b": torch.ones(200)}
    safetensors.torch.save_file(tensors, path)
    assert "x is given as a low-rank change: whole weights without biases, " in said("add", str(path), *atlas)
    (entry,) = told("list", *atlas)
    assert entry["algorithm"] == "whole weights without biases" and 0.01 < entry["lost"] < 0.1


def test_an_add_of_what_is_not_there_leaves_no_atlas_behind(tmp_path: Path) -> None:
    assert "nowhere doesn't exist" in said("add", "nowhere", "--keep-going", "--atlas", "new", code=1)
    assert "empty path" in said("add", "", "--atlas", "new", code=2)
    assert not (tmp_path / "new").exists()


def test_a_path_that_is_told_twice_is_added_once(loras: Path) -> None:
    added = told("add", str(loras / "f0-0"), str(loras), str(loras / "f1-0" / ".." / "f0-0"), "--atlas", "new")["added"]
    assert len(added) == len({entry["name"] for entry in added}) == 9


def test_an_atlas_may_lie_below_the_collection_that_it_is_of(tmp_path: Path) -> None:
    write_peft(tmp_path / "coll" / "one", 0, 0)
    told("add", "coll", "--atlas", "coll/atlas")
    write_peft(tmp_path / "coll" / "two", 1, 0)
    shown = said("add", "coll", "--keep-going", "--atlas", "coll/atlas", code=1)
    assert shown.count("refused: ") == 1
    assert "1 added: 2 in coll/atlas" in shown


def test_labels_may_be_told_by_path_and_a_csv_of_something_else_is_refused(loras: Path, tmp_path: Path) -> None:
    (tmp_path / "paths.csv").write_text(f"label,path\nby path,{os.path.relpath(loras / 'f2-1', tmp_path)}\n")
    (tmp_path / "other.csv").write_text("who,what\n1,2\n")
    atlas = ["--atlas", str(tmp_path / "new")]
    told("add", str(loras / "f2-1"), str(loras / "f0-0"), "--labels", "paths.csv", *atlas)
    assert [entry["label"] for entry in told("list", *atlas)] == ["by path", ""]
    assert "has the columns who, what; expected label, and name or path" in said(
        "add", str(loras), "--labels", "other.csv", *atlas, code=1
    )
    assert "can't be read" in said("add", str(loras), "--labels", "nowhere.csv", *atlas, code=1)
    assert "one of --label" in said("add", str(loras), "--labels", "paths.csv", "--label", "x", *atlas, code=2)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name,label\na,x\nb,z\na,x\na,y\n", "tells two labels of a: x in line 2, y in line 5"),
        ("path,label\na,x\n./a,y\n", "/a: x in line 2, y in line 3"),
        ("name,label\na,x\nb\n", "line 3: b has no label"),
        ("name,label\na,\n", "line 2: a has no label"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused_by_their_lines(
    loras: Path, tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    assert why in said("add", str(loras), "--labels", "labels.csv", "--atlas", "new", code=1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("at", "says", "entries"),
    [(Newcomers, "the atlas is as it was: run the same command again.", 0), (Atlas, "9 were added", 9)],
)
def test_an_interrupted_add_says_whether_it_was_made(
    loras: Path, monkeypatch: pytest.MonkeyPatch, at: type, says: str, entries: int
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(at, "offer" if at is Newcomers else "view", stop)
    assert f"lorax: interrupted; {says}" in said("add", str(loras), "--atlas", "new", code=130)
    assert len(Atlas.open(Path("new"))) == entries


def test_a_query_is_an_entrys_name_or_a_file(styles: Path, loras: Path, tmp_path: Path) -> None:
    atlas = ["--atlas", str(styles)]
    found = told("search", "f1-2", "-k", "2", *atlas)
    assert [near["label"] for near in found["neighbours"]] == ["family 1", "family 1"]
    assert found["in the atlas as"] is None
    found = told("search", str(loras / "f1-2"), "-k", "3", *atlas)
    assert found["in the atlas as"] == found["neighbours"][0]["name"] == "f1-2"
    new = write_peft(tmp_path / "new", 2, 7)
    assert [near["label"] for near in told("search", str(new), "-k", "3", *atlas)["neighbours"]] == ["family 2"] * 3
    lines = said("search", str(new), "--group", "feed-forward", *atlas).splitlines()
    assert lines[0].split() == ["rank", "name", "label", "similarity"]
    assert lines[1].split()[0] == "1"
    assert "product of feed-forward layers: plain cosine" in lines[-1]


def test_what_an_adapter_is_made_of_is_told(styles: Path, loras: Path) -> None:
    atlas = ["--atlas", str(styles)]
    found = told("parts", str(loras / "f1-2"), *atlas)  # a copy of an entry
    assert [(part["name"], round(part["weight"], 3)) for part in found["parts"]] == [("f1-2", 1.0)]
    assert found["told"] == pytest.approx(1, abs=1e-4)
    lines = said("parts", "f1-2", *atlas).splitlines()
    assert lines[0].split() == ["part", "label", "weight", "share"]
    assert lines[-1].endswith("the rest the atlas doesn't hold.")


def test_an_atlas_goes_elsewhere_and_comes_back(styles: Path, tmp_path: Path) -> None:
    assert told("export", str(tmp_path / "far"), "--atlas", str(styles))["entries"] == len(Atlas.open(styles))
    lines = said("import", str(tmp_path / "far"), "--atlas", "back")
    assert lines == f"back: {len(Atlas.open(styles))} entries copied from {tmp_path / 'far'}\n"
    assert Atlas.open(Path("back")).entries == Atlas.open(styles).entries


def test_names_of_strangers_neither_break_lines_nor_fill_tables(tmp_path: Path) -> None:
    write_peft(tmp_path / "many" / ("n" * 240), 0, 0)
    atlas = ["--atlas", "atlas"]
    shown = said("add", "many", *atlas)
    assert "n" * 79 + "…" in shown
    assert "n" * 80 not in shown + said("list", *atlas) + said("cluster", *atlas)
    assert "since 1 entry is too few" in shown
    odd = write_peft(tmp_path / "odd\nline\x1b[31m", 1, 0, layers=made("x").layers[:1])
    for command in (["search", str(odd)], ["compare", str(odd), "n" * 240], ["add", str(odd)]):
        shown = CliRunner().invoke(app, ["atlas", *command, *atlas]).output
        assert "odd\\nline\\x1b[31m adapts 1 layer, the atlas's adapters 12" in shown


def test_a_search_that_cannot_be_says_what_to_do(styles: Path, loras: Path, tmp_path: Path) -> None:
    atlas = ["--atlas", str(styles)]
    assert "has no entry 'f1-22' among its 9. Near it: f1-2" in said("search", "f1-22", *atlas, code=1)
    assert "no module group 'nose'" in said("search", "f1-2", "--group", "nose", *atlas, code=1)
    assert "keeps no 'factors'" in said("search", "f1-2", "--descriptor", "factors", *atlas, code=1)
    assert "holds nothing yet" in said("search", "f1-2", "--atlas", str(tmp_path / "none"), code=1)
    assert "--atlas DIR" in said("search", "f1-2", code=1)
    assert "has no entry 'xxx" in said("search", "x" * 300, *atlas, code=1)
    assert "has no entry ''" in said("search", "", *atlas, code=1)
    other = str(write_peft(tmp_path / "other", 1, 0, layers=made("x").layers[:5]))
    shown = said("search", other, *atlas, code=1)
    assert "adapts 5 layers, the atlas's adapters 12" in shown
    assert "--descriptor spectrum" in shown
    found = told("search", other, "--descriptor", "spectrum", *atlas)
    assert "Only pooled spectra can be compared" in found["note"]
    assert len(found["neighbours"]) == 9
    assert told("search", str(loras / "f0-0"), "--descriptor", "spectrum", *atlas)["note"] == ""


def test_clusters_are_the_families_and_their_number_is_justified(styles: Path) -> None:
    record = told("cluster", "--atlas", str(styles))
    assert record["count"] == 3
    labels = [cluster["labels"] for cluster in record["clusters"]]
    assert sorted(labels, key=str) == [{f"family {i}": 3} for i in (0, 1, 2)]
    assert (record["nmi"], record["ari"]) == (pytest.approx(1), pytest.approx(1))
    assert record["silhouette"] > record["without families"]
    shown = said("cluster", "--atlas", str(styles))
    assert "best numbers of clusters, by silhouette: 3 (" in shown
    assert "3 clusters: a single cloud of the same spread reaches 0." in shown
    assert "against the labels: NMI 1.000, ARI 1.000" in shown
    assert "2 clusters, as asked for" in said("cluster", "--clusters", "2", "--atlas", str(styles))
    assert "10 clusters of 9 entries can't be" in said("cluster", "--clusters", "10", "--atlas", str(styles), code=1)


def test_what_began_at_anothers_weights_is_left_out_of_families(tmp_path: Path) -> None:
    atlas = Atlas.open(tmp_path / "atlas")
    adapters = [made(f"f{f}-{m}", f, m) for f in range(3) for m in range(3)]
    atlas.add([*adapters, made("child", 0, 9, start="f0-0")])
    record = told("cluster", "--atlas", str(tmp_path / "atlas"))
    assert (record["entries"], record["left out"]) == (9, 1)
    assert "child" not in [name for cluster in record["clusters"] for name in cluster["members"]]
    assert "1 left out" in said("cluster", "--atlas", str(tmp_path / "atlas"))


def test_what_began_at_anothers_weights_is_found_and_marked_but_no_newcomers_nearest(tmp_path: Path) -> None:
    atlas = Atlas.open(tmp_path / "atlas")
    atlas.add([made("parent", 0, 0), made("child", 0, 0, spread=0.2, start="parent")])
    where = ["--atlas", str(tmp_path / "atlas")]
    new = str(write_peft(tmp_path / "new", 0, 0, spread=0.21))
    found = told("search", new, *where)["neighbours"]
    assert [(near["name"], near["kind"]) for near in found] == [("child", "derived"), ("parent", "adapter")]
    header, first, *_ = said("search", new, *where).splitlines()
    assert (header.split(), first.split()[2]) == (["rank", "name", "label", "kind", "similarity"], "derived")
    assert told("add", new, *where)["added"][0]["nearest"]["name"] == "parent"


def test_the_map_is_drawn_beside_the_atlas_or_elsewhere(styles: Path, loras: Path, tmp_path: Path) -> None:
    lines = said("map", "--atlas", str(styles), "--out", str(tmp_path / "out")).split()
    assert lines == [str(tmp_path / "out" / name) for name in ("map.png", "map.html")]
    (tmp_path / "file").touch()
    for place in ("file", "file/below", "n" * 300):
        assert "name another place" in said("map", "--atlas", str(styles), "--out", place, code=1)
    one = ["--atlas", str(tmp_path / "one")]
    told("add", str(loras / "f0-0"), *one)
    assert "holds 1 of the two entries or more that a map needs" in said("map", *one, code=1)
    told("add", str(loras / "f0-1"), *one)
    assert told("map", *one)["files"][0] == str(tmp_path / "one" / "map.png")


def test_two_files_are_compared_exactly_and_without_an_atlas(loras: Path, styles: Path) -> None:
    exact = told("compare", str(loras / "f0-0"), str(loras / "f0-1"))
    kept = told("compare", "f0-0", str(loras / "f0-1"), "--atlas", str(styles))
    assert (exact["exact"], kept["exact"]) == (True, False)
    assert len(exact["layers"]) == 12
    assert kept["cosine"] == pytest.approx(exact["cosine"], abs=0.05)
    assert kept["norms"] == pytest.approx(exact["norms"], rel=1e-4)
    shown = said("compare", "f0-0", "f0-1", "--atlas", str(styles))
    assert "model.blocks_0_attn_qk" in shown
    assert "Name two files for exact cosines" in shown
    assert "has no entry 'nowhere'" in said("compare", "f0-0", "nowhere", "--atlas", str(styles), code=1)
    shown = said("compare", "f0-0", str(loras / "f0-1"), code=1)
    assert "'f0-0' is no file or folder" in shown
    assert "--atlas DIR" in shown


def test_a_file_of_numbers_that_are_too_large_is_not_compared_with_an_entry(styles: Path, tmp_path: Path) -> None:
    path = write_peft(tmp_path / "huge", 0, 0) / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: value * 1e30 for name, value in tensors.items()}, path)
    assert "numbers are too large" in said("compare", "f0-0", str(path.parent), "--atlas", str(styles), code=1)


def test_the_entries_are_listed_and_written_as_a_table(styles: Path, tmp_path: Path) -> None:
    shown = said("list", "--atlas", str(styles), "--csv", "entries.csv")
    assert len(shown.splitlines()) == 10
    header, first, *_ = (tmp_path / "entries.csv").read_text().splitlines()
    assert header.startswith("digest,name,label,kind,source")
    assert ",f0-0,family 0,adapter," in first


def test_in_a_workspace_the_atlas_is_its_own(workspace: Workspace, loras: Path) -> None:
    os.chdir(workspace.root)
    told("add", str(loras / "f0-0"))
    assert [entry.name for entry in Atlas.open(workspace.atlas_dir).entries] == ["f0-0"]
    assert told("compare", str(loras / "f0-0"), str(loras / "f0-1"))["exact"]


def test_a_states_branches_are_labelled_by_their_generators(tmp_path: Path) -> None:
    state, atlas = str(STATE), ["--atlas", str(tmp_path / "atlas")]
    added = told("add", state, *atlas)["added"]
    assert [(entry["name"], entry["label"], entry["format"]) for entry in added] == [
        ("stripes", "stripes", "branch"), ("bars", "bars", "branch"),
    ]  # fmt: skip
    assert "holds 2 branches; expected one adapter" in said("search", state, *atlas, code=1)
    branch = next((STATE / "branches").glob("*stripes"))
    assert told("search", str(branch), *atlas)["in the atlas as"] == "stripes"
