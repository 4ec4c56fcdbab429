"""The HTTP surface. Thin: a request becomes images, the service classifies them, the result becomes JSON."""

import asyncio
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from models.card import ModelCard
from models.pixels import ImageError
from server.errors import PayloadTooLarge, image_refused
from server.exposition import render
from server.metrics import RECORDER
from server.page import add_page_routes
from server.requests import PredictRequest, Reader, read_instances, read_predict_request
from server.routing import DirectRoute, check_model, json_response, problems, protocol_problems, within
from server.schemas import PREDICT_OPENAPI, Health, Prediction, Predictions, instances_openapi, model_openapi
from server.service import Classified, Service
from server.v2_routes import add_v2_routes
from server.wire import Probabilities

_V1_MODEL = "/v1/models/{name}"
_MOST_LABELS = 100_000  # in an answer: while it is written, for 0.2 s, nobody else is answered


def add_routes(router: APIRouter, service: Service) -> None:
    """All routes of the service."""
    router.route_class = DirectRoute
    _add_predict(router, service)
    _add_status(router, service)
    add_v2_routes(router, service)
    add_page_routes(router, service)
    _add_operations(router, service)


def _add_predict(router: APIRouter, service: Service) -> None:
    async def answer(request: Request, read: Reader) -> Response:
        service.check_room()  # before the body is read
        state = request.scope["state"]  # for its line in the log

        async def classify(asked: PredictRequest) -> dict[str, Any]:
            state["images"] = len(asked.images)
            _check_answer_size(asked, service.card)
            classified = await service.classify([image for image in asked.images if isinstance(image, bytes)])
            state["batch_size"] = classified.batch_size
            return _answer(asked, classified, service.model_info(classified.card))

        return json_response(await within(service.settings.deadline_s, read(request, service.settings), classify))

    @router.post(
        "/predict",
        response_model=Prediction | Predictions,
        responses=problems(400, 408, 413, 415, 422, 429, 500, 503, 504),
        openapi_extra=PREDICT_OPENAPI,
        summary="Classify one image, or many",
    )
    async def predict(request: Request) -> Response:
        return await answer(request, read_predict_request)

    # TensorFlow Serving's API, which Vertex AI's clients use too: https://www.tensorflow.org/tfx/serving/api_rest
    @router.post(
        f"{_V1_MODEL}:predict",
        response_model=Predictions,
        responses=protocol_problems(400, 404, 408, 413, 415, 429, 500, 503, 504),
        openapi_extra=instances_openapi(_V1_MODEL),
        summary="Classify the images of TensorFlow Serving's clients",
    )
    async def predict_instances(request: Request) -> Response:
        check_model(request, service)
        return await answer(request, read_instances)


def _add_status(router: APIRouter, service: Service) -> None:
    @router.get(
        _V1_MODEL,
        responses=protocol_problems(404, 503),
        openapi_extra=model_openapi(_V1_MODEL),
        summary="Is this model there?",
    )
    async def status(request: Request) -> Response:
        if request.path_params["name"].endswith(":predict"):  # which this pattern matches too
            raise HTTPException(405, headers={"Allow": "POST"})
        check_model(request, service)
        state = "AVAILABLE" if service.ready else "LOADING"
        version = {"version": service.card.version, "state": state, "status": {"error_code": "OK", "error_message": ""}}
        # `name` and `ready` are for KServe's client, whose first protocol has this path too.
        return json_response({"name": service.model_name, "ready": service.ready, "model_version_status": [version]})


def _add_operations(router: APIRouter, service: Service) -> None:
    @router.get("/livez", response_model=Health, summary="Is the process alive?")
    async def livez(request: Request) -> Response:
        return json_response({"status": "alive"})

    @router.get("/readyz", response_model=Health, responses=problems(503), summary="Is a model ready?")
    async def readyz(request: Request) -> Response:
        service.check_ready()
        return json_response({"status": "ready", "model": service.model_info(service.card)})

    @router.get("/metrics", response_class=PlainTextResponse, summary="Prometheus metrics of all processes")
    async def metrics(request: Request) -> Response:
        RECORDER.write()
        page = await asyncio.to_thread(render, service.model_name, RECORDER.card)
        return Response(page, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _check_answer_size(asked: PredictRequest, card: ModelCard) -> None:
    if len(asked.images) * min(asked.top_k, len(card.classes)) > _MOST_LABELS:
        raise PayloadTooLarge(
            f"{len(asked.images)} images with top_k={asked.top_k} are too much for one answer: "
            "split the request, or lower top_k",
            "too_many_images",
        )


def _answer(asked: PredictRequest, classified: Classified, model: dict[str, str]) -> dict[str, Any]:
    card, top_k = classified.card, asked.top_k
    if asked.many:
        results = iter(classified.images)
        images = (next(results) if isinstance(image, bytes) else image for image in asked.images)
        return {"predictions": [_describe(image, card, top_k) for image in images], "model": model}
    (image,) = classified.images
    if isinstance(image, ImageError):
        raise image_refused(image)
    return {**_describe(image, card, top_k), "model": model}


def _describe(image: Probabilities | ImageError, card: ModelCard, top_k: int) -> dict[str, Any]:
    if isinstance(image, ImageError):
        RECORDER.rejected(image.code)
        return {"error": {"code": image.code, "detail": image.detail}}
    probabilities: list[float] = image.tolist()
    ranked = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)
    top = [
        {"label": card.classes[class_id], "class_id": class_id, "probability": round(probabilities[class_id], 6)}
        for class_id in ranked[:top_k]
    ]
    best = top[0]
    answer = {"label": best["label"], "class_id": best["class_id"], "confidence": best["probability"]}
    if card.uncertain_below is not None:
        answer["uncertain"] = probabilities[ranked[0]] < card.uncertain_below
    return {**answer, "top": top}
