"""What the commands' tests share: a learner of two tasks, and the registry's stream of three."""

from __future__ import annotations

import pytest

from tests.registry.conftest import other_second as other_second
from tests.registry.conftest import params as params
from tests.registry.conftest import stream as stream
from tests.registry.conftest import stream_dir as stream_dir
from tests.tiny_learner import Learned, learn_stream, tiny_params


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = tmp_path_factory.mktemp("learned")
    return learn_stream(folder, tiny_params(folder), ["alpha", "beta"])[-1]
