"""The page at `/`, and the routes that it uses: samples, the model's card, its view of a picture, an explanation."""

import asyncio
import io
import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from server.explain import explain
from server.requests import read_body
from server.routing import json_response, problems, within
from server.schemas import EXPLAIN_OPENAPI, PREVIEW_OPENAPI, Card, Explained
from server.service import Service

_HERE = Path(__file__).parent
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a browser asks whether its copy is still current
}
_SHOWN_BY_BROWSERS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp")
_MOST_SAMPLES = 20


def add_page_routes(router: APIRouter, service: Service) -> None:
    """The page's files, /samples, /card, /preview and /explain."""
    _add_page(router)
    _add_samples(router, service.settings.samples or _HERE / "samples")
    _add_card(router, service)
    _add_preview(router, service)
    _add_explanation(router, service)


def _add_page(router: APIRouter) -> None:
    files = StaticFiles(directory=_HERE / "static")

    @router.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await _file(files, "index.html", request)

    @router.get("/static/{name}", include_in_schema=False)
    async def static(request: Request) -> Response:
        return await _file(files, request.path_params["name"], request)


def _add_samples(router: APIRouter, folder: Path) -> None:
    files, names = StaticFiles(directory=folder, follow_symlink=True), find_samples(folder)

    @router.get("/samples", include_in_schema=False)
    async def samples(request: Request) -> Response:
        return json_response(names)

    @router.get("/samples/{name:path}", include_in_schema=False)
    async def sample(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in names:
            raise HTTPException(404)
        return await _file(files, name, request)


def find_samples(folder: Path) -> list[str]:
    """At most 20 pictures in and below the folder, spread evenly over all of them: paths relative to it, sorted."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in _SHOWN_BY_BROWSERS)
    pictures = sorted(path for path in files if path.is_file() and os.access(path, os.R_OK))
    names = [path.relative_to(folder).as_posix() for path in pictures]
    names = [name for name in names if name == name.encode(errors="ignore").decode()]  # others cannot stand in JSON
    step = -(-len(names) // _MOST_SAMPLES) or 1
    return names[::step]


async def _file(files: StaticFiles, name: str, request: Request) -> Response:
    response = await files.get_response(name, request.scope)
    response.headers.update(_HEADERS)
    return response


def _add_card(router: APIRouter, service: Service) -> None:
    @router.get("/card", response_model=Card, responses=problems(503), summary="What the model is, and what it scored")
    async def card(request: Request) -> Response:
        served = service.card
        model = service.model_info(served)
        return json_response({"model": model, "card": served.model_dump(mode="json")})


def _add_preview(router: APIRouter, service: Service) -> None:
    async def as_png(body: bytes) -> bytes:
        file = io.BytesIO()
        Image.fromarray(await service.decode(body)).save(file, "PNG")
        return file.getvalue()

    @router.post(
        "/preview",
        response_class=Response,
        responses=problems(408, 413, 415, 422, 429, 503, 504),
        openapi_extra=PREVIEW_OPENAPI,
        summary="A picture as the model sees it",
    )
    async def preview(request: Request) -> Response:
        service.check_room()  # before the body is read
        png = await within(service.settings.deadline_s, read_body(request), as_png)
        return Response(png, media_type="image/png", headers=_HEADERS)


def _add_explanation(router: APIRouter, service: Service) -> None:
    one_at_a_time = asyncio.Lock()  # each is the work of hundreds of predictions, which must not wait for several

    @router.post(
        "/explain",
        response_model=Explained,
        responses=problems(400, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra=EXPLAIN_OPENAPI,
        summary="Which parts of a picture make a class likelier",
    )
    async def explain_picture(request: Request) -> Response:
        async def explain_body(body: bytes) -> dict[str, Any]:
            pixels = await service.decode(body)
            async with one_at_a_time:
                return await explain(service, pixels, request.query_params.get("class_id"))

        service.check_room()  # before the body is read
        return json_response(await within(service.settings.deadline_s, read_body(request), explain_body))
