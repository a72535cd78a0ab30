from __future__ import annotations

from pathlib import Path

import pytest

from lorax.errors import RegistryError
from lorax.registry import Registry
from lorax.serving.following import Follower
from lorax.serving.meters import Meters
from lorax.serving.model import Served, Source
from tests.registry.conftest import enter
from tests.tiny_learner import Learned

pytestmark = pytest.mark.slow


def test_a_rollback_and_the_way_back_are_followed(registry: Registry, stream: list[Learned], tmp_path: Path) -> None:
    for episode in stream[:2]:
        enter(registry, episode, git_commit="c0ffee")
    source = Source(registry, "champion", tmp_path, "cpu")
    served: list[Served] = [source.open(source.find())]
    follower = Follower(source, served[0], served.append, Meters(), poll_s=1)
    follower.look()
    registry.rollback(1, by="test", reason="to see it followed")
    follower.look()
    registry.promote(2, stream[1].state_dir, by="test", reason="and back")
    follower.look()
    assert [model.version for model in served] == [2, 1, 2]
    assert [model.state_digest for model in served] == [stream[1].digest, stream[0].digest, stream[1].digest]
    assert follower.error == ""


def test_any_alias_can_be_served(filled: Registry) -> None:
    assert filled.aliased("champion").version == 3
    with pytest.raises(RegistryError, match="there is no nobody yet"):
        filled.aliased("nobody")
    with pytest.raises(RegistryError, match="has no challenger now: the newest version is one until it is promoted"):
        filled.aliased("challenger")
