"""Every way in which a prediction can fail:

CifarError
├── ServiceUnreachable            nothing answers there, or the connection was lost
│   └── ServiceTimeout            no answer in time
├── MalformedAnswer               an answer came, but not one that this service gives
├── ImageError                    this one image has no prediction; predict_many yields it in the image's place
└── StatusError                   the service, or a proxy in front of it, answered with an error status
    ├── BadRequest           400  it did not understand the request
    ├── Unauthorized         401  the API key is missing or wrong
    ├── NotFound             404  there is no such route: perhaps this is another service
    ├── PayloadTooLarge      413  too many bytes, pixels or images for its limits
    ├── InvalidImage         422  the image is empty or damaged, or not an image
    ├── TooManyRequests      429  its queue is full
    └── ServerError          5xx  it failed
        ├── NotReady         503  no model is ready
        └── DeadlineExceeded 504  it had no answer within its deadline
"""

from dataclasses import dataclass


class CifarError(Exception):
    """The base of all these errors; the message is a sentence for people."""


class ServiceUnreachable(CifarError): ...


class ServiceTimeout(ServiceUnreachable): ...


class MalformedAnswer(CifarError): ...


@dataclass(eq=False)
class ImageError(CifarError):
    """One image has no prediction: `code` is stable and for programs, `detail` is a sentence for people.

    The codes are the service's (`not_an_image`, `corrupt_image`, ...) and, for an image that the client could not read,
    `unreadable`.
    """

    code: str
    detail: str

    def __str__(self) -> str:
        return self.detail


_BY_STATUS: dict[int, type["StatusError"]] = {}


@dataclass(eq=False)
class StatusError(CifarError):
    """`code` is the service's stable name for the reason (`http_<status>` where a proxy gave none), `request_id` finds
    the request in the service's log, `retry_after_s` is how many seconds the service asks to wait, if it does."""

    status: int
    code: str
    detail: str
    request_id: str | None = None
    retry_after_s: float | None = None

    def __init_subclass__(cls, status: int = 0) -> None:
        _BY_STATUS[status] = cls

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.detail} (HTTP {self.status} {self.code}{request})"


class BadRequest(StatusError, status=400): ...


class Unauthorized(StatusError, status=401): ...


class NotFound(StatusError, status=404): ...


class PayloadTooLarge(StatusError, status=413): ...


class InvalidImage(StatusError, status=422): ...


class TooManyRequests(StatusError, status=429): ...


class ServerError(StatusError, status=500): ...


class NotReady(ServerError, status=503): ...


class DeadlineExceeded(ServerError, status=504): ...


def error_for(status: int) -> type[StatusError]:
    """The exception for a status; ServerError or StatusError for one that has none of its own."""
    return _BY_STATUS.get(status, ServerError if status >= 500 else StatusError)
