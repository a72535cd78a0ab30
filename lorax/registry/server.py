"""`python -m lorax.registry.server PORT`: MLflow's own server on loopback, closed to other pages, its database whole.

MLflow alone answers every page of this machine's, of whatever port, and names that only begin like a private address.
MLflow makes its database by forty migrations, which take seconds and are not undone when they are cut off: a server
that is killed in its first start can never be started again. So the database is made beside its place and renamed.
`lorax up` has supervisord run this in the server's folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lorax.origins import OwnOriginsOnly
from lorax.services.databases import given
from lorax.services.servers import HOST

_ARTIFACTS = "mlflow-artifacts:/"
"""Where the server that hands out artifacts itself has the first experiment keep them."""


def create_app() -> OwnOriginsOnly:
    """What MLflow serves as `--app-name lorax` (pyproject.toml): its own application, for its own pages only."""
    from mlflow.server.fastapi_app import app

    return OwnOriginsOnly(app)


def make_database() -> None:
    """Have MLflow make its SQLite database in the present folder, whole or not at all, where there is none.

    It is named relative to the folder, so any workspace path works.
    """
    path, draft = Path("mlflow.db"), Path(".mlflow.db.draft")
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in Path().glob(f"{draft}*"):  # by a start that was killed, with SQLite's own files beside it
        left.unlink()
    SqlAlchemyStore(f"sqlite:///{draft}", _ARTIFACTS).engine.dispose()
    draft.rename(path)


def main(port: int) -> None:
    """Become MLflow's server on loopback, in the present folder unless the environment names another database."""
    if not given("mlflow"):
        make_database()
    # its stores are named in its environment: an address with a password must not lie in a command line
    how = ("--app-name", "lorax", "--serve-artifacts", "--host", HOST, "--port", str(port))
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *how])


if __name__ == "__main__":
    main(int(sys.argv[1]))
