"""The services that integration tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.running import RunningService, save_net, start_service

StartService = Callable[..., RunningService]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    """Call it with flags for a service of one's own; whatever still runs at the end is stopped."""
    started: list[RunningService] = []

    def start_one(*flags: str) -> RunningService:
        started.append(start_service(tmp_path_factory.mktemp("service"), *flags))
        return started[-1]

    yield start_one
    for service in started:
        if service.process.poll() is None:
            service.stop()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "cifar_net.pth"
    save_net(path, seed=0)
    return path


@pytest.fixture(scope="session")
def service(start: StartService, checkpoint: Path) -> RunningService:
    """One service that the tests share, with limits low enough to reach."""
    limits = ("--max-images", "300", "--max-body-bytes", str(4 * 2**20))
    return start("--checkpoint", str(checkpoint), *limits)
