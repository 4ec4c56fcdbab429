"""Every way in which a prediction can fail:

CifarError
├── ServiceUnreachable            nothing answers there, or the connection was lost
│   └── ServiceTimeout            no answer in time
├── MalformedAnswer               an answer came, but not one of this service
├── ImageError                    this one image has no prediction; predict_many yields it in the image's place
└── StatusError                   the service answered with an error status
    ├── BadRequest            400
    ├── Unauthorized          401  the API key is missing or wrong
    ├── NotFound              404
    ├── MethodNotAllowed      405
    ├── PayloadTooLarge       413  too many bytes, pixels or images
    ├── UnsupportedMediaType  415
    ├── InvalidImage          422  empty, damaged or not an image
    ├── TooManyRequests       429  the queue is full
    └── ServerError           5xx
        ├── NotReady          503  no model is ready
        └── DeadlineExceeded  504
"""


class CifarError(Exception):
    """Whatever goes wrong between a caller and a prediction; the message is a sentence for people."""


class ServiceUnreachable(CifarError):
    """Nothing answers at the service's address, or the connection was lost."""


class ServiceTimeout(ServiceUnreachable):
    """The service did not answer in time."""


class MalformedAnswer(CifarError):
    """Something answered that does not speak this service's protocol."""


class ImageError(CifarError):
    """One image has no prediction: `code` is stable and for programs, `detail` is a sentence for people.

    The codes are the service's (`not_an_image`, `corrupt_image`, ...) and, for an image that could not be read on this
    side, `unreadable`.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class StatusError(CifarError):
    """The service, or a proxy before it, answered with an error status.

    `code` is the service's stable name for the reason (`http_<status>` where a proxy gave none), `request_id` finds
    the request in the service's log, `retry_after_s` is how long it asked to be left alone.
    """

    def __init__(
        self, status: int, code: str, detail: str, request_id: str | None = None, retry_after_s: float | None = None
    ) -> None:
        request = f", request {request_id}" if request_id else ""
        super().__init__(f"{detail} (HTTP {status} {code}{request})")
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class BadRequest(StatusError):
    """400: the service did not understand the request."""


class Unauthorized(StatusError):
    """401: the API key is missing or wrong."""


class NotFound(StatusError):
    """404: there is no such route, so perhaps another service."""


class MethodNotAllowed(StatusError):
    """405: the route is there and takes no POST, so perhaps another service."""


class PayloadTooLarge(StatusError):
    """413: too many bytes, pixels or images for the service's limits."""


class UnsupportedMediaType(StatusError):
    """415: a content type that the service never takes."""


class InvalidImage(StatusError):
    """422: the image is empty, damaged or not an image."""


class TooManyRequests(StatusError):
    """429: the service's queue is full."""


class ServerError(StatusError):
    """5xx: the service, or a proxy before it, failed."""


class NotReady(ServerError):
    """503: no model is ready."""


class DeadlineExceeded(ServerError):
    """504: the service did not come to the request in time."""


_BY_STATUS: dict[int, type[StatusError]] = {
    400: BadRequest,
    401: Unauthorized,
    404: NotFound,
    405: MethodNotAllowed,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    422: InvalidImage,
    429: TooManyRequests,
    503: NotReady,
    504: DeadlineExceeded,
}


def error_for(status: int) -> type[StatusError]:
    """The exception of a status; the family's where the status has none of its own."""
    return _BY_STATUS.get(status, ServerError if status >= 500 else StatusError)
