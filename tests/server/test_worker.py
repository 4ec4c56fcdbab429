"""A real worker process behind its socket, as an HTTP process sees it: it outlives what its network does to it."""

import asyncio
import contextlib
import ctypes
import multiprocessing
import os
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models import architectures
from models.architectures.net import Net
from models.card import ModelCard
from models.checkpoint import save
from models.pixels import Pixels
from server import live_model
from server import worker as worker_module
from server.engine import WorkerEngine, WorkerLost
from server.errors import CheckpointRefused, InferenceFailed
from server.settings import Settings
from server.worker import ClassifierAPI, socket_path
from tests.integration.running import save_net

PROCESSES = multiprocessing.get_context("fork")  # with the networks that a test registers
SOON_S = 30


class Moody(Net):
    """Raises what it likes, by the number of images; and always while there is a certain file."""

    trouble = Path("/nowhere")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) == 3 or self.trouble.exists():
            raise ValueError("not in the mood")
        if len(x) == 5:
            raise SystemExit
        if len(x) == 7:
            ctypes.PyDLL(None).pause()  # and no other thread runs: it keeps the interpreter's lock
        return super().forward(x)


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Moody]:
    monkeypatch.setitem(architectures._ARCHITECTURES, "moody", Moody)
    monkeypatch.setattr(Moody, "trouble", tmp_path / "trouble")
    return Moody


def save_moody(path: Path, seed: int) -> ModelCard:
    torch.manual_seed(seed)
    return save(path, Moody(), ModelCard(architecture="moody"))


def run_worker(settings: Settings, sockets: Path, device: str) -> None:
    api = ClassifierAPI(settings, sockets, threads=1)
    api.setup("cpu")
    api.model._device = torch.device(device)
    api.loop.run(api, "cpu", 0)


@contextlib.contextmanager
def worker(folder: Path, settings: Settings, device: str = "cpu") -> Iterator[Path]:
    """The socket of a worker that starts, with what it needs in `folder`. Once ready, it takes `device` for its own."""
    folder.mkdir(exist_ok=True)
    process = PROCESSES.Process(target=run_worker, args=[settings, folder, device])
    process.start()
    try:
        yield socket_path(folder, 0)
    finally:
        process.kill()
        process.join()


def ask(scenario: Callable[[WorkerEngine], Awaitable[None]], *sockets: Path) -> None:
    """Run the scenario with an engine that is connected to all of them."""

    async def connected() -> None:
        engine = WorkerEngine(list(sockets))
        connecting = asyncio.create_task(engine.keep_connected())
        async with asyncio.timeout(SOON_S):
            await until(lambda: len(engine._workers) == len(sockets))
            await scenario(engine)
        connecting.cancel()
        await asyncio.wait([connecting])

    asyncio.run(connected())


def images(count: int) -> Pixels:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # an engine tells nobody of its workers
        await asyncio.sleep(0.01)


def test_whatever_a_network_raises_is_answered_and_the_next_batch_is_served(tmp_path: Path, moody: type[Moody]) -> None:
    save_moody(tmp_path / "net.pth", seed=1)

    async def scenario(engine: WorkerEngine) -> None:
        for _ in range(2):
            with pytest.raises(InferenceFailed, match="the network failed on this batch: the log has the reason"):
                await engine.infer(images(3))
            assert (await engine.infer(images(2))).probabilities.shape == (2, 10)
            with pytest.raises(WorkerLost):  # it ended the thread: the connection is closed, and made anew
                await engine.infer(images(5))
            assert (await engine.infer(images(1))).probabilities.shape == (1, 10)

    with worker(tmp_path / "worker", Settings(checkpoint=tmp_path / "net.pth")) as socket:
        ask(scenario, socket)


def test_a_worker_whose_device_fails_with_its_network_ends(tmp_path: Path, moody: type[Moody]) -> None:
    """It would fail every batch from then on, faster than others answer theirs, and so be sent the most."""
    save_moody(tmp_path / "net.pth", seed=1)

    async def scenario(engine: WorkerEngine) -> None:
        assert (await engine.infer(images(2))).probabilities.shape == (2, 10)
        with pytest.raises(WorkerLost):
            await engine.infer(images(3))

    with worker(tmp_path / "worker", Settings(checkpoint=tmp_path / "net.pth"), device="cuda:99") as socket:
        ask(scenario, socket)


def test_a_worker_whose_network_hangs_ends(tmp_path: Path, moody: type[Moody], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_STUCK_S", 2.0)
    save_moody(tmp_path / "net.pth", seed=1)

    async def scenario(engine: WorkerEngine) -> None:
        await engine.infer(images(1))
        with pytest.raises(WorkerLost):
            await engine.infer(images(7))

    with worker(tmp_path / "worker", Settings(checkpoint=tmp_path / "net.pth", deadline_s=0.01)) as socket:
        ask(scenario, socket)


def test_a_batch_that_cannot_be_sent_takes_no_answer_from_the_next(tmp_path: Path) -> None:
    save_net(tmp_path / "net.pth", seed=1)

    async def scenario(engine: WorkerEngine) -> None:
        with pytest.raises(struct.error):
            engine._workers[0].ask(bytes(2**31))
        assert (await engine.infer(images(2))).probabilities.shape == (2, 10)

    with worker(tmp_path / "worker", Settings(checkpoint=tmp_path / "net.pth")) as socket:
        ask(scenario, socket)


def test_workers_that_stay_on_two_versions_answer_with_only_one_of_them(tmp_path: Path) -> None:
    """Otherwise a request of several batches, which no two versions may answer, would be asked again and again."""
    for seed in (1, 2):
        save_net(tmp_path / f"{seed}.pth", seed)

    async def scenario(engine: WorkerEngine) -> None:
        answers = await asyncio.gather(*(engine.infer(images(4)) for _ in range(8)))
        assert engine.card is not None
        assert {answer.card.version for answer in answers} == {engine.card.version}

    with (
        worker(tmp_path / "one", Settings(checkpoint=tmp_path / "1.pth")) as one,
        worker(tmp_path / "two", Settings(checkpoint=tmp_path / "2.pth")) as two,
    ):
        ask(scenario, one, two)


@pytest.mark.parametrize("permissions_change", [False, True])
def test_a_checkpoint_whose_network_raises_is_refused_and_tried_again(
    tmp_path: Path, moody: type[Moody], monkeypatch: pytest.MonkeyPatch, permissions_change: bool
) -> None:
    monkeypatch.setattr(live_model, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(live_model, "_TRY_AGAIN_S", 1e6 if permissions_change else 0.1)
    path = tmp_path / "net.pth"
    first = save_net(path, seed=1)

    async def scenario(engine: WorkerEngine) -> None:
        assert engine.card == first
        Moody.trouble.touch()
        second = save_moody(path, seed=2)
        with pytest.raises(CheckpointRefused, match="the network fails on cpu, 32×32: ValueError: not in the mood"):
            await engine.reload()
        assert (await engine.infer(images(1))).card == first
        Moody.trouble.unlink()
        if permissions_change:
            os.chmod(path, 0o600)
        await until(lambda: engine.card == second)

    with worker(tmp_path / "worker", Settings(checkpoint=path)) as socket:
        ask(scenario, socket)
