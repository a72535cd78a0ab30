"""`python -m lorax.registry.server PORT`: MLflow's own server on loopback, closed to other pages, its database whole.

MLflow alone answers every page of this machine's, of whatever port, and names that only begin like a private address.
`mlflow server` has a second interpreter import all of it again and serve; here the first one serves.
MLflow makes its database by forty migrations, which take seconds and are not undone when they are cut off: a server
that is killed in its first start can never be started again. So the database is made beside its place and renamed.
Its page takes a browser that was never here for one of generative AI's: see `_FIRST_VISIT`.
`lorax up` has supervisord run this in the server's folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import uvicorn  # before MLflow, which guards its application only where it sees a web server

from lorax.origins import OwnOriginsOnly
from lorax.services.databases import given
from lorax.services.servers import HOST

_ARTIFACTS = "mlflow-artifacts:/"
"""Where the server that hands out artifacts itself has the first experiment keep them."""

_FIRST_VISIT = {
    "mlflow.workflowType_v1": "machine_learning",  # the other is "genai", which has no list of models
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,  # else an assistant opens over a quarter of the page
    "mlflow.telemetry.info.alert.dismissed_v1": True,  # it says that usage is told to MLflow; here it is not
}
"""What MLflow's page keeps in a browser and asks nobody else for: no tag of an experiment and no variable of the server
decides it. Who switches it over on the page is not switched back."""

_KEEP = """
<script>
for (const [key, value] of Object.entries(%s)) {
  try { localStorage.getItem(key) ?? localStorage.setItem(key, JSON.stringify(value)); } catch { break; }
}
</script>
"""


def create_app() -> OwnOriginsOnly:
    """MLflow's own application, for its own pages only; its page opens among trainings."""
    from flask import Response
    from mlflow import server
    from mlflow.server.fastapi_app import app

    index = Path(str(server.app.static_folder)) / "index.html"
    if index.is_file():  # mlflow-skinny has no page

        def serve() -> Response:
            return Response(opening_at_trainings(index.read_text()), mimetype="text/html")

        server.app.view_functions["serve"] = serve
    return OwnOriginsOnly(app)


def opening_at_trainings(page: str) -> str:
    """MLflow's index.html, which answers in a new browser what it would else ask there; its own scripts run later."""
    return page.replace("<head>", f"<head>{_KEEP % json.dumps(_FIRST_VISIT)}", 1)


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
    """Serve in the present folder, unless the environment names another database, until told to stop."""
    if not given("mlflow"):
        make_database()
    from mlflow import server
    from mlflow.server import constants, handlers

    # an address with a password must not lie in a command line
    database, artifacts = os.environ["MLFLOW_BACKEND_STORE_URI"], os.environ["MLFLOW_ARTIFACTS_DESTINATION"]
    os.environ |= {  # by which its command tells its application
        constants.BACKEND_STORE_URI_ENV_VAR: database,
        constants.REGISTRY_STORE_URI_ENV_VAR: database,
        constants.ARTIFACT_ROOT_ENV_VAR: _ARTIFACTS,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    handlers.initialize_backend_stores(database, database, _ARTIFACTS)
    uvicorn.run(
        "lorax.registry.server:create_app",  # by its name, for as many processes as are asked for
        factory=True,
        host=HOST,
        port=port,
        workers=int(os.environ["MLFLOW_WORKERS"]),
        log_config=str(Path(server.__file__).with_name("uvicorn_log_config.yaml")),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
