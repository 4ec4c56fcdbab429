"""What the sync and the async client share: requests built, answers parsed, failures judged. No I/O."""

import base64
import json
import random
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from clients.errors import (
    CifarError,
    ImageError,
    InvalidImage,
    MalformedAnswer,
    PayloadTooLarge,
    ServiceTimeout,
    ServiceUnreachable,
    StatusError,
    UnsupportedMediaType,
    error_for,
)
from clients.results import Prediction, parse_many, parse_one

if TYPE_CHECKING:
    import httpx

# What the service says of one image by refusing a whole request.
REFUSALS = (InvalidImage, PayloadTooLarge, UnsupportedMediaType)

_RETRIED_STATUSES = {408, 429, 500, 502, 503, 504}
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 8.0
_LONGEST_RETRY_AFTER_S = 60.0


def service_url(url: str) -> str:
    """`url`, checked. Raises ValueError with a sentence."""
    parts = urlsplit(url)  # it and .port raise ValueError for brackets and ports that are none
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"the service's address looks like http://127.0.0.1:8000, not {url!r}")
    return url


def request(images: Sequence[bytes], top_k: int) -> dict[str, Any]:
    """The arguments of httpx's `post` for one encoded image or more: one goes raw, many as base64 in JSON."""
    if len(images) == 1:
        content, content_type = images[0], "application/octet-stream"
    else:
        texts = [base64.b64encode(image).decode("ascii") for image in images]
        content, content_type = json.dumps({"images": texts}).encode("ascii"), "application/json"
    return {
        "url": "/predict",
        "params": {"top_k": top_k},
        "content": content,
        "headers": {"Content-Type": content_type},
    }


def prediction(response: "httpx.Response") -> Prediction:
    """The answer to one image. Raises MalformedAnswer."""
    return parse_one(_answer(response))


def predictions(response: "httpx.Response", count: int) -> list[Prediction | ImageError]:
    """The answer to a request of `count` images, in their order. Raises MalformedAnswer."""
    return [prediction(response)] if count == 1 else parse_many(_answer(response), count)


def failure(response: "httpx.Response") -> StatusError | None:
    """The error that a response stands for; None for a success."""
    if response.is_success:
        return None
    answer = _json(response)
    problem = answer if isinstance(answer, dict) else {}  # a proxy's page is no problem+json
    status = response.status_code
    return error_for(status)(
        status,
        str(problem.get("code") or f"http_{status}"),
        str(problem.get("detail") or problem.get("title") or response.reason_phrase or "no reason given"),
        problem.get("request_id") or response.headers.get("X-Request-ID"),
        _retry_after_s(response.headers.get("Retry-After")),
    )


def unreachable(error: "httpx.RequestError", url: str) -> ServiceUnreachable:
    """Our error for httpx's."""
    import httpx

    if isinstance(error, httpx.ConnectTimeout):
        return ServiceTimeout(f"{url} does not take connections: it did not react in time")
    if isinstance(error, httpx.TimeoutException):
        return ServiceTimeout(
            f"the service at {url} did not answer within {error.request.extensions['timeout']['read']:g} s"
        )
    return ServiceUnreachable(f"no answer from {url}: {error or type(error).__name__}")


def retry_delay_s(error: CifarError, attempt: int, retries: int) -> float:
    """How long to wait after the `attempt`-th failure (0 is the first) before asking again. Raises `error` to give up.

    0.5 s, then twice that each time up to 8 s, less up to a quarter at random so that callers do not come back
    all at once; or what the service itself asked for. Asking again is safe: a prediction changes nothing.
    """
    if attempt >= retries or (isinstance(error, StatusError) and error.status not in _RETRIED_STATUSES):
        raise error
    if not isinstance(error, StatusError) or error.retry_after_s is None:
        return min(_FIRST_DELAY_S * 2.0**attempt, _LONGEST_DELAY_S) * random.uniform(0.75, 1)
    if error.retry_after_s > _LONGEST_RETRY_AFTER_S:
        raise error
    return error.retry_after_s


def _answer(response: "httpx.Response") -> object:
    answer = _json(response)
    if answer is None:
        content_type = response.headers.get("Content-Type", "no content type")
        raise MalformedAnswer(f"{response.url.copy_with(query=None)} answered {content_type} where JSON was expected")
    return answer


def _json(response: "httpx.Response") -> object:
    try:
        return response.json()
    except ValueError:  # a JSONDecodeError or a UnicodeDecodeError
        return None


def _retry_after_s(header: str | None) -> float | None:
    """Seconds or an HTTP date, as RFC 9110 has it; None for anything else."""
    if header is None:
        return None
    try:
        return max(0.0, float(header) if header.isdigit() else parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
