"""The registry's server and its stream of three tasks, for the commands that are about them."""

from tests.registry.conftest import other_second as other_second
from tests.registry.conftest import params as params
from tests.registry.conftest import server as server
from tests.registry.conftest import stream as stream
from tests.registry.conftest import stream_dir as stream_dir
