"""uvicorn's HTTP protocol, with one system call per answer, and bounds on what a connection can hold.

uvicorn makes two system calls per answer, for its head and for its body: on the loopback the second costs as much as
everything else that uvicorn does for a request. And it has no bounds on how long a request's head may take, how large
it may grow, or how many requests may be pipelined, that is, sent ahead of their answers.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Sized
from typing import Any

import httptools
from starlette.requests import Request
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from server.errors import BadRequest, render
from server.metrics import RECORDER

_MAX_HEAD_BYTES = 64 * 1024  # for a head that takes several reads, for trailers, for what stands between two chunks
_MAX_PIPELINED = 100
# An idle connection: longer than proxies keep theirs (60 s mostly), or they would send into one that we are closing.
KEEP_ALIVE_S = 75
_LAST_REQUEST_S = 1.0  # an idle connection stays open for so long when the service stops
_CLOSE = (b"connection", b"close")
_Progress = tuple[RequestResponseCycle | None, int, int]  # the last request, how many wait, bytes sent of the answers


class OneWriteProtocol(HttpToolsProtocol):
    """Writes all parts of an answer together, at the end of the event loop's pass.

    Every `patience_s` seconds a connection that has made no progress since the last check is aborted: no request's head
    was completed, or the client has not read its answer.
    """

    def __init__(self, *args: Any, patience_s: float = 30, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience_s = patience_s
        self._head_bytes = 0  # received since a head or a part of a body was last complete
        self._running: RequestResponseCycle | None = None  # self.cycle is the last one received, which may wait for it
        self._progress: _Progress | None = (None, 0, 0)  # at the last check

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._gathering = _GatheringTransport(transport, self.loop)
        super().connection_made(self._gathering)  # type: ignore[arg-type]
        self.flow = _Flow(self.transport, self.pipeline)
        self._check_timer = self.loop.call_later(self._patience_s, self._check_progress)

    def connection_lost(self, exc: Exception | None) -> None:
        self._check_timer.cancel()
        super().connection_lost(exc)
        if self._running and not self._running.response_complete:  # nobody waits for it
            self._running.disconnected = True
            state = self._running.scope["state"]
            state["client_gone"] = True
            if "task" in state:
                state["task"].cancel()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        """The service stops: a request in progress, or already on its way to us, is answered, as the connection's last.

        uvicorn would close an idle connection at once, perhaps just as its client sends the next request.
        """
        if _CLOSE not in self.server_state.default_headers:  # of every answer from now on
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        if self.cycle is None or self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(_LAST_REQUEST_S, self._close_idle)
        else:
            super().shutdown()

    def _close_idle(self) -> None:
        """Closes, then aborts: with TLS, closing waits 30 s for a client that does not read to close its side too."""
        self.timeout_keep_alive_handler()
        self._check_timer.cancel()
        self._check_timer = self.loop.call_later(_LAST_REQUEST_S, self.transport.abort)

    def _check_progress(self) -> None:
        """Aborts if there was no progress since the last check. One timer for each connection, not for each request."""
        progress = self._client_progress()
        if progress and progress == self._progress:
            self.transport.abort()  # closing it would wait until what we wrote is read
            return
        self._progress = progress
        self._check_timer = self.loop.call_later(self._patience_s, self._check_progress)

    def _client_progress(self) -> _Progress | None:
        """None while it is not the client's turn."""
        reads = not self.flow.write_paused
        idle = self.timeout_keep_alive_task and reads and not self.transport.is_closing()  # that timer closes it
        computing = self.cycle and not self.cycle.response_started and reads
        return None if idle or computing else (self.cycle, len(self.pipeline), self._gathering.sent)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._head_bytes += len(data)
        rest = data
        while rest and len(self.pipeline) <= _MAX_PIPELINED:
            try:
                self.parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                rest = self._decline_upgrade(rest[upgrade.args[0] :])
            except httptools.HttpParserError:
                self.send_400_response("this is not an HTTP/1.1 request")
                break
        if self._head_bytes > _MAX_HEAD_BYTES:
            self.send_400_response(f"the head or the trailers of the request are over {_MAX_HEAD_BYTES:,} bytes")
        if len(self.pipeline) > _MAX_PIPELINED:
            self.send_400_response(f"more than {_MAX_PIPELINED} requests were sent ahead of their answers")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head_bytes = 0
        if "path" in self.scope:  # the request keeps its list: trailers, which come as more headers, are dropped
            self.headers = deque(maxlen=0)  # type: ignore[assignment]  # typed as a list

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.flow.resume_reading()  # a large body may have paused it, and we would not see the client go

    def _should_upgrade(self) -> bool:
        return True  # uvicorn then starts nothing, and leaves it to us

    def _decline_upgrade(self, rest: bytes) -> bytes:
        """The parser stops after a head that offers another protocol: returns it without the offer, followed by `rest`.

        Java's HttpClient offers HTTP/2 in every request, and so does curl with --http2.
        """
        if self.scope["method"] == "CONNECT":
            self.send_400_response("this is not a proxy: CONNECT is not supported")
            return b""
        line = f"{self.scope['method']} {self.url.decode('latin-1')} HTTP/{self.parser.get_http_version()}\r\n"
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        return line.encode("latin-1") + b"".join(headers) + b"\r\n" + rest

    def send_400_response(self, msg: str) -> None:
        """Sends a problem document, as for every other error; uvicorn would send plain text."""
        if self.transport.is_closing():
            return
        RECORDER.rejected(BadRequest.code)
        request_id = uuid.uuid4().hex
        problem = render(Request({"type": "http", "state": {"request_id": request_id}}), BadRequest(msg))
        headers = [
            *self.server_state.default_headers,
            *problem.raw_headers,
            (b"x-request-id", request_id.encode()),
            (b"connection", b"close"),
        ]
        head = STATUS_LINE[problem.status_code] + b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(head + b"\r\n" + bytes(problem.body))
        self.transport.close()


class _Flow(FlowControl):
    """Does not read on while pipelined requests wait: they would come faster than they are answered."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class _GatheringTransport:
    """A transport that gathers what is written to it in one pass of the event loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._written = 0
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self.is_closing():
            self._written += sum(map(len, parts))
            self._transport.writelines(parts)

    @property
    def sent(self) -> int:
        """Bytes that have left this process, for which the client made room."""
        return self._written - self._transport.get_write_buffer_size()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
