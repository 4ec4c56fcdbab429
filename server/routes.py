"""The HTTP surface. Thin: a request becomes images, the service classifies them, the result becomes JSON."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Router
from starlette.types import Lifespan, Receive, Scope, Send

from models.card import ModelCard
from models.pixels import ImageError
from server.errors import DeadlineExceeded, RequestTimeout, UnknownModel, image_refused
from server.metrics import SEEN, render
from server.requests import PredictRequest, read_predict_request
from server.schemas import LOAD_OPENAPI, PREDICT_OPENAPI, Health, Model, Prediction, Predictions, Problem
from server.service import Classified, Service
from server.settings import Settings
from server.wire import Probabilities

_PROBLEMS = {
    400: "malformed request",
    404: "no model of that name",
    408: "the body did not arrive within the deadline",
    409: "the checkpoint cannot be served; the one before it serves on",
    413: "body, picture or number of images over the limit",
    415: "a content type that is never taken",
    422: "not an image, truncated or empty",
    429: "too many images wait; Retry-After says when to come back",
    500: "the service failed; its log has the reason",
    503: "no model is ready",
    504: "no answer within the deadline",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For OpenAPI: what a route may refuse."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": _PROBLEMS[status], "content": content} for status in statuses}


class DirectRoute(APIRoute):
    """Documented like any FastAPI route but called straight away: FastAPI's dependency machinery costs some 35 µs."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = self.methods or set()
        if scope["method"] not in methods and not (scope["method"] == "HEAD" and "GET" in methods):
            return await super().handle(scope, receive, send)  # which refuses it with 405
        await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """For a method that it has."""
        response = await self.endpoint(Request(scope, receive))
        await response(scope, receive, send)


class Routes(Router):
    """Looks a request up by its method and path, and matches one route after another only where that finds none."""

    def __init__(self, routes: Sequence[BaseRoute], lifespan: Lifespan[Any]) -> None:
        super().__init__(routes, lifespan=lifespan)
        direct = [route for route in routes if isinstance(route, DirectRoute)]
        self._by_path = {(method, route.path): route for route in direct for method in route.methods or ()}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        route = self._by_path.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            return super().__call__(scope, receive, send)
        scope["route"] = route
        return route.answer(scope, receive, send)


def add_routes(router: APIRouter, service: Service, settings: Settings) -> None:
    """All routes of the service."""
    router.route_class = DirectRoute
    _add_predict(router, service, settings)
    _add_operations(router, service, settings)


def _add_predict(router: APIRouter, service: Service, settings: Settings) -> None:
    @router.post(
        "/predict",
        response_model=Prediction | Predictions,
        responses=_problems(400, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra=PREDICT_OPENAPI,
        summary="Classify one image, or many",
    )
    async def predict(request: Request) -> Response:
        service.check_room()  # before the body is read
        asked = None
        try:
            async with asyncio.timeout(settings.deadline_s):
                asked = await read_predict_request(request, settings)
                request.scope["state"]["images"] = len(asked.images)
                classified = await service.classify([image for image in asked.images if isinstance(image, bytes)])
        except TimeoutError:
            raise (RequestTimeout if asked is None else DeadlineExceeded)(settings.deadline_s) from None
        request.scope["state"]["batch_size"] = classified.batch_size
        return _json(_answer(asked, classified, settings.model_name))


def _add_operations(router: APIRouter, service: Service, settings: Settings) -> None:
    @router.post(
        "/v2/repository/models/{name}/load",
        response_model=Model,
        responses=_problems(404, 409),
        openapi_extra=LOAD_OPENAPI,
        summary="Serve the checkpoint as it is on disk now",
    )
    async def load(request: Request) -> Response:
        if (name := request.path_params["name"]) != settings.model_name:
            raise UnknownModel(f"no model is called {name!r}; this service has {settings.model_name!r}")
        return _json({"name": name, "version": (await service.reload()).version})

    @router.get("/livez", response_model=Health, summary="Is the process alive?")
    async def livez(request: Request) -> Response:
        return _json({"status": "alive"})

    @router.get("/readyz", response_model=Health, responses=_problems(503), summary="Is a model ready?")
    async def readyz(request: Request) -> Response:
        service.check_ready()
        return _json({"status": "ready", "model": {"name": settings.model_name, "version": service.card.version}})

    @router.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics of all processes")
    async def metrics(request: Request) -> Response:
        SEEN.write()
        page = await asyncio.to_thread(render, settings.model_name, SEEN.card)
        return Response(page, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _answer(asked: PredictRequest, classified: Classified, model_name: str) -> dict[str, Any]:
    model = {"name": model_name, "version": classified.card.version}
    if asked.many:
        results = iter(classified.images)
        images = [next(results) if isinstance(image, bytes) else image for image in asked.images]
        return {"predictions": _describe(images, classified.card, asked.top_k), "model": model}
    (image,) = classified.images
    if isinstance(image, ImageError):
        raise image_refused(image)
    return {**_describe([image], classified.card, asked.top_k)[0], "model": model}


def _describe(images: Sequence[Probabilities | ImageError], card: ModelCard, top_k: int) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = []
    for image in images:
        if isinstance(image, ImageError):
            SEEN.rejected(image.code)
            described.append({"error": {"code": image.code, "detail": image.detail}})
            continue
        probabilities: list[float] = image.tolist()
        ranked = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)
        top = [
            {"label": card.classes[class_id], "class_id": class_id, "probability": round(probabilities[class_id], 6)}
            for class_id in ranked[:top_k]
        ]
        best = top[0]
        described.append(
            {"label": best["label"], "class_id": best["class_id"], "confidence": best["probability"], "top": top}
        )
    return described


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
