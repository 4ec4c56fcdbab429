"""uvicorn's HTTP protocol, with one system call for an answer, and bounds on what a connection can hold.

uvicorn makes two for an answer, for its head and for its body: on the loopback the second costs as much as everything
else that uvicorn does for a request. And it has no bounds on how long a request's head may take, how large it may
grow, or how many requests may be sent ahead of their answers.
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
from server.metrics import SEEN

_MAX_HEAD_BYTES = 64 * 1024  # of a head that takes several reads, of trailers, of what stands between two chunks
_MAX_PIPELINED = 100
# A connection between two requests: longer than proxies keep theirs (60 s mostly), or they send into one that we close.
KEPT_S = 75
_LAST_REQUEST_S = 1.0  # for which a kept connection stays open when the service stops
_CLOSE = (b"connection", b"close")


class OneWriteProtocol(HttpToolsProtocol):
    """Writes what an answer consists of at the end of the event loop's pass.

    A connection that gets nowhere for `patience_s` ends: none of its heads was complete, or its answer is not read.
    """

    def __init__(self, *args: Any, patience_s: float = 30, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience_s = patience_s
        self._head_bytes = 0  # since a head or a part of a body was last complete
        self._running: RequestResponseCycle | None = None  # self.cycle is the last one sent, which may wait for it
        self._got: tuple[RequestResponseCycle | None, int, int] | None = (None, 0, 0)  # the client, at the last look

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._gathering = _GatheringTransport(transport, self.loop)
        super().connection_made(self._gathering)  # type: ignore[arg-type]
        self.flow = _Flow(self.transport, self.pipeline)
        self._looking = self.loop.call_later(self._patience_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._looking.cancel()
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
        """The service stops: a request that is under way, or on its way to us, is answered, the connection's last.

        uvicorn closes a kept connection at once, perhaps under the next request of a client that is not to blame.
        """
        if _CLOSE not in self.server_state.default_headers:  # of every answer from now on
            self.server_state.default_headers = [*self.server_state.default_headers, _CLOSE]
        if self.cycle is None or self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(_LAST_REQUEST_S, self._end_kept)
        else:
            super().shutdown()

    def _end_kept(self) -> None:
        """With TLS, closing waits 30 s for a client that does not read to close its side too."""
        self.timeout_keep_alive_handler()
        self._looking.cancel()
        self._looking = self.loop.call_later(_LAST_REQUEST_S, self.transport.abort)

    def _look(self) -> None:
        """A timer for each connection, not each request: ends it where the client got no further since last time."""
        got = self._client_got_to()
        if got and got == self._got:
            self.transport.abort()  # closing it would wait until what we wrote is read
            return
        self._got = got
        self._looking = self.loop.call_later(self._patience_s, self._look)

    def _client_got_to(self) -> tuple[RequestResponseCycle | None, int, int] | None:
        """Its last request, how many wait behind it, and the bytes it took; None where it has nothing to do."""
        reads = not self.flow.write_paused
        kept = self.timeout_keep_alive_task and reads and not self.transport.is_closing()  # that timer ends it
        ours = self.cycle and not self.cycle.response_started and reads  # the answer is still to be found
        return None if kept or ours else (self.cycle, len(self.pipeline), self._gathering.sent)

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
                self.send_400_response("this is no HTTP/1.1 request")
                break
        if self._head_bytes > _MAX_HEAD_BYTES:
            self.send_400_response(f"the head or the trailers of the request are over {_MAX_HEAD_BYTES:,} bytes")
        if len(self.pipeline) > _MAX_PIPELINED:
            self.send_400_response(f"more than {_MAX_PIPELINED} requests were sent ahead of their answers")

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head_bytes = 0
        if "path" in self.scope:  # it is under way, and keeps its list: trailers come as more headers
            self.headers = deque(maxlen=0)  # type: ignore[assignment]  # typed as a list

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.flow.resume_reading()  # a large body has paused it, and nobody would see the client go

    def _should_upgrade(self) -> bool:
        return True  # uvicorn then starts nothing, and leaves it to us

    def _decline_upgrade(self, rest: bytes) -> bytes:
        """The parser leaves off after a head that offers another protocol: returns it without the offer, and the rest.

        Java's HttpClient offers HTTP/2 in every request, and curl with --http2.
        """
        if self.scope["method"] == "CONNECT":
            self.send_400_response("this is no proxy")
            return b""
        line = f"{self.scope['method']} {self.url.decode('latin-1')} HTTP/{self.parser.get_http_version()}\r\n"
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        return line.encode("latin-1") + b"".join(headers) + b"\r\n" + rest

    def send_400_response(self, msg: str) -> None:
        """A problem document, as for every other error, where uvicorn has plain text."""
        if self.transport.is_closing():
            return
        SEEN.rejected(BadRequest.code)
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
    """Does not read on while requests wait that were sent ahead: they would come faster than they are answered."""

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
        """Bytes that are out of this process, which the client made room for."""
        return self._written - self._transport.get_write_buffer_size()

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
