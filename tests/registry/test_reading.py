"""What is read of a registered model; what commands tell of it comes from one look at it."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from lorax.errors import RegistryError
from lorax.registry import Look, Registry
from tests.tiny_learner import Learned

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are asked of servers while a test runs, with what they ask for."""
    paths: list[str] = []
    send = requests.Session.send

    def noted(self: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        paths.append(request.path_url)
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", noted)
    return paths


def test_a_version_s_card_and_what_it_grew_from_are_read(filled: Registry) -> None:
    assert [version.version for version in filled.line(3)] == [3, 2, 1]
    assert filled.card(2).startswith(f"# Model card: {filled.name}, episode 1 (beta)")


def told(model: Registry | Look) -> list[Any]:
    return [
        *(
            model.champion(),
            model.versions(),
            model.version(2),
            model.find("none"),
            model.journal(),
            model.all_quarantined(),
        ),
        *(model.quarantined(), model.waiting(), model.breakage(), model.version_before("gamma")),
    ]


def test_a_look_tells_what_the_registry_tells_in_two_requests(filled: Registry, asked: list[str]) -> None:
    expected = told(filled)
    asked.clear()
    assert told(Look(filled.uri, filled.name)) == expected
    assert [path.partition("?")[0].rpartition("/")[2] for path in asked] == ["health", "search", "get"]


def test_one_version_is_found_without_reading_the_others(
    filled: Registry, stream: list[Learned], asked: list[str]
) -> None:
    first, second, _ = filled.versions()
    asked.clear()
    assert (filled.find(stream[1].digest), filled.version(1)) == (second, first)
    assert filled.find("none") is None
    searches = [path for path in asked if "model-versions/search" in path]
    assert len(searches) == 3  # what is not there is looked for by the older tag, too
    assert all("state_digest" in path for path in searches)


def test_the_champion_and_a_version_take_one_request_each(filled: Registry, asked: list[str]) -> None:
    assert filled.champion() == filled.version(3)
    assert [path.partition("?")[0].rpartition("/")[2] for path in asked] == ["alias", "get"]


def test_a_look_stays_as_it_was_and_the_next_one_is_of_now(registry: Registry) -> None:
    registry.client.create_registered_model(registry.name)
    look = Look(registry.uri, registry.name)
    assert look.journal() == []
    registry.note("released", 1, "somebody", "why")
    assert look.journal() == []
    assert len(Look(registry.uri, registry.name).journal()) == 1


def test_any_alias_can_be_served(filled: Registry) -> None:
    assert filled.aliased("champion").version == 3
    with pytest.raises(RegistryError, match="there is no nobody yet"):
        filled.aliased("nobody")
    with pytest.raises(RegistryError, match="has no challenger now: the newest version is one until it is promoted"):
        filled.aliased("challenger")
