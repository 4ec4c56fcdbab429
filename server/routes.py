"""The HTTP surface. Thin: a request becomes images, the service classifies them, the result becomes JSON."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from models.card import ModelCard
from models.pixels import ImageError
from server.errors import image_refused
from server.exposition import render
from server.metrics import SEEN
from server.page import add_page_routes
from server.requests import PredictRequest, Reader, read_predict_request
from server.routing import DirectRoute, in_time, json_response, problems
from server.schemas import PREDICT_OPENAPI, Health, Prediction, Predictions
from server.service import Classified, Service
from server.settings import Settings
from server.tf_serving import add_tf_serving_routes
from server.v2_routes import add_v2_routes
from server.wire import Probabilities


def add_routes(router: APIRouter, service: Service, settings: Settings) -> None:
    """All routes of the service."""
    router.route_class = DirectRoute
    _add_predict(router, service, settings)
    add_v2_routes(router, service, settings)
    add_page_routes(router, service, settings)
    _add_operations(router, service, settings)


def _add_predict(router: APIRouter, service: Service, settings: Settings) -> None:
    async def classify(asked: PredictRequest) -> Classified:
        return await service.classify([image for image in asked.images if isinstance(image, bytes)])

    async def answer(request: Request, read: Reader) -> Response:
        service.check_room()  # before the body is read
        reading = read(request, settings)
        asked, classified = await in_time(request, settings.deadline_s, reading, classify)
        return json_response(_answer(asked, classified, settings.model_name))

    @router.post(
        "/predict",
        response_model=Prediction | Predictions,
        responses=problems(400, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra=PREDICT_OPENAPI,
        summary="Classify one image, or many",
    )
    async def predict(request: Request) -> Response:
        return await answer(request, read_predict_request)

    add_tf_serving_routes(router, service, settings, answer)


def _add_operations(router: APIRouter, service: Service, settings: Settings) -> None:
    @router.get("/livez", response_model=Health, summary="Is the process alive?")
    async def livez(request: Request) -> Response:
        return json_response({"status": "alive"})

    @router.get("/readyz", response_model=Health, responses=problems(503), summary="Is a model ready?")
    async def readyz(request: Request) -> Response:
        service.check_ready()
        return json_response(
            {"status": "ready", "model": {"name": settings.model_name, "version": service.card.version}}
        )

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
        answer: dict[str, Any] = {
            "label": best["label"],
            "class_id": best["class_id"],
            "confidence": best["probability"],
        }
        if card.uncertain_below is not None:
            answer["uncertain"] = probabilities[ranked[0]] < card.uncertain_below
        answer["top"] = top
        described.append(answer)
    return described
