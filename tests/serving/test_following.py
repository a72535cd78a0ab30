from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lorax.serving import answers
from lorax.serving.model import Served
from tests.serving.conftest import Running, Shelf, Start, image

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
