"""Clients that vanish, idle, trickle, lie, never read or never end: they are cut off, and harm nobody else."""

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.load import Load, address, allow_open_files, gauge, post
from tests.integration.running import HTTP, RunningService, running_service, wait_until
from tests.integration.test_overload import standing_still
from tests.pictures import draw_shape, encode

PICTURE = encode(draw_shape("circle", 1, (32, 32)), "JPEG")
CHUNKED = b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[RunningService]:
    """A service that the tests of bad clients share."""
    flags = ("--checkpoint", str(checkpoint), "--deadline-s", "4", "--max-waiting-bytes", str(5 * 2**20))
    with (
        running_service(tmp_path_factory.mktemp("service"), *flags) as service,
        socket.create_connection(address(service.url), timeout=30) as proxy,
    ):
        proxy.sendall(post(PICTURE))
        assert proxy.recv(65536).startswith(b"HTTP/1.1 200")
        yield service
        proxy.sendall(post(PICTURE))  # which keeps its connection, and has had no more to ask since
        assert proxy.recv(65536).startswith(b"HTTP/1.1 200")
        assert "Traceback" not in service.log.read_text()


def test_clients_that_vanish_idle_or_lie_harm_nobody(impatient: RunningService) -> None:
    allow_open_files(1500)
    calm = Load(impatient.url, PICTURE, connections=8, due_a_second=200)
    with contextlib.ExitStack() as open_connections, calm.running() as load:

        def connect() -> socket.socket:
            return open_connections.enter_context(socket.create_connection(address(impatient.url), timeout=30))

        idle = [connect() for _ in range(1000)]
        for sent in (post(PICTURE)[:-100], post(PICTURE)):  # gone in the middle of the upload, and before the answer
            for _ in range(50):
                with socket.create_connection(address(impatient.url)) as vanishing:
                    vanishing.sendall(sent)
        (pipelining := connect()).sendall(post(PICTURE) * 3)
        received = b""
        while received.count(b'"model"') < 3:
            received += pipelining.recv(65536)
        assert received.count(b"HTTP/1.1 200") == 3
        (too_short := connect()).sendall(post(PICTURE, length=10))  # the surplus is no request
        assert b"HTTP/1.1 4" in too_short.recv(65536)
        (too_long := connect()).sendall(post(PICTURE, length=len(PICTURE) + 1))
        assert b"HTTP/1.1 408" in too_long.recv(65536)
        wait_until(lambda: all(map(is_closed, idle)))
        load.wait_for_more(200)
    assert (set(load.statuses), load.errors) == ({200}, [])


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0)
    try:
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_clients_that_get_nowhere_are_cut_off(impatient: RunningService) -> None:
    with contextlib.ExitStack() as connections:

        def begin(request: bytes) -> socket.socket:
            connection = connections.enter_context(socket.create_connection(address(impatient.url)))
            connection.sendall(request)
            return connection

        half_a_head = b"GET /livez HTTP/1.1\r\nX-Slow: "
        silent, trickling = [begin(half_a_head)], [begin(half_a_head), begin(post(b"", length=10**6))]

        def all_closed() -> bool:
            for connection in trickling:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"a")
            return all(map(is_closed, silent + trickling))

        wait_until(all_closed)


def test_a_client_that_never_reads_its_answers_is_cut_off(impatient: RunningService) -> None:
    def in_flight() -> float:
        return gauge(impatient.url, "cifar_requests_in_flight") - 1  # the one that asks

    with socket.create_connection(address(impatient.url)) as connection:

        def stuck() -> bool:
            if in_flight() == 0:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\n\r\n" * 90)
            return in_flight() > 0

        wait_until(stuck)
        wait_until(lambda: in_flight() == 0)


@pytest.mark.parametrize(
    ("begun", "endless"),
    [
        (b"", b"GET /livez HTTP/1.1\r\n\r\n"),
        (b"GET /", b"a"),
        (b"GET / HTTP/1.1\r\nX-Long: ", b"a"),
        (CHUNKED + b"1;", b"a"),
        (CHUNKED + b"0\r\n", b"a:b\r\n"),
    ],
    ids=["requests", "request line", "header", "chunk extension", "trailers"],
)
def test_a_client_that_sends_without_end_is_cut_off(impatient: RunningService, begun: bytes, endless: bytes) -> None:
    with socket.create_connection(address(impatient.url), timeout=30) as connection:
        connection.sendall(begun)

        def cut_off() -> bool:
            with contextlib.suppress(ConnectionError):
                connection.sendall(endless * 10_000)
                return False
            return True

        wait_until(cut_off)
        answers = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                answers += part
        assert b"HTTP/1.1 400" in answers, "not only when its time was over"


@pytest.mark.parametrize("picture", [PICTURE, PICTURE + bytes(400_000)], ids=["small", "large"])
def test_work_of_clients_that_have_gone_is_dropped_and_counted_as_499(
    impatient: RunningService, picture: bytes
) -> None:
    def counted(status: int) -> float:
        return gauge(impatient.url, f'cifar_requests_total{{route="/predict",status="{status}"}}')

    before, late = counted(499), counted(504)
    with standing_still(impatient):
        with contextlib.ExitStack() as waiting:
            for _ in range(5):
                connection = waiting.enter_context(socket.create_connection(address(impatient.url), timeout=30))
                connection.sendall(post(picture))
            wait_until(lambda: gauge(impatient.url, "cifar_requests_in_flight") == 6)  # and the one that asks
        wait_until(lambda: counted(499) == before + 5)
        assert counted(504) == late
        assert gauge(impatient.url, "cifar_requests_in_flight") == 1


def test_a_deadline_that_passes_is_504(impatient: RunningService) -> None:
    with standing_still(impatient):
        late = HTTP.post(f"{impatient.url}/predict", content=PICTURE, timeout=30)
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert HTTP.post(f"{impatient.url}/predict", content=PICTURE, timeout=30).is_success


def test_uploads_that_are_too_large_together_are_refused_until_some_have_gone(impatient: RunningService) -> None:
    megabytes = bytes(2 * 2**20)
    with contextlib.ExitStack() as open_connections:
        uploads = [
            open_connections.enter_context(socket.create_connection(address(impatient.url), timeout=30))
            for _ in range(3)
        ]
        for upload in uploads:  # each of a size that is taken, and none of them whole
            upload.sendall(post(megabytes, length=len(megabytes) + 1))
        (refused, *_), _, _ = select.select(uploads, [], [], 30)  # whichever was one too many
        assert b"HTTP/1.1 429" in refused.recv(65536)
        with Load(impatient.url, PICTURE, connections=8).running() as load:  # the refused one has made room
            load.wait_for_more(200)
    assert (set(load.statuses), load.errors) == ({200}, [])
    wait_until(lambda: gauge(impatient.url, "cifar_requests_in_flight") == 1)  # this one
