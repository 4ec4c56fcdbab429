"""The boundary that every request crosses: it gets an id and is counted, its key is checked, its body has a limit, and
an error becomes a response."""

import asyncio
import logging
import random
import re
import time

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import logs
from server.errors import PayloadTooLarge, QueueFull, ServiceError, UnsupportedMediaType, as_refusal, render
from server.metrics import RECORDER
from server.security import OPEN_PATHS, ApiKeys
from server.settings import Settings

_VALID_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_CLIENT_GONE = 499  # nginx's, for a client that leaves before its answer: nobody is left to read it
_COUNTED_ONLY = (429, _CLIENT_GONE)  # not logged: they come by the thousand, when there is least time for it
_NO_ROUTE = "none"
_LOGGED_PATH_LENGTH = 256

log = logging.getLogger(__name__)


class Boundary:
    """One layer where Starlette would have one each for errors, exceptions, ids, limits, keys: each costs time.

    With the setting `access_log` every request is logged. Else only those that failed are, except on OPEN_PATHS, whose
    probes fail many times while a model loads, and except _COUNTED_ONLY.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, settings: Settings) -> None:
        self._app = app
        self._keys = keys
        self.max_waiting_bytes = settings.max_waiting_bytes
        # One that is larger than all that may wait would be told to try again for ever.
        self.max_body_bytes = min(settings.max_body_bytes, settings.max_waiting_bytes)
        self.waiting_bytes = 0  # received of the bodies of all requests in progress
        self._log_all = settings.access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        exchange = _Exchange(scope, receive, send, self)
        scope["state"]["task"] = asyncio.current_task()
        RECORDER.in_flight += 1
        try:
            try:
                if self._keys:
                    self._keys.check(scope["path"], exchange.headers)
                await self._app(scope, exchange.receive, exchange.send)
            except ClientDisconnect:
                exchange.status = _CLIENT_GONE
            except Exception as error:
                await exchange.refuse(error)
        except asyncio.CancelledError:  # by our protocol because the client has gone, or by Ray
            exchange.status = exchange.status or _CLIENT_GONE
            if "client_gone" not in scope["state"]:
                raise
        finally:
            RECORDER.in_flight -= 1
            self.waiting_bytes -= exchange.received
            seconds = time.perf_counter() - started
            status = exchange.status
            RECORDER.request(scope["route"].path if "route" in scope else _NO_ROUTE, status, seconds)
            if self._log_all or (status >= 400 and status not in _COUNTED_ONLY and scope["path"] not in OPEN_PATHS):
                exchange.log(seconds)


class _Exchange:
    """One request and its answer, watched on their way through."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, boundary: Boundary) -> None:
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.id = self.headers.get(b"x-request-id", b"")
        if not _VALID_REQUEST_ID.fullmatch(self.id):
            self.id = b"%032x" % random.getrandbits(128)
        scope.setdefault("state", {})["request_id"] = self.id.decode()
        self.status = 0  # until an answer begins
        self._scope, self._receive, self._send = scope, receive, send
        self._boundary = boundary
        self.received = 0  # bytes of the body

    async def receive(self) -> Message:
        """The next part of the body.

        Raises PayloadTooLarge (before the first byte if the length is announced), UnsupportedMediaType, or QueueFull if
        the bodies of all requests together are too large.
        """
        # The HTTP parser has made sure that this is a number.
        if int(self.headers.get(b"content-length", b"0")) > self._boundary.max_body_bytes:
            raise self._too_large()
        encoding = self.headers.get(b"content-encoding", b"").decode("latin-1")
        if encoding.lower() not in ("", "identity"):
            raise UnsupportedMediaType(f"Content-Encoding {encoding} is not supported: send the body without it")
        message = await self._receive()
        size = len(message.get("body", b""))
        self.received += size
        self._boundary.waiting_bytes += size
        if self.received > self._boundary.max_body_bytes:
            raise self._too_large()
        if self._boundary.waiting_bytes > self._boundary.max_waiting_bytes:
            raise QueueFull("bytes")
        return message

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body is over {self._boundary.max_body_bytes:,} bytes, the largest that is allowed")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"].append((b"x-request-id", self.id))
        await self._send(message)

    async def refuse(self, error: Exception) -> None:
        """Answers with the error. Raises it again if an answer has begun already."""
        request = Request(self._scope)
        refusal = as_refusal(request, error)
        if refusal.code == ServiceError.code:  # an unexpected one
            log.exception("a request failed", extra=logs.fields(request_id=self.id.decode()))
        if self.status:
            raise error
        RECORDER.rejected(refusal.code)
        response = render(request, refusal)
        await response(self._scope, self._receive, self.send)

    def log(self, seconds: float) -> None:
        """One line: who asked for what, and what came of it. Never the query, a body or a header that holds a key."""
        scope, state = self._scope, self._scope["state"]
        said = logs.fields(
            request_id=self.id.decode(),
            trace_id=logs.trace_id(self.headers.get(b"traceparent")),
            client=scope["client"][0] if scope["client"] else None,
            method=scope["method"],
            path=scope["raw_path"][:_LOGGED_PATH_LENGTH].decode("latin-1"),  # escaped: it cannot begin a new line
            status=self.status,
            ms=round(seconds * 1000, 2),
            images=state.get("images"),
            batch_size=state.get("batch_size"),
        )
        log.log(logging.ERROR if self.status >= 500 else logging.INFO, "request answered", extra=said)
