"""The HTTP surface. Thin: a request becomes images, the service classifies them, the result becomes JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from models.card import ModelCard
from models.pixels import ImageError
from server.errors import image_refused
from server.requests import PredictRequest, read_predict_request
from server.schemas import PREDICT_OPENAPI, Health, Prediction, Predictions, Problem
from server.service import Classified, Service
from server.settings import Settings
from server.wire import Probabilities

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "malformed request"},
    413: {"model": Problem, "description": "body, picture or number of images over the limit"},
    415: {"model": Problem, "description": "a content type that is never taken"},
    422: {"model": Problem, "description": "not an image, truncated or empty"},
    429: {"model": Problem, "description": "too many images wait; Retry-After says when to come back"},
    500: {"model": Problem, "description": "the service failed; its log has the reason"},
    503: {"model": Problem, "description": "no model is ready"},
    504: {"model": Problem, "description": "no answer within the deadline"},
}


class DirectRoute(APIRoute):
    """Documented like any FastAPI route but called straight away: FastAPI's dependency machinery costs some 35 µs."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            return await super().handle(scope, receive, send)  # which refuses it with 405
        response = await self.endpoint(Request(scope, receive))
        await response(scope, receive, send)


def add_routes(router: APIRouter, service: Service, settings: Settings) -> None:
    """All routes of the service."""
    router.route_class = DirectRoute

    @router.post(
        "/predict",
        response_model=Prediction | Predictions,
        responses=_PROBLEMS,
        openapi_extra=PREDICT_OPENAPI,
        summary="Classify one image, or many",
    )
    async def predict(request: Request) -> Response:
        service.check_room()  # before the body is read
        asked = await read_predict_request(request, settings)
        classified = await service.classify([image for image in asked.images if isinstance(image, bytes)])
        return _json(_answer(asked, classified, settings.model_name))

    @router.get("/livez", response_model=Health, summary="Is the process alive?")
    async def livez(request: Request) -> Response:
        return _json({"status": "alive"})

    @router.get("/readyz", response_model=Health, responses={503: _PROBLEMS[503]}, summary="Is a model ready?")
    async def readyz(request: Request) -> Response:
        return _json({"status": "ready", "model": {"name": settings.model_name, "version": service.card.version}})


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
            described.append({"error": {"code": image.code, "detail": image.detail}})
            continue
        top = [
            {"label": card.classes[class_id], "class_id": class_id, "probability": round(float(image[class_id]), 6)}
            for class_id in np.argsort(-image, kind="stable")[:top_k].tolist()
        ]
        best = top[0]
        described.append(
            {"label": best["label"], "class_id": best["class_id"], "confidence": best["probability"], "top": top}
        )
    return described


def _json(content: dict[str, Any]) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
