"""A rolling update loses no request, and a killed pod none that is tried again; cluster.py simulates the cluster."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from clients import AsyncClient, CifarError
from tests.deploy.cluster import Cluster
from tests.integration.load import Callers
from tests.integration.running import save_net
from tests.pictures import draw_shape, encode

pytestmark = pytest.mark.timeout(300)  # four services start, three of them at a time
PICTURE = encode(draw_shape("circle", 1, (32, 32)), "JPEG")


class Transport(httpx.AsyncHTTPTransport):
    """Collects in `failed` the attempts that failed."""

    def __init__(self, service: Path, failed: list[httpx.Request]) -> None:
        super().__init__(uds=str(service))
        self._failed = failed

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except httpx.TransportError:
            self._failed.append(request)
            raise


class Clients(Callers):
    """Eight of our clients: half keep their connection, half open a new one for each request.

    `failed` are the attempts that failed; an error is a request without an answer after all its attempts.
    """

    def __init__(self, service: Path, retries: int) -> None:
        super().__init__()
        self.failed: list[httpx.Request] = []
        self._service, self._retries = service, retries

    async def _call(self) -> None:
        await asyncio.gather(*(self._ask(kept=number % 2 == 0) for number in range(8)))

    async def _ask(self, kept: bool) -> None:
        transport = Transport(self._service, self.failed)
        async with AsyncClient("http://service", retries=self._retries, transport=transport) as client:
            client.http.headers["Connection"] = "keep-alive" if kept else "close"
            while not self._stopping.is_set():
                try:
                    self.versions[(await client.predict(PICTURE)).version] += 1
                except CifarError as error:
                    self.errors.append(error)
                await asyncio.sleep(0.04)  # modest: some 150 requests a second in all


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An old and a new checkpoint, by version."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {save_net(folder / f"{seed}.pth", seed=seed).version: folder / f"{seed}.pth" for seed in (1, 2)}


@pytest.fixture(scope="module")
def cluster(checkpoints: dict[str, Path]) -> Iterator[Cluster]:
    """A cluster with two pods that serve the old checkpoint."""
    if not shutil.which("haproxy"):
        pytest.skip("there is no haproxy here: apt-get install haproxy")
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster(Path(folder)).running() as cluster,
    ):  # a short path, for sockets
        old, _ = checkpoints.values()
        for place in "ab":
            cluster.start_pod(place, old)
        for place in "ab":
            cluster.wait_until_ready(place)
        yield cluster


def test_a_rolling_update_loses_no_request(cluster: Cluster, checkpoints: dict[str, Path]) -> None:
    old, new = checkpoints
    free = "c"
    with Clients(cluster.service, retries=0).running() as callers:
        for place in "ab":
            cluster.start_pod(free, checkpoints[new])  # maxSurge: 1
            cluster.wait_until_ready(free)
            cluster.take_out(place)
            callers.wait_for_more(50)  # preStop
            assert cluster.stop_pod(place) == 0
            free = place
        assert callers.versions[old] > 0
        assert callers.versions[new] > 0
        callers.wait_for_more(50)
        callers.versions.clear()
        callers.wait_for_more(50)
        assert set(callers.versions) == {new}
    assert not callers.errors


def test_a_pod_that_is_killed_loses_no_request_that_is_tried_again(cluster: Cluster) -> None:
    with (
        Clients(cluster.service, retries=2).running() as patient,
        Clients(cluster.service, retries=0).running() as hasty,
    ):
        cluster.kill_pod("a", is_felt=lambda: bool(patient.failed and hasty.failed))
        patient.wait_for_more(100)
    assert not patient.errors
    print(f"of {hasty.answered + len(hasty.errors)} requests without retries {len(hasty.errors)} were lost")
