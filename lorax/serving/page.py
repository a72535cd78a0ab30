"""The page for people, at `/`: plain files of this package, which ask the server as any program does."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from lorax.serving.requests import PAGE, PAGE_FILES

_FOLDER = Path(__file__).parent / "page_files"

_HEADERS = {
    # only its own files run, and it talks to this server alone: what an image is called can't become a script
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for anew after an upgrade
}


def add_page(app: FastAPI) -> None:
    """Serve the page and its files."""
    files = {path.name: path for path in _FOLDER.iterdir()}

    @app.get(PAGE, include_in_schema=False)
    async def page(request: Request) -> Response:
        return FileResponse(files["index.html"], headers=_HEADERS)

    @app.get(PAGE_FILES + "{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "Not Found")
        return FileResponse(files[name], headers=_HEADERS)
