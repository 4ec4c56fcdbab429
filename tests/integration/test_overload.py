"""More load than the service can take: the surplus is refused, what was taken is answered, and nothing is left over."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.load import Load, gauge
from tests.integration.running import RunningService, proportional_bytes, running_service, wait_until, worker_of
from tests.pictures import draw_shape, encode

CONNECTIONS = 2000
SMALL = encode(draw_shape("circle", 1, (32, 32)), "JPEG")
LARGE = encode(draw_shape("circle", 1).resize((512, 512)))  # some milliseconds to decode
USUAL_LIMIT = ("sh", "-c", 'ulimit -Sn 1024; exec "$@"', "sh")  # soft limit of open files on most systems


@pytest.fixture(scope="module")
def small_service(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[RunningService]:
    """A service that holds few images, and starts with the limit of open files that most systems have."""
    flags = ("--checkpoint", str(checkpoint), "--max-waiting-images", "256")
    with running_service(tmp_path_factory.mktemp("service"), *flags, inside=USUAL_LIMIT) as service:
        yield service


@contextlib.contextmanager
def standing_still(service: RunningService) -> Iterator[None]:
    """Stops the worker meanwhile: otherwise this machine could not send more than the service can take."""
    worker = worker_of(service)
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def memory(service: RunningService) -> int:
    """Bytes of all its processes, what they share counted once."""
    main = psutil.Process(service.process.pid)
    return sum(map(proportional_bytes, [main, *main.children(recursive=True)]))


@pytest.mark.parametrize(
    ("bottleneck", "due_a_second"), [("network", None), ("decoding", 2500)], ids=["closed loop", "open loop"]
)
def test_the_surplus_is_refused_the_rest_answered_and_memory_is_bounded(
    small_service: RunningService, bottleneck: str, due_a_second: float | None
) -> None:
    picture = SMALL if bottleneck == "network" else LARGE
    before = memory(small_service)
    peak = 0

    def refused(count: int) -> bool:
        nonlocal peak
        peak = max(peak, memory(small_service))
        return load.statuses[429] > count

    with Load(small_service.url, picture, CONNECTIONS, due_a_second).running() as load:
        with standing_still(small_service) if bottleneck == "network" else contextlib.nullcontext():
            wait_until(lambda: refused(4000))
        load.wait_for_more(200)
        wait_until(lambda: len(load.answered_connections) == CONNECTIONS)
    assert (set(load.statuses), load.errors) == ({200, 429}, [])
    assert peak - before < 300 * 2**20

    with httpx.Client(base_url=small_service.url, timeout=30) as client:
        assert {client.post("/predict", content=picture).status_code for _ in range(50)} == {200}
    wait_until(lambda: gauge(small_service.url, "cifar_queued_images") == 0)
    wait_until(lambda: gauge(small_service.url, "cifar_requests_in_flight") == 1)  # this one
    assert "Traceback" not in small_service.log.read_text()
