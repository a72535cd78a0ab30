"""`lorax serve`: verdicts over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from lorax.commands import access
from lorax.commands.console import err, opened
from lorax.origins import LOOPBACK, as_host


def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen. There is no authentication: beyond loopback, put a proxy in front.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")] = 8000,
    version: Annotated[
        str, typer.Option(metavar="VERSION|@ALIAS", help="A version's number, or an alias, which is followed.")
    ] = "@champion",
) -> None:
    """Judge images over HTTP, by the champion: when its alias moves, the new one takes over and no request is lost.

    The OpenAPI page is at /docs; also there: /health, /version, and /metrics for Prometheus. Ctrl-C or SIGTERM finishes
    what was begun. Limits: `serving` in params.yaml.

    Example: `lorax serve --port 8000`, then `curl -F images=@photo.jpg http://127.0.0.1:8000/v1/verdicts`
    """
    from lorax.serving import server
    from lorax.serving.app import create_app
    from lorax.serving.model import Source, open_served

    workspace, params = opened()
    listener = server.listen(host, port)
    source = None
    if version.startswith("@"):
        registry = access.served_registry(workspace, params)
        source = Source(registry, version[1:], workspace.states_dir, params.run.device, params.serving.exact)
        chosen = source.find()
        with err.status("opening the model"):
            server.settle()
            model = source.open(chosen)
    else:
        chosen, state_dir = access.fetched(workspace, params, version)
        with err.status("opening the model"):
            server.settle()
            device, exact = params.run.device, params.serving.exact
            model = open_served(params.registry.model, chosen, state_dir, device, exact=exact)
    address = f"http://{as_host(host)}:{listener.getsockname()[1]}"

    def tell() -> None:
        err.print(f"version {model.version} of {model.name} is served at {address} (try it at {address}/docs)")
        if as_host(host) not in LOOPBACK:
            err.print("this is no loopback address, and there is no authentication: whoever reaches it may ask.")

    app = create_app(model, params.serving, source, params.run.threads, host)
    server.run(server.VerdictServer(app, params.serving.timeout_s, on_ready=tell), listener)
    err.print("stopped; what was begun was answered.")
