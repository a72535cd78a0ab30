"""`python -m lorax.registry.server PORT`: MLflow's own server on loopback, on a database that is whole or not there.

MLflow makes its database by forty migrations, which take seconds and are not undone when they are cut off: a server
that is killed in its first start can never be started again. So the database is made beside its place and renamed.
`lorax up` has supervisord run this in the server's folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lorax.databases import given
from lorax.servers import HOST

_ARTIFACTS = "mlflow-artifacts:/"
"""Where the server that hands out artifacts itself has the first experiment keep them."""


def make_database(path: Path) -> None:
    """Have MLflow make its SQLite database at `path`, whole or not at all, where there is none."""
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft = path.with_name(f".{path.name}.draft")
    for left in path.parent.glob(f"{draft.name}*"):  # by a start that was killed, with SQLite's own files beside it
        left.unlink()
    SqlAlchemyStore(f"sqlite:///{draft}", _ARTIFACTS).engine.dispose()
    draft.rename(path)


def main(port: int, folder: Path) -> None:
    """Become MLflow's server.

    Args:
        port: where to listen on loopback.
        folder: where the database lies, unless the environment names another.
    """
    if not given("mlflow"):
        make_database(folder / "mlflow.db")
    # its stores are named in its environment: an address with a password must not lie in a command line
    address = ("--host", HOST, "--port", str(port))
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", "--serve-artifacts", *address])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path.cwd())
