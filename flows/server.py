"""`python -m flows.server PORT`: Prefect's own server on loopback, closed to everybody but this workspace.

Prefect alone answers every origin, every host name and anybody, and who may ask it can have its worker run commands.
Here a request needs the workspace's auth string, and no page but Prefect's own gets as far as being asked for it.
`lorax up` has supervisord run this in the server's folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lorax.origins import OwnOriginsOnly
from lorax.services import servers


def main(port: int, folder: Path) -> None:
    """Serve until told to stop."""
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = servers.auth_string(folder)
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    uvicorn.run(
        OwnOriginsOnly(create_app(final=True)),
        host=servers.HOST,
        port=port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        log_level=settings.logging_level.lower(),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path.cwd())
