"""What our protocol sends, seen from the other end of a real connection."""

import asyncio

import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from server.protocol import OneWriteProtocol

BODY = b"x" * 300


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(BODY)(scope, receive, send)


async def first_read(request: bytes) -> tuple[bytes, bytes]:
    """What one read from the connection gives, and what follows until its end."""
    config, state = uvicorn.Config(answer, timeout_keep_alive=0), ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: OneWriteProtocol(config, state, {}), "127.0.0.1")
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(request)
        first, rest = await reader.read(65536), await reader.read()
        writer.close()
    return first, rest


async def read_slowly(patience_s: float) -> int:
    """The bytes of a large answer that are read at a pace, which lasts some times the server's patience."""

    async def answer_much(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(bytes(40 * 2**20))(scope, receive, send)

    config, state = uvicorn.Config(answer_much, timeout_keep_alive=0), ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: OneWriteProtocol(config, state, {}, patience_s=patience_s), "127.0.0.1")
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=2**16)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        read, started = 0, loop.time()
        while part := await reader.read(2**20):
            read += len(part)
            if loop.time() < started + 4 * patience_s:
                await asyncio.sleep(patience_s / 20)
        writer.close()
    return read


def test_an_answer_that_is_read_slowly_is_read_to_its_end() -> None:
    assert asyncio.run(read_slowly(patience_s=1)) > 40 * 2**20


def test_the_head_and_the_body_of_an_answer_arrive_together() -> None:
    first, rest = asyncio.run(first_read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert first.startswith(b"HTTP/1.1 200 OK")
    assert (first.endswith(BODY), rest) == (True, b"")


def test_an_answer_is_whole_where_the_connection_is_closed_after_it() -> None:
    first, rest = asyncio.run(first_read(b"GET / HTTP/1.0\r\n\r\n"))
    assert (first + rest).endswith(BODY)
