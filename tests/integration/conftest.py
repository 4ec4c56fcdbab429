"""The services that integration tests share."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.running import RunningService, running_service, save_net

StartService = Callable[..., RunningService]
LIMITS = ("--max-images", "300", "--max-body-bytes", str(4 * 2**20))  # low enough to reach


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartService]:
    """Call it with flags for a service of the test's own; what still runs at the test's end is stopped."""
    with contextlib.ExitStack() as services:
        yield lambda *flags: services.enter_context(running_service(tmp_path_factory.mktemp("service"), *flags))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh Net whose card marks some of the pictures that we draw."""
    path = tmp_path_factory.mktemp("checkpoint") / "cifar_net.pth"
    save_marking_net(path)
    return path


def save_marking_net(path: Path) -> None:
    save_net(path, seed=0, uncertain_below=0.1106)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Any]:
    """One service that the tests share. When test_ray.py runs them, it is the one on Ray, known only by its URL."""
    if url := os.environ.get("CIFAR_TESTED_URL"):
        yield SimpleNamespace(url=url)
        return
    with running_service(tmp_path_factory.mktemp("service"), "--checkpoint", str(checkpoint), *LIMITS) as service:
        yield service
