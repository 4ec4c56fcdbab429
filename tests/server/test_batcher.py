"""Requests that wait together share a batch; each gets its own answer; a lost worker loses none."""

import asyncio

import numpy as np
import pytest
import torch

from models.architectures.net import Net
from models.card import ModelCard
from models.classifier import Classifier
from models.pixels import Pixels
from server.batcher import Batcher
from server.engine import Predictions, WorkerLost
from server.errors import InferenceFailed, QueueFull


class InProcessEngine:
    """The real classifier in this process, held back until `released`; notes the size of every batch."""

    slots = 1
    ready = True

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.classifier = Classifier(Net(), ModelCard()).eval()
        self.card = self.classifier.card
        self.batch_sizes: list[int] = []
        self.released = asyncio.Event()
        self.failures: list[Exception] = []

    async def reload(self) -> ModelCard:
        return self.card

    async def infer(self, pixels: Pixels) -> Predictions:
        self.batch_sizes.append(len(pixels))
        await self.released.wait()
        if self.failures:
            raise self.failures.pop()
        with torch.inference_mode():
            return Predictions(self.classifier(torch.tensor(pixels)).numpy(), self.card)


def images(count: int, seed: int = 0) -> list[Pixels]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_requests_that_wait_together_leave_as_one_batch_each_with_its_own_answer() -> None:
    async def scenario() -> None:
        engine = InProcessEngine()
        batcher = Batcher(engine, max_batch_size=8, max_waiting_images=100)
        requests = [images(count, seed=count) for count in (1, 2, 1, 3)]
        tasks = [asyncio.create_task(batcher.infer(pixels)) for pixels in requests]
        await settle()
        engine.released.set()
        answers = await asyncio.gather(*tasks)
        assert engine.batch_sizes == [7]
        for pixels, answer in zip(requests, answers, strict=True):
            alone = await engine.infer(np.stack(pixels))
            np.testing.assert_allclose(answer.probabilities, alone.probabilities, rtol=1e-5)

    asyncio.run(scenario())


def test_a_lone_request_leaves_at_once_and_later_ones_gather_behind_it() -> None:
    async def scenario() -> None:
        engine = InProcessEngine()
        batcher = Batcher(engine, max_batch_size=4, max_waiting_images=100)
        tasks = [asyncio.create_task(batcher.infer(images(1)))]
        await settle()
        tasks += [asyncio.create_task(batcher.infer(images(1))) for _ in range(6)]
        await settle()
        engine.released.set()
        await asyncio.gather(*tasks)
        assert engine.batch_sizes == [1, 4, 2]

    asyncio.run(scenario())


def test_a_request_that_gave_up_while_waiting_is_dropped() -> None:
    async def scenario() -> None:
        engine = InProcessEngine()
        batcher = Batcher(engine, max_batch_size=4, max_waiting_images=3)
        first = asyncio.create_task(batcher.infer(images(1)))
        await settle()
        gone, kept = (asyncio.create_task(batcher.infer(images(count))) for count in (2, 1))
        await settle()
        with pytest.raises(QueueFull):
            batcher.check_room()
        gone.cancel()
        await settle()
        batcher.check_room()  # at once, though no batch can be sent yet
        engine.released.set()
        await asyncio.gather(first, kept)
        assert engine.batch_sizes == [1, 1]

    asyncio.run(scenario())


def test_a_full_queue_refuses_and_takes_again_when_it_has_room() -> None:
    async def scenario() -> None:
        engine = InProcessEngine()
        batcher = Batcher(engine, max_batch_size=2, max_waiting_images=2)
        running = asyncio.create_task(batcher.infer(images(2)))
        await settle()
        waiting = asyncio.create_task(batcher.infer(images(2)))
        await settle()
        with pytest.raises(QueueFull):
            batcher.check_room()
        rest_of_a_request = asyncio.create_task(batcher.infer(images(2)))  # that there was room for when it came
        engine.released.set()
        await asyncio.gather(running, waiting, rest_of_a_request)
        batcher.check_room()

    asyncio.run(scenario())


def test_a_batch_whose_worker_is_lost_twice_is_answered_by_the_third() -> None:
    async def scenario() -> None:
        engine = InProcessEngine()
        engine.failures = [WorkerLost(), WorkerLost()]
        engine.released.set()
        answer = await Batcher(engine, 4, 100).infer(images(2))
        assert answer.probabilities.shape == (2, 10)
        assert engine.batch_sizes == [2, 2, 2]

    asyncio.run(scenario())


def test_a_batch_that_no_worker_survives_fails_and_the_next_is_served() -> None:
    async def scenario() -> None:
        engine = InProcessEngine()
        engine.failures = [WorkerLost(), WorkerLost(), WorkerLost()]
        engine.released.set()
        batcher = Batcher(engine, 4, 100)
        with pytest.raises(InferenceFailed, match="3 workers in a row"):
            await batcher.infer(images(1))
        assert len((await batcher.infer(images(1))).probabilities) == 1

    asyncio.run(scenario())
