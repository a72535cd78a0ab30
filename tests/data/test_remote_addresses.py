"""A mistyped address of DVC's remote is told in a line, by whoever first needs the remote."""

from __future__ import annotations

import gc

import pytest

from lorax.data import versions
from lorax.errors import DataVersionError
from lorax.workspace import Workspace

ADDRESSES = (
    "htp://example.invalid/x", "s3//bucket", "s3://bucket", "ssh://", "http://127.0.0.1:1/x", "http://127.0.0.1:port/x",
    "http://[::1/x", "remote://nothing/x", "file:///proc/1/nothing", "gs://", "://", " ", "%", "a\\tb",
    "${HOME}", "/dev/null",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*ClientSession.__del__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_mistyped_address_is_told_in_a_line(landed_workspace: Workspace, address: str) -> None:
    samples = versions.read_task(landed_workspace, "alpha").test
    for path in versions.cache_paths(landed_workspace, [sample.md5 for sample in samples]).values():
        path.unlink()
    for path in (landed_workspace.data_dir / "alpha").rglob("*.*"):
        path.unlink()
    config = landed_workspace.root / ".dvc" / "config"
    remote = f"""['remote "storage"']\n    url = {address}\n"""
    config.write_text(config.read_text().replace("[core]", "[core]\n    remote = storage") + remote)
    with pytest.raises(DataVersionError) as found:
        versions.fetch(landed_workspace, samples)
    assert "Traceback" not in str(found.value)
    assert len(str(found.value).splitlines()) == 1
    del found
    gc.collect()  # DVC closes no session with an HTTP server: it is told of here, not in whichever test comes later
