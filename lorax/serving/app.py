"""What HTTP sees: a page for people, six addresses for programs, and their OpenAPI page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import lorax
from lorax.data.encoding import example_base64
from lorax.origins import LOOPBACK, OwnOriginsOnly, as_host
from lorax.params import ServingParams
from lorax.registry.reading import RegisteredModel
from lorax.serving import answers, page
from lorax.serving.answers import RefusalError, overloaded
from lorax.serving.description import Describer, limits_of, served_classes
from lorax.serving.following import Follower
from lorax.serving.json_body import DATA, LONGEST_NAME, NAME
from lorax.serving.meters import Meters
from lorax.serving.model import Served, Source
from lorax.serving.requests import HEALTH, MODEL, TILES, VERDICTS, Requests
from lorax.serving.service import TiledOutcome, UploadOutcome, VerdictService, status_of
from lorax.serving.uploads import JSON, MULTIPART, Body, Upload

_ABOUT = f"""
Is an image real or synthetic, by which generator, and how sure is that?

    curl -F images=@photo.jpg http://127.0.0.1:8000{VERDICTS}

Every verdict names the model version that gave it and the sha256 of the image's bytes. Pixels alone decide: metadata,
and whatever else a file holds, is not looked at. A verdict is a classifier's opinion about the generators that it was
shown; it is not evidence by itself.
"""

_ON_VERDICTS = """
Send one image or several, as files of a multipart form (the fields' names are of no matter) or as base64 in JSON.

One entry comes back for each image, in that order. What can't be judged is told in its own entry, and the rest is
judged all the same; where nothing could be judged, the status is 4xx. 503 says that the server has more to do than it
may take on: come again after the seconds that `Retry-After` names.
"""


_ON_TILES = """
Send one image, as for verdicts. Beside its verdict come those of squares spread evenly over it, each judged as if it
were an image of its own: which part of the image says what. The image's verdict does not come from them. What the file
holds beside pixels is named, too. It costs as much as some dozens of images.
"""

_REFUSALS = {
    400: "the body is not what its type says", 408: "the body came too slowly", 413: "too many or too large",
    415: "of an unsupported type", 422: "damaged", 503: "overloaded",
}  # fmt: skip

_Judged = TypeVar("_Judged")


def create_app(
    model: Served,
    params: ServingParams,
    source: Source | None,
    threads: int,
    host: str = "127.0.0.1",
    *,
    token: str = "",
    log: Callable[[bytes], None] | None = None,
    registry: RegisteredModel | None = None,
) -> FastAPI:
    """The application.

    Args:
        model: what judges at first.
        params: the limits.
        source: the alias that is followed; None serves `model` for good.
        threads: how many batches are judged at once, on a CPU.
        host: where the server listens, a name that it may be called by.
        token: that requests have to bear; '' for none.
        log: told a line of JSON after each answer; None keeps no log.
        registry: what is asked about the version that is served; where there is none, the source's.
    """
    meters = Meters()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = VerdictService(model, params, meters, threads)
        follower = Follower(source, model, service.swap, meters, params.poll_s) if source else None
        app.state.service, app.state.follower = service, follower
        told = registry or (source.versions if source else None)
        app.state.describer = Describer(told, source.alias if source else None, params)
        following = asyncio.create_task(follower.run()) if follower else None
        try:
            yield
        finally:
            if following:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following
            await asyncio.to_thread(service.close)

    app = FastAPIOffline(
        title="lorax: verdicts on images",
        description=_ABOUT,
        version=lorax.__version__,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.is_draining = False
    app.add_middleware(OwnOriginsOnly, names=(*LOOPBACK, *map(str.lower, (as_host(host), *params.hosts))))
    app.add_middleware(Requests, meters=meters, token=token, log=log, is_draining=lambda: bool(app.state.is_draining))
    app.add_exception_handler(RefusalError, _refused)
    app.add_exception_handler(HTTPException, _no_such_thing)
    _add_verdicts(app, params)
    _add_tiles(app)
    _add_looks(app)
    page.add_page(app)
    return app


class _Plain(APIRoute):
    """A route whose endpoint turns a request into a response by itself; FastAPI has nothing to find out for it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


def _add_verdicts(app: FastAPI, params: ServingParams) -> None:
    router = APIRouter(route_class=_Plain)

    @router.post(
        VERDICTS,
        tags=["verdicts"],
        summary="Judge images",
        description=_ON_VERDICTS,
        response_model=None,
        responses={
            200: {"model": answers.Verdicts, "description": "Verdicts, in the order of the images."},
            403: {"content": {"text/plain": {}}, "description": "Asked by another page, or by a name not its own."},
            **{code: {"model": answers.Refused, "description": f"Refused: {why}."} for code, why in _REFUSALS.items()},
        },
        openapi_extra={"requestBody": {"required": True, "content": _bodies(most=params.max_images)}},
    )
    async def verdicts(request: Request) -> Response:
        service: VerdictService = request.app.state.service
        with service.meters.seconds.time():
            outcomes = await _judged(request, service, service.judge)
        request.state.images = len(outcomes)
        request.state.version = next((outcome.answer.model.version for outcome in outcomes if outcome.answer), None)
        records = [outcome.record() for outcome in outcomes]
        status = status_of(outcomes)
        if status == 200:
            return _json(status, {"results": records})
        return _json(status, {"error": _overall(outcomes), "results": records})

    app.include_router(router)


def _add_tiles(app: FastAPI) -> None:
    router = APIRouter(route_class=_Plain)

    @router.post(
        TILES,
        tags=["verdicts"],
        summary="Judge one image, and the parts of it",
        description=_ON_TILES,
        response_model=None,
        responses={
            200: {"model": answers.TiledVerdict, "description": "Its verdict, and that of each square."},
            **{code: {"model": answers.Refused, "description": f"Refused: {why}."} for code, why in _REFUSALS.items()},
        },
        openapi_extra={"requestBody": {"required": True, "content": _bodies(most=1)}},
    )  # fmt: skip
    async def tiles(request: Request) -> Response:
        service: VerdictService = request.app.state.service

        async def judge(uploads: Sequence[Upload], gone: asyncio.Future[Any]) -> TiledOutcome:
            if len(uploads) != 1:
                raise RefusalError(413, "too_many_images", f"the request holds {len(uploads)} images; expected one.")
            return await service.judge_tiles(uploads[0], gone)

        found = await _judged(request, service, judge)
        request.state.images = 1 + len(found.tiles)
        return _json(200, found.record())

    app.include_router(router)


def _add_looks(app: FastAPI) -> None:
    @app.get(HEALTH, tags=["server"], summary="Is it alive, does it judge?", response_model=answers.Health,
             responses={503: {"model": answers.Health, "description": "It does not judge."}})  # fmt: skip
    async def health(request: Request, response: Response) -> answers.Health:
        service: VerdictService = request.app.state.service
        follower: Follower | None = request.app.state.follower
        is_draining: bool = request.app.state.is_draining
        is_ready = service.is_alive and not is_draining
        response.status_code = 200 if is_ready else 503
        late = "degraded" if follower and follower.error else "ok"
        status = "failed" if not service.is_alive else "draining" if is_draining else late
        following = follower and answers.Following(
            alias=follower.alias, looked_at=follower.looked_at, error=follower.error
        )
        return answers.Health(
            status=status, live=True, ready=is_ready, version=service.model.version, following=following
        )

    @app.get("/version", tags=["server"], summary="Which model version judges?", response_model=answers.Version)
    async def version(request: Request) -> answers.Version:
        service: VerdictService = request.app.state.service
        follower: Follower | None = request.app.state.follower
        model = service.model
        return answers.Version(
            **model.record,
            alias=follower.alias if follower else None,
            classes=served_classes(model),
            calibrated=model.predictor.calibration is not None,
            lorax=lorax.__version__,
            limits=limits_of(service.params),
        )

    @app.get(MODEL, tags=["server"], summary="What does the version know?", response_model=answers.Description)
    async def description(request: Request) -> answers.Description:
        describer: Describer = request.app.state.describer
        service: VerdictService = request.app.state.service
        return await asyncio.to_thread(describer.describe, service.model)

    @app.get("/metrics", tags=["server"], summary="For Prometheus", response_class=Response,
             responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}})  # fmt: skip
    async def metrics(request: Request) -> Response:
        service: VerdictService = request.app.state.service
        return Response(service.meters.text(), media_type=CONTENT_TYPE_LATEST)


async def _judged(
    request: Request,
    service: VerdictService,
    judge: Callable[[Sequence[Upload], asyncio.Future[Any]], Awaitable[_Judged]],
) -> _Judged:
    """Read, take apart and judge a request, within its time.

    Raises:
        RefusalError: nothing of it can be judged.
    """
    body = Body(request.stream(), request.headers.get("content-length"), service.params, service.held)
    data = None
    try:
        async with asyncio.timeout(service.params.timeout_s):
            data = await body.read()
            encoding = request.headers.get("content-encoding", "identity")
            if encoding != "identity":
                raise RefusalError(
                    415, "unsupported_type", f"the body is encoded as {encoding[:99]!r}; expected it plain."
                )
            uploads = await service.parse(data, request.headers.get("content-type", ""))
            gone = asyncio.ensure_future(request.receive())  # after its body, a request brings nothing but its end
            try:
                return await judge(uploads, gone)
            finally:
                gone.cancel()
    except TimeoutError:
        limit = f"{service.params.timeout_s:g} s (serving.timeout_s)"
        if data is None:
            raise RefusalError(408, "too_slow", f"the body did not come within {limit}.") from None
        raise overloaded(f"the images were not judged within {limit}.") from None
    except ClientDisconnect:
        raise RefusalError(400, "disconnected", "the client went away.") from None
    finally:
        body.close()


def _overall(outcomes: list[UploadOutcome]) -> dict[str, str]:
    """What a request is told of which no image could be judged."""
    refusals = [outcome.refusal for outcome in outcomes if outcome.refusal]
    if len(refusals) == 1:
        return refusals[0].record()
    return {"code": "no_image_judged", "reason": f"none of the {len(refusals)} images can be judged; see results."}


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusalError)
    service: VerdictService = request.app.state.service
    service.meters.refused.labels(error.code).inc()
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    if error.status in (408, 413, 503):  # the rest of the body may still be on its way
        headers["Connection"] = "close"
    return _json(error.status, {"error": error.record()}, headers)


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
    return _json(error.status_code, {"error": {"code": what, "reason": f"{error.detail}; see /docs."}}, error.headers)


def _json(status: int, value: Any, headers: Any = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")


def _bodies(*, most: int) -> dict[str, Any]:
    """What a request may be, for the OpenAPI page; `most` images of it."""
    count = {"type": "array", "minItems": 1, "maxItems": most}
    name = {"type": "string", "maxLength": LONGEST_NAME, "description": "what the answer calls it; its place without"}
    data = {"type": "string", "description": "the file's bytes as base64, or a data: URI of them"}
    properties = {NAME: name, DATA: data}
    image = {"type": "object", "required": [DATA], "properties": properties, "additionalProperties": False}

    def of(items: Any) -> dict[str, Any]:
        images = count | {"items": items}
        return {"type": "object", "required": ["images"], "properties": {"images": images}}

    return {
        MULTIPART: {"schema": of({"type": "string", "format": "binary"})},
        JSON: {
            "schema": of(image) | {"additionalProperties": False},
            "example": {"images": [{NAME: "noise.png", DATA: example_base64()}]},
        },
    }
