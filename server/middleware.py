"""What every request passes on its way in and out: a request id, and the limit on its body."""

import random
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import PayloadTooLarge

_SANE_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIdMiddleware:
    """Gives each request an id, the caller's own where it is sane, and each response the header X-Request-ID."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if _SANE_REQUEST_ID.fullmatch(given) else b"%032x" % random.getrandbits(128)
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)


class BodyLimitMiddleware:
    """Refuses a body over the limit: where its length is announced before its first byte, else when it passes it."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            if not received:
                announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
                self._check(int(announced))  # the HTTP parser has made sure that it is a number
            message = await receive()
            received += len(message.get("body", b""))
            self._check(received)
            return message

        await self._app(scope, receive_within_limit, send)

    def _check(self, length: int) -> None:
        if length > self._max_body_bytes:
            raise PayloadTooLarge(f"the body is over {self._max_body_bytes:,} bytes, the largest that is taken")
