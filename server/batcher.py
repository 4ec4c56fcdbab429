"""Requests that wait together leave as one batch, as soon as the engine has a free slot. There is no timer.

A lone request leaves at once; under load batches grow by themselves, because more requests wait while the slots are
taken.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.pixels import Pixels
from server.engine import Engine, Predictions, WorkerLost
from server.errors import InferenceFailed, QueueFull
from server.metrics import RECORDER

# A worker that dies, or two in a row, need not be the fault of the images that they held: a third is suspicious.
_ATTEMPTS = 3


@dataclass(slots=True, eq=False)
class _Waiting:
    images: Sequence[Pixels]  # each uint8 [H, W, 3]
    answer: asyncio.Future[Predictions]
    since: float = field(default_factory=time.perf_counter)
    taken: bool = False  # into a batch


class Batcher:
    """Gathers images of many requests into batches of at most `max_batch_size` for an engine."""

    def __init__(self, engine: Engine, max_batch_size: int, max_waiting_images: int) -> None:
        self.max_batch_size = max_batch_size
        self._engine = engine
        self._max_waiting_images = max_waiting_images
        self._waiting: deque[_Waiting] = deque()
        self._waiting_images = 0
        self._running: set[asyncio.Task[None]] = set()
        self._dispatch_scheduled = False
        RECORDER.queued = lambda: self._waiting_images

    def check_room(self, decoding: int = 0) -> None:
        """Raises QueueFull if max_waiting_images wait, `decoding` images that have not come here yet among them.

        Call it before work that would be thrown away.
        """
        if self._waiting_images + decoding >= self._max_waiting_images:
            raise QueueFull

    async def infer(self, images: Sequence[Pixels]) -> Predictions:
        """Up to max_batch_size images, each uint8 [H, W, 3] → their predictions. Raises InferenceFailed.

        If cancelled in time, they are dropped. Refuses none, however many wait: call `check_room` first.
        """
        item = _Waiting(images, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._waiting_images += len(images)
        self._schedule_dispatch()
        try:
            return await item.answer
        except asyncio.CancelledError:
            if not item.taken:  # it makes room, and its pixels go, before a slot is free to take it
                self._waiting_images -= len(item.images)
                item.images = ()
            raise

    def _schedule_dispatch(self) -> None:
        # Not at once but after this pass of the event loop: requests that arrived together then leave together.
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_scheduled = False
        while len(self._running) < self._engine.slots and (batch := self._take_batch()):
            task = asyncio.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._finish)

    def _take_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        room = self.max_batch_size
        while self._waiting and len(self._waiting[0].images) <= room:
            item = self._waiting.popleft()
            item.taken = True
            self._waiting_images -= len(item.images)
            if not item.answer.cancelled():
                batch.append(item)
                room -= len(item.images)
        return batch

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._schedule_dispatch()

    async def _run(self, batch: list[_Waiting]) -> None:
        now = time.perf_counter()
        waits_s = [now - item.since for item in batch]
        try:
            predictions = await self.infer_batch(np.stack([image for item in batch for image in item.images]))
        except Exception as error:  # every request of the batch gets it: none may wait for ever
            for item in batch:
                if not item.answer.cancelled():
                    item.answer.set_exception(error)
            return
        probabilities, card = predictions.probabilities, predictions.card
        RECORDER.batch(waits_s, probabilities, card)
        start = 0
        for item in batch:
            end = start + len(item.images)
            if not item.answer.cancelled():
                item.answer.set_result(Predictions(probabilities[start:end], card, len(probabilities)))
            start = end

    async def infer_batch(self, pixels: Pixels) -> Predictions:
        """Runs one batch, uint8 [N, H, W, 3], without queueing or counting it. Raises InferenceFailed."""
        for _ in range(_ATTEMPTS):
            try:
                return await self._engine.infer(pixels)
            except WorkerLost:
                continue
        raise InferenceFailed(f"{_ATTEMPTS} workers in a row ended while they held this batch")
