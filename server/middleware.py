"""The boundary that every request crosses: it gets an id, its body a limit, and an error becomes a response."""

import logging
import random
import re

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import EXPECTED, PayloadTooLarge, render_error

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

log = logging.getLogger(__name__)


class Boundary:
    """One layer where Starlette would have four (errors, exceptions, ids, limits): each costs every message."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")
        if not _SANE_REQUEST_ID.fullmatch(request_id):
            request_id = b"%032x" % random.getrandbits(128)
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        announced = int(headers.get(b"content-length", b"0"))  # the HTTP parser has made sure that it is a number
        received, answering = 0, False

        async def receive_within_limit() -> Message:
            nonlocal received
            if announced > self._max_body_bytes:  # refused before its first byte
                raise self._too_large()
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise self._too_large()
            return message

        async def send_with_id(message: Message) -> None:
            nonlocal answering
            if message["type"] == "http.response.start":
                answering = True
                message["headers"].append((b"x-request-id", request_id))
            await send(message)

        try:
            await self._app(scope, receive_within_limit, send_with_id)
        except ClientDisconnect:
            return  # in the middle of its upload: nobody is left to answer
        except Exception as error:
            if not isinstance(error, EXPECTED):
                log.exception("request %s failed", request_id.decode())
            if answering:
                raise
            response = render_error(Request(scope), error)
            await response(scope, receive, send_with_id)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body is over {self._max_body_bytes:,} bytes, the largest that is taken")
