"""The service's HTTP, without I/O: what a request contains, which error a failure is, how long to wait for a retry."""

import base64
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from clients.errors import CifarError, ServiceTimeout, ServiceUnreachable, StatusError, error_for

if TYPE_CHECKING:
    import httpx

_FIRST_PAUSE_S, _SHORTEST_PAUSE_S = 0.5, 0.1


def service_url(url: str) -> str:
    """Returns `url` if a service may have it as its address. Raises ValueError with a sentence."""
    import httpx

    with suppress(ValueError, httpx.InvalidURL):
        parts = urlsplit(str(httpx.URL(url)))  # .port raises ValueError where it is not a port
        complete = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if complete and not parts.query and not parts.fragment:  # a path will be appended
            return url
    raise ValueError(f"the service's address looks like http://127.0.0.1:8000, not {url!r}")


def without_password(url: str) -> str:
    """`url` without user name and password, for messages and the logs of CI."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def request(images: Sequence[bytes], top_k: int) -> dict[str, Any]:
    """The arguments of httpx's `post` for encoded images: a single one is sent raw, several as base64 in JSON."""
    if len(images) == 1:
        content, content_type = images[0], "application/octet-stream"
    else:  # by hand: json.dumps would search the base64 for characters to escape
        texts = b'","'.join(base64.b64encode(image) for image in images)
        content, content_type = b'{"images":["%b"]}' % texts, "application/json"
    return {"url": f"/predict?top_k={top_k}", "content": content, "headers": {"Content-Type": content_type}}


def failure(response: "httpx.Response") -> StatusError | None:
    """The error for a response; None for a successful one."""
    if response.is_success:
        return None
    try:
        answer = response.json()
    except (ValueError, RecursionError):  # it is not problem+json: a proxy's page, perhaps
        answer = None
    problem = answer if isinstance(answer, dict) else {}
    status = response.status_code
    detail = problem.get("detail") or problem.get("title") or response.reason_phrase or "no reason given"
    if response.has_redirect_location:  # not followed: the API key would go wherever it leads
        detail = f"this address redirects to {response.headers['Location']}: use the service's address there"
    return error_for(status)(
        status,
        str(problem.get("code") or f"http_{status}"),
        str(detail),
        problem.get("request_id") or response.headers.get("X-Request-ID"),
        _retry_after_s(response.headers.get("Retry-After")),
    )


def unreachable(error: Exception, url: str, timeout_s: float) -> ServiceUnreachable:
    """The error of ours for one of httpx's, or of TLS."""
    import httpx

    if isinstance(error, httpx.ConnectTimeout):
        return ServiceTimeout(f"{url} did not accept a connection in time")
    if isinstance(error, httpx.TimeoutException):
        return ServiceTimeout(f"the service at {url} did not answer within {timeout_s:g} s")
    return ServiceUnreachable(f"no answer from {url}: {error or type(error).__name__}")


def pause_s(error: CifarError, attempt: int, retries: int, left_s: float) -> float:
    """Seconds to wait after failure number `attempt`, from 0, before the next attempt. Raises `error` to give up.

    0.5 s, then twice as long each time up to 8 s, less up to a quarter at random so that callers do not come back all
    at once; or what the service itself asked for, but at least 0.1 s, and up to a quarter more. It is safe to ask
    again: a prediction changes nothing.
    """
    status, retry_after_s = (error.status, error.retry_after_s) if isinstance(error, StatusError) else (None, None)
    if retry_after_s is None:
        pause = _FIRST_PAUSE_S * 2.0 ** min(attempt, 4) * random.uniform(0.75, 1)
    else:
        pause = max(retry_after_s, _SHORTEST_PAUSE_S) * random.uniform(1, 1.25)
    temporary = status is None or status >= 500 or status in (408, 425, 429)  # proxies have 5xx of their own
    if attempt >= retries or pause > left_s or not temporary:
        raise error
    return pause


def _retry_after_s(header: str | None) -> float | None:
    """The seconds to wait that a Retry-After header (RFC 9110) gives as a number or a date; None for anything else."""
    if header is None:
        return None
    try:
        return max(0.0, float(header) if header.isdigit() else parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
