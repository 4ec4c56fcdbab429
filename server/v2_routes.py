"""The routes of the Open Inference Protocol v2, for one model in one version; its messages are in `v2`."""

from importlib import metadata
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from models.pixels import ImageError
from server import v2
from server.errors import image_refused
from server.requests import read_body
from server.routing import check_model, json_response, protocol_problems, within
from server.schemas import Model, infer_openapi, model_openapi
from server.service import Service

_EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")
_MODEL_PATHS = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")


def add_v2_routes(router: APIRouter, service: Service) -> None:
    _add_metadata(router, service)
    _add_infer(router, service)
    _add_repository(router, service)


def _add_metadata(router: APIRouter, service: Service) -> None:
    async def server(request: Request) -> Response:
        version = metadata.version("cifar-service")
        return json_response({"name": "cifar-service", "version": version, "extensions": _EXTENSIONS})

    async def live(request: Request) -> Response:
        return json_response({"live": True})

    async def ready(request: Request) -> Response:
        service.check_ready()
        if "name" in request.path_params:
            check_model(request, service)
        return json_response({"ready": True})

    async def model(request: Request) -> Response:
        check_model(request, service)
        return json_response(v2.metadata(service.model_name, service.card))

    add = router.add_api_route
    add("/v2", server, summary="What this server is")
    add("/v2/", server, include_in_schema=False)  # as the protocol's own OpenAPI document has it
    add("/v2/health/live", live, summary="Is the server alive?")
    add("/v2/health/ready", ready, responses=protocol_problems(503), summary="Is the server ready?")
    for path in _MODEL_PATHS:
        documented: dict[str, Any] = {"responses": protocol_problems(404, 503), "openapi_extra": model_openapi(path)}
        add(path, model, summary="What the model takes and gives", **documented)
        add(f"{path}/ready", ready, summary="Is this model ready?", **documented)


def _add_infer(router: APIRouter, service: Service) -> None:
    async def read(request: Request) -> v2.InferRequest:
        json_length = request.headers.get("inference-header-content-length")
        return v2.read_request(await read_body(request), json_length, service.card, service.settings.max_images)

    async def infer(request: Request) -> Response:
        check_model(request, service)
        service.check_room()  # before the body is read
        state = request.scope["state"]  # for its line in the log

        async def classify(asked: v2.InferRequest) -> Response:
            state["images"] = len(asked.images)
            classified = await service.classify(asked.images)
            state["batch_size"] = classified.batch_size
            rows = []
            for row in classified.images:
                if isinstance(row, ImageError):  # the protocol has no answer for some of the images
                    raise image_refused(row)
                rows.append(row)
            body, headers = v2.render_answer(asked, rows, classified.card, service.model_name)
            return Response(body, headers=headers)

        return await within(service.settings.deadline_s, read(request), classify)

    for path in _MODEL_PATHS:
        router.add_api_route(
            f"{path}/infer",
            infer,
            methods=["POST"],
            responses=protocol_problems(400, 404, 408, 413, 415, 422, 429, 500, 503, 504),
            openapi_extra=infer_openapi(path),
            summary="Classify encoded images, or pixels",
        )


def _add_repository(router: APIRouter, service: Service) -> None:
    @router.post("/v2/repository/index", responses=protocol_problems(503), summary="List the models that are served")
    async def index(request: Request) -> Response:
        state = "READY" if service.ready else "UNAVAILABLE"
        model = {**service.model_info(service.card), "state": state, "reason": ""}
        return json_response([model])

    @router.post(
        "/v2/repository/models/{name}/load",
        response_model=Model,
        responses=protocol_problems(404, 408, 409, 413, 415, 429, 503, 504),
        openapi_extra=model_openapi("{name}"),
        summary="Serve the checkpoint as it is on disk now",
    )
    async def load(request: Request) -> Response:
        check_model(request, service)
        # The deadline passes if there is no worker, or one does not answer.
        card = await within(service.settings.deadline_s, read_body(request), lambda _: service.reload())
        return json_response(service.model_info(card))
