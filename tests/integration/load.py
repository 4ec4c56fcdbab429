"""Load on a service, and its answers to raw bytes: over plain sockets, as httpx would be too slow or too tidy."""

import abc
import asyncio
import collections
import contextlib
import http.client
import itertools
import json
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit

from tests.integration.running import HTTP, wait_until


class Callers(abc.ABC):
    """Sends requests over and over, from a thread. Counts the answers by version, and keeps the errors."""

    def __init__(self) -> None:
        self.versions: collections.Counter[str] = collections.Counter()
        self.errors: list[Exception] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._call()))

    @abc.abstractmethod
    async def _call(self) -> None:
        """Sends requests until `_stopping` is set."""

    @property
    def answered(self) -> int:
        return self.versions.total()

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        self._thread.start()
        try:
            self.wait_for_more(100)
            yield self
        finally:
            self._stopping.set()
            self._thread.join(timeout=60)

    def wait_for_more(self, answers: int) -> None:
        goal = self.answered + answers
        wait_until(lambda: self.answered >= goal or bool(self.errors))


class Load(Callers):
    """The same request over and over on so many connections; counts the statuses too.

    Closed loop: a connection asks again as soon as it is answered. Open loop: so many requests fall due a second, on
    one connection after the other, however long the answers take.
    """

    def __init__(self, url: str, picture: bytes, connections: int, due_a_second: float | None = None) -> None:
        super().__init__()
        allow_open_files(connections + 200)
        self.statuses: collections.Counter[int] = collections.Counter()
        self.answered_connections: set[int] = set()
        self._address = address(url)
        self._request = post(picture)
        self._connections, self._due_a_second = connections, due_a_second

    async def _call(self) -> None:
        connections = range(self._connections)
        opened = await asyncio.gather(*(asyncio.open_connection(*self._address) for _ in connections))
        await asyncio.gather(*(self._ask_over_and_over(number, *opened[number]) for number in connections))

    async def _ask_over_and_over(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clock, started = asyncio.get_running_loop().time, asyncio.get_running_loop().time()
        with contextlib.closing(writer):
            for turn in itertools.count():
                if self._due_a_second:
                    due = started + (number + turn * self._connections) / self._due_a_second
                    await asyncio.sleep(due - clock())
                if self._stopping.is_set():
                    return
                try:
                    if not await self._ask(number, reader, writer):
                        return
                except (OSError, EOFError) as error:
                    self.errors.append(error)
                    return

    async def _ask(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection is kept."""
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        status = int(head.split(b" ", 2)[1])
        self.statuses[status] += 1
        self.answered_connections.add(number)
        if status == 200:
            self.versions[json.loads(body)["model"]["version"]] += 1
        if status == 429 and b"\r\nretry-after: 1\r\n" not in head:
            self.errors.append(ValueError(f"it does not say when to come back: {head!r}"))
        return b"\r\nconnection: close" not in head


def allow_open_files(count: int) -> None:
    """Allows this process at least `count` open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def post(body: bytes, *headers: bytes, line: bytes = b"POST /predict HTTP/1.1", length: int | None = None) -> bytes:
    """The bytes of a request; `length` is what it claims of its body."""
    announced = b"Content-Length: %d" % (len(body) if length is None else length)
    return b"\r\n".join([line, b"Host: x", announced, *headers, b"", body])


def answer_to(url: str, request: bytes) -> tuple[int, str, bytes]:
    """Status, media type and body of the answer to these bytes."""
    with socket.create_connection(address(url), timeout=30) as connection:
        with contextlib.suppress(ConnectionError):  # it may be answered, and closed, before it has all of them
            connection.sendall(request)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.headers.get_content_type(), response.read()


@contextlib.contextmanager
def requests_under_way(url: str, count: int) -> Iterator[list[socket.socket]]:
    """Uploads that stop in the middle."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(address(url))) for _ in range(count)]
        for connection in sockets:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegun")
        yield sockets


def gauge(url: str, name: str) -> float:
    """The value of a gauge in /metrics, summed over its labels."""
    lines = HTTP.get(f"{url}/metrics").raise_for_status().text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))
