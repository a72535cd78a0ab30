"""An atlas that was copied elsewhere and back is the same, grows as the original does, and is mixed with no other."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from lorax.atlas.index import Atlas
from lorax.atlas.searching import search
from lorax.atlas.sharing import export_atlas, import_atlas
from lorax.errors import AtlasError, StorageError
from tests.atlas.made import made


def quiet(*_: object) -> None:
    pass


@pytest.fixture
def own(tmp_path: Path) -> Path:
    Atlas.open(tmp_path / "own").add([made(f"f{i % 2}-{i}", i % 2, i) for i in range(4)])
    return tmp_path / "own"


@pytest.fixture(params=["a folder", "a URL"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "far/away") if request.param == "a folder" else f"memory://{uuid.uuid4()}/styles"


def names(folder: Path) -> list[str]:
    return [entry.name for entry in Atlas.open(folder).entries]


def test_a_copy_is_the_same_and_grows_as_the_original_does(own: Path, address: str, tmp_path: Path) -> None:
    export_atlas(own, address, quiet)
    assert import_atlas(address, tmp_path / "copy", quiet).entries == 4
    query = made("new", 1, 9)
    assert search(Atlas.open(tmp_path / "copy"), query) == search(Atlas.open(own), query)
    Atlas.open(own).add([made("later", 3)])
    export_atlas(own, address, quiet)
    assert names(tmp_path / "copy") == names(own)[:4]
    import_atlas(address, tmp_path / "copy", quiet)
    assert names(tmp_path / "copy") == names(own)


def test_what_has_grown_apart_is_not_mixed(own: Path, address: str, tmp_path: Path) -> None:
    export_atlas(own, address, quiet)
    import_atlas(address, tmp_path / "copy", quiet)
    for folder, name in ((own, "mine"), (tmp_path / "copy", "theirs")):
        Atlas.open(folder).add([made(name, len(name))])
    export_atlas(own, address, quiet)
    with pytest.raises(AtlasError, match="has grown since"):
        export_atlas(tmp_path / "copy", address, quiet)
    with pytest.raises(AtlasError, match="has grown since"):
        import_atlas(address, tmp_path / "copy", quiet)
    assert names(tmp_path / "copy")[-1] == "theirs"


def _cut(place: Path) -> None:
    file = next(place.glob("segments/*/product.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])


def _lost(place: Path) -> None:
    next(place.glob("segments/*/entries.csv")).unlink()


def _outside(place: Path) -> None:
    record = json.loads((place / "atlas.json").read_text())
    record["segments"][0]["name"] = "../elsewhere"
    (place / "atlas.json").write_text(json.dumps(record))


def _of_others(place: Path) -> None:
    shutil.rmtree(place)
    place.mkdir()
    (place / "letter.txt").touch()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut, "damaged"),
        (_lost, "missing"),
        (_outside, "elsewhere"),
        (_of_others, "'letter.txt'"),
        (shutil.rmtree, "no atlas"),
    ],
)
def test_what_is_damaged_elsewhere_does_not_come(
    own: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    export_atlas(own, str(tmp_path / "far"), quiet)
    spoil(tmp_path / "far")
    with pytest.raises(AtlasError, match=said):
        import_atlas(str(tmp_path / "far"), tmp_path / "copy", quiet)
    assert not list((tmp_path / "copy").glob("segments/*"))
    assert not (tmp_path / "copy/atlas.json").exists()


def test_an_import_that_fails_midway_leaves_what_was_there(own: Path, address: str, tmp_path: Path) -> None:
    export_atlas(own, address, quiet)
    import_atlas(address, tmp_path / "grown", quiet)
    Atlas.open(own).add([made("later", 3)])
    export_atlas(own, address, quiet)

    def stop(done: int, total: int, what: str) -> None:
        if done == total:
            raise KeyboardInterrupt

    def stop_early(done: int, total: int, what: str) -> None:
        stop(done + 1, total, what)

    for folder, before in ((tmp_path / "grown", 1), (tmp_path / "new", 0)):
        with pytest.raises(KeyboardInterrupt):
            import_atlas(address, folder, stop_early)
        assert len(list(folder.glob("segments/*"))) == before
        assert (folder / "atlas.json").exists() == bool(before)
    with pytest.raises(KeyboardInterrupt):
        import_atlas(address, tmp_path / "new", stop)  # as it became known
    assert names(tmp_path / "new") == names(own)


_KILLED = """
import os, signal, sys
from pathlib import Path
from lorax.atlas.sharing import import_atlas

import_atlas(sys.argv[1], Path(sys.argv[2]), lambda done, *_: done and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_first_import_that_was_killed_is_run_again(own: Path, tmp_path: Path) -> None:
    Atlas.open(own).add([made("later", 3)])
    copy = tmp_path / "copy"
    killed = subprocess.run([sys.executable, "-c", _KILLED, own, copy], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(copy.glob("segments/*"))
    import_atlas(str(own), copy, quiet)
    assert names(copy) == names(own)


def test_what_cannot_be_reached_is_one_error(own: Path) -> None:
    with pytest.raises(AtlasError, match=r"strange://x\\ny can't be used.*\Z"):
        export_atlas(own, "strange://x\ny", quiet)


def test_a_full_disk_here_is_told_as_that(own: Path, tmp_path: Path) -> None:
    export_atlas(own, str(tmp_path / "far"), quiet)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StorageError, match=f"could not write {tmp_path / 'copy'}"):
            import_atlas(str(tmp_path / "far"), tmp_path / "copy", quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((tmp_path / "copy").glob("segments/*"))


def test_what_is_damaged_here_is_not_sent(own: Path, tmp_path: Path) -> None:
    _lost(own)
    with pytest.raises(AtlasError, match=rf"{own}/segments/.*/entries.csv: it is missing"):
        export_atlas(own, str(tmp_path / "far"), quiet)
    assert not (tmp_path / "far/atlas.json").exists()
