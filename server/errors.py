"""What the service refuses, and how it says so: RFC 9457 problem details with a stable `code`."""

from http import HTTPStatus

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from models.pixels import ImageError

PROBLEM = "application/problem+json"
_MOST_SAID = 1000  # characters of a sentence that quotes a request
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}  # RFC 9110's, which Python has from 3.13 on


class ServiceError(Exception):
    """A refusal with its HTTP status; `code` is stable and for programs, `detail` is a sentence for people."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal_error"

    def __init_subclass__(cls, status: HTTPStatus, code: str) -> None:
        cls.status, cls.code = status, code

    def __init__(self, detail: str, code: str | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = _shorten(detail)
        self.code = code or type(self).code
        self.headers = headers or {}


def _shorten(text: str) -> str:
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]} …"


class BadRequest(ServiceError, status=HTTPStatus.BAD_REQUEST, code="bad_request"):
    """The request's form is wrong: JSON, multipart, top_k."""


class Unauthorized(ServiceError, status=HTTPStatus.UNAUTHORIZED, code="unauthorized"):
    """The API key is missing or not valid."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="cifar-service"'})


class UnknownModel(ServiceError, status=HTTPStatus.NOT_FOUND, code="unknown_model"):
    """No model of that name is served."""


class RequestTimeout(ServiceError, status=HTTPStatus.REQUEST_TIMEOUT, code="request_timeout"):
    """The body did not arrive within the deadline."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"the body did not arrive within {deadline_s:g} s")


class CheckpointRefused(ServiceError, status=HTTPStatus.CONFLICT, code="checkpoint_refused"):
    """The checkpoint on disk cannot be served; the previous one stays in use."""


class PayloadTooLarge(ServiceError, status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE, code="body_too_large"):
    """Body, picture or number of images over the limit."""


class UnsupportedMediaType(ServiceError, status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE, code="unsupported_media_type"):
    """A content type or a content encoding that is not supported."""


class UnprocessableImage(ServiceError, status=HTTPStatus.UNPROCESSABLE_ENTITY, code="corrupt_image"):
    """The image is empty, truncated, damaged, or not an image."""


class QueueFull(ServiceError, status=HTTPStatus.TOO_MANY_REQUESTS, code="queue_full"):
    """Too much is waiting; Retry-After says when to try again."""

    def __init__(self, waiting: str = "images") -> None:
        super().__init__(f"too many {waiting} are waiting: try again in a second", headers={"Retry-After": "1"})


class InferenceFailed(ServiceError, status=HTTPStatus.INTERNAL_SERVER_ERROR, code="inference_failed"):
    """The network failed on this batch; the log has the reason."""


class NotReady(ServiceError, status=HTTPStatus.SERVICE_UNAVAILABLE, code="not_ready"):
    """No model is ready."""


class DeadlineExceeded(ServiceError, status=HTTPStatus.GATEWAY_TIMEOUT, code="deadline_exceeded"):
    """No answer within the deadline."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"no answer within {deadline_s:g} s: the service is overloaded, or its worker is restarting")


def image_refused(error: ImageError) -> ServiceError:
    """The refusal of a request whose only image cannot become pixels."""
    kind = PayloadTooLarge if error.code == "too_many_pixels" else UnprocessableImage
    return kind(error.detail, error.code)


def as_refusal(request: Request, error: Exception) -> ServiceError:
    """The error as a ServiceError, which Starlette's own (404, 405) and unexpected ones become."""
    if isinstance(error, ServiceError):
        return error
    if not isinstance(error, HTTPException):
        return ServiceError("the service failed on this request; its log has the reason under this request id")
    status, headers = HTTPStatus(error.status_code), dict(error.headers or {})
    details = {404: "there is no such path: see /docs", 405: f"this path takes {headers.get('Allow')}"}
    detail = f"{request.method} {_shorten(request.url.path)}: {details.get(status, error.detail)}"
    refusal = ServiceError(detail, status.name.lower(), headers)
    refusal.status = status
    return refusal


def render(request: Request, refusal: ServiceError) -> Response:
    """The refusal as a problem document."""
    problem = {
        "type": "about:blank",
        "title": _TITLES.get(refusal.status, refusal.status.phrase),
        "status": int(refusal.status),
        "code": refusal.code,
        "detail": refusal.detail,
        "request_id": request.state.request_id,
    }
    media_type = PROBLEM
    if request.scope.get("path", "").startswith(("/v1", "/v2")):  # if it was not HTTP, it has no path
        # Clients of TensorFlow Serving and of the Open Inference Protocol look there, and KServe's only in this type.
        problem["error"], media_type = refusal.detail, "application/json"
    return Response(orjson.dumps(problem), int(refusal.status), refusal.headers, media_type)
