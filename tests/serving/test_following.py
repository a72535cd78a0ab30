from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lorax.registry import Registry
from lorax.serving import answers
from lorax.serving.following import Follower
from lorax.serving.meters import Meters
from lorax.serving.model import Served, Source
from tests.registry.conftest import enter
from tests.registry.conftest import registry as registry
from tests.serving.conftest import Running, Shelf, Start, image
from tests.tiny_learner import Learned

pytestmark = pytest.mark.slow


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def health(running: Running) -> answers.Health:
    answer = running.http.get("/health")
    assert answer.status_code == 200
    return answers.Health.model_validate(answer.json())


def following(running: Running) -> answers.Following:
    found = health(running).following
    assert found is not None
    return found


def test_no_request_fails_while_the_alias_moves(start: Start, model: Served, shelf: Shelf) -> None:
    running = start(model, shelf=shelf)
    with ThreadPoolExecutor(2) as pool:
        is_over = False

        def ask() -> list[int]:
            found = []
            while not is_over:
                answer = running.post(image())
                assert answer.status_code == 200
                result = answer.json()["results"][0]
                known = {1: 2, 2: 4}[result["model"]["version"]]
                assert len(result["probabilities"]) == known  # the classes of the version that it names
                found.append(result["model"]["version"])
            return found

        asking = [pool.submit(ask) for _ in range(2)]
        for number in (2, 1, 2):
            shelf.now = number
            wait_for(lambda number=number: health(running).version == number)
        is_over = True
        for one in asking:
            assert set(one.result()) == {1, 2}
    assert 'lorax_swaps_total{outcome="done"} 3.0' in running.http.get("/metrics").text


def test_with_the_registry_away_the_old_version_serves_on(start: Start, model: Served, shelf: Shelf) -> None:
    running = start(model, shelf=shelf)
    assert (health(running).status, following(running).error) == ("ok", "")
    shelf.is_away = True
    wait_for(lambda: health(running).status == "degraded")
    assert "version 1 is served on: no MLflow server answers" in following(running).error
    assert running.metric("lorax_registry_up") == 0
    assert running.post(image()).status_code == 200
    shelf.now, shelf.is_away = 2, False
    wait_for(lambda: health(running).version == 2)
    assert (health(running).status, running.metric("lorax_registry_up")) == ("ok", 1)


def test_a_version_that_can_not_be_opened_is_told_and_left_alone(start: Start, model: Served, shelf: Shelf) -> None:
    running = start(model, shelf=shelf)
    shelf.now = 3
    wait_for(lambda: health(running).status == "degraded")
    assert "version 3 can't be served; version 1 is served on" in following(running).error
    looked_at = following(running).looked_at
    wait_for(lambda: following(running).looked_at > looked_at)
    assert shelf.asked == [3]
    assert running.post(image()).json()["results"][0]["model"]["version"] == 1
    shelf.now = 2
    wait_for(lambda: health(running).version == 2)


def test_a_pinned_version_follows_nothing(served: Running) -> None:
    assert health(served).following is None


def test_a_rollback_and_the_way_back_are_followed(registry: Registry, learned: list[Learned], tmp_path: Path) -> None:
    for episode in learned:
        enter(registry, episode, git_commit="c0ffee")
    source = Source(registry, "champion", tmp_path, "cpu")
    served: list[Served] = [source.open(source.find())]
    follower = Follower(source, served[0], served.append, Meters(), poll_s=1)
    follower.look()
    registry.rollback(1, by="test", reason="to see it followed")
    follower.look()
    registry.promote(2, learned[1].state_dir, by="test", reason="and back")
    follower.look()
    assert [model.version for model in served] == [2, 1, 2]
    assert [model.state_digest for model in served] == [learned[1].digest, learned[0].digest, learned[1].digest]
    assert follower.error == ""
