"""TensorFlow Serving's REST form of /predict, which Vertex AI's clients send too.

https://www.tensorflow.org/tfx/serving/api_rest
"""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.requests import Reader, read_instances
from server.routing import check_model, json_response, protocol_problems
from server.schemas import Predictions, instances_openapi, model_openapi
from server.service import Service
from server.settings import Settings

_PATH = "/v1/models/{name}"


def add_tf_serving_routes(
    router: APIRouter, service: Service, settings: Settings, answer: Callable[[Request, Reader], Awaitable[Response]]
) -> None:
    """`answer` is how /predict answers what a reader makes of a request."""

    @router.post(
        f"{_PATH}:predict",
        response_model=Predictions,
        responses=protocol_problems(400, 404, 408, 413, 429, 500, 503, 504),
        openapi_extra=instances_openapi(_PATH),
        summary="Classify the images of TensorFlow Serving's clients",
    )
    async def predict(request: Request) -> Response:
        check_model(request, service, settings)
        return await answer(request, read_instances)

    @router.get(
        _PATH,
        responses=protocol_problems(404, 503),
        openapi_extra=model_openapi(_PATH),
        summary="Is this model there?",
    )
    async def status(request: Request) -> Response:
        check_model(request, service, settings)
        state = "AVAILABLE" if service.ready else "LOADING"
        version = {"version": service.card.version, "state": state, "status": {"error_code": "OK", "error_message": ""}}
        # `name` and `ready` are for KServe's client, whose first protocol has this path too.
        return json_response({"name": settings.model_name, "ready": service.ready, "model_version_status": [version]})
