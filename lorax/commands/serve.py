"""`lorax serve`: verdicts over HTTP."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from lorax.commands import access
from lorax.commands.console import err, opened
from lorax.errors import ServiceError
from lorax.extras import extra
from lorax.origins import LOOPBACK, as_host


def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen. Beyond loopback, requests have to bear the token in LORAX_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")] = 8000,
    version: Annotated[
        str, typer.Option(metavar="VERSION|@ALIAS", help="A version's number, or an alias, which is followed.")
    ] = "@champion",
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Write a line of JSON for each request to standard output.")
    ] = False,
) -> None:
    """Judge images over HTTP, by the champion: when its alias moves, the new one takes over and no request is lost.

    A page for people is at /, the OpenAPI page at /docs. Also there: /health, /version, and /metrics for Prometheus.
    Ctrl-C finishes what was begun; SIGTERM lets /health say 503 for `serving.drain_s` first, so that a proxy sends
    requests elsewhere. Where LORAX_TOKEN is set, requests have to bear it. Limits: `serving` in params.yaml.

    Example: `lorax serve --port 8000`, then `curl -F images=@photo.jpg http://127.0.0.1:8000/v1/verdicts`
    """
    from lorax import reconcile

    with extra("serve", "lorax serve"):
        from lorax.serving import server
        from lorax.serving.app import create_app
        from lorax.serving.model import Source, open_served
        from lorax.serving.requests import to_standard_output

    workspace, params = opened()
    token = os.environ.get("LORAX_TOKEN", "")
    if as_host(host) not in LOOPBACK and not token:
        raise ServiceError(
            f"--host {host} lets other machines ask, and LORAX_TOKEN is not set; expected a token that requests have "
            'to bear. Make one: export LORAX_TOKEN="$(openssl rand -hex 32)".'
        )
    listener = server.listen(host, port)
    source = look = None
    if version.startswith("@"):
        registry = access.served_registry(workspace, params)
        source = Source(registry, version[1:], workspace.states_dir, params.run.device, params.serving.exact)
        chosen = source.find()
        with err.status("opening the model"):
            server.settle()
            model = source.open(chosen)
    else:
        chosen, state_dir = access.fetched(workspace, params, version)
        look = reconcile.look(workspace, params)
        with err.status("opening the model"):
            server.settle()
            device, exact = params.run.device, params.serving.exact
            model = open_served(params.registry.model, chosen, state_dir, device, exact=exact)
    address = f"http://{as_host(host)}:{listener.getsockname()[1]}"

    def tell() -> None:
        err.print(
            f"version {model.version} of {model.name} is served: for people {address}, for programs {address}/docs"
        )

    log = to_standard_output if access_log else None
    threads = params.run.threads
    app = create_app(model, params.serving, source, threads, host, token=token, log=log, registry=look)
    server.run(server.VerdictServer(app, params.serving, on_ready=tell), listener)
    err.print("stopped; what was begun was answered.")
