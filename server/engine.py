"""Engines run batches: pixels in, probabilities and the card of their model out. Batcher and Service know only this.

WorkerEngine sends each batch to a worker process over its Unix socket. If a worker dies, the socket closes, which shows
at once; the worker that replaces it is connected to.
"""

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.card import ModelCard
from models.pixels import Pixels
from server.errors import CheckpointRefused, InferenceFailed
from server.metrics import RECORDER
from server.wire import FRAME_LENGTH, RELOAD, Kind, Probabilities, pack_batch, unpack_predictions

_RECONNECT_S = 0.05
_UNREADABLE_S = 1.0  # before a worker whose message could not be read is connected to again
_RELOAD_ATTEMPTS = 3  # a worker may die in each

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Predictions:
    """probabilities: float32 [N, C], rows summing to 1; card: of the one model that made them."""

    probabilities: Probabilities
    card: ModelCard
    batch_size: int = 0  # images in their batch, those of other requests among them


class WorkerLost(Exception):
    """The worker ended before it answered."""


class Engine(Protocol):
    """What runs the network, wherever it runs."""

    @property
    def slots(self) -> int:
        """How many batches to send at a time: one more than there are workers, so that none of them waits for us."""

    @property
    def card(self) -> ModelCard | None:
        """The card of the model that answers, or answered last; None until one is ready."""

    @property
    def ready(self) -> bool:
        """Whether a batch would be answered at once; otherwise it waits."""

    async def infer(self, pixels: Pixels) -> Predictions:
        """uint8 [N, H, W, 3] → Predictions. Raises WorkerLost (try again) or InferenceFailed (do not)."""

    async def reload(self) -> ModelCard:
        """Serves the checkpoint as it is now; returns its card. Raises CheckpointRefused, or NotReady on Ray."""


class WorkerEngine:
    """The workers of this machine, each behind the Unix socket that it listens on."""

    def __init__(self, sockets: list[Path]) -> None:
        self._sockets = sockets
        self._workers: list[_Worker] = []  # connected, and have said what they serve
        self._any_worker = asyncio.Event()
        self._one_reload = asyncio.Lock()  # each takes a worker long, and goes on there when its client has left
        self.card: ModelCard | None = None

    @property
    def slots(self) -> int:
        return len(self._sockets) + 1

    @property
    def ready(self) -> bool:
        return bool(self._workers)

    async def wait_until_ready(self) -> ModelCard:
        """Waits for a worker; returns the card of what it serves."""
        while not self._workers:  # none yet, or one ended and another is started
            await self._any_worker.wait()
        return self._workers[0].model_card

    async def infer(self, pixels: Pixels) -> Predictions:
        await self.wait_until_ready()
        worker = min(self._workers, key=self._rank)
        # Equally busy workers take turns, or all HTTP processes would send to the same one.
        self._workers.remove(worker)
        self._workers.append(worker)
        return await worker.ask(pack_batch(pixels))

    def _rank(self, worker: "_Worker") -> tuple[bool, int]:
        """Lowest for the worker with the least to do, of those that serve the version heard of last.

        Workers may serve two versions for long, if one is out of memory, say; an answer never mixes two.
        """
        return worker.model_card.version != (self.card and self.card.version), len(worker.unanswered)

    async def reload(self) -> ModelCard:
        """Makes every worker load the checkpoint as it is now; returns the card of what they serve then.

        Raises CheckpointRefused if it cannot be served: the previous one stays in use.
        """
        async with self._one_reload:
            for _ in range(_RELOAD_ATTEMPTS):
                await self.wait_until_ready()
                try:
                    cards = await asyncio.gather(*(self._reload(worker.socket) for worker in self._workers))
                    return cards[0]
                except (ConnectionError, FileNotFoundError, asyncio.IncompleteReadError):
                    # A worker ended, and its replacement may serve the previous checkpoint: it is asked too.
                    await asyncio.sleep(_RECONNECT_S)
        raise CheckpointRefused(f"{_RELOAD_ATTEMPTS} times in a row a worker ended before it had loaded the checkpoint")

    async def _reload(self, socket: Path) -> ModelCard:
        """On a connection of its own: a worker answers each one in order, and batches should not wait for the disk."""
        reader, writer = await asyncio.open_unix_connection(socket)
        with contextlib.closing(writer):
            writer.write(_framed(RELOAD))
            while (message := await _read_message(reader))[0] == Kind.CARD:
                served = message
        if message[0] == Kind.FAILURE:
            raise CheckpointRefused(message[1:].decode())
        return self._take_card(served)

    async def keep_connected(self) -> None:
        """Holds a connection to every worker, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for socket in self._sockets:
                tasks.create_task(self._keep_connected(socket))

    async def _keep_connected(self, socket: Path) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(socket)
                await self._receive(reader, _Worker(socket, writer))
            except (OSError, asyncio.IncompleteReadError):  # the worker ended, or is not there yet
                await asyncio.sleep(_RECONNECT_S)
            except Exception:
                log.exception("a message of the worker at %s cannot be read: reconnecting", socket)
                await asyncio.sleep(_UNREADABLE_S)

    async def _receive(self, reader: asyncio.StreamReader, worker: "_Worker") -> None:
        """Takes the worker's messages until its connection ends; what it has not answered by then raises WorkerLost."""
        try:
            while True:
                message = await _read_message(reader)
                if message[0] == Kind.CARD:
                    worker.model_card = self._take_card(message)
                    if worker not in self._workers:
                        self._workers.append(worker)
                        self._any_worker.set()
                else:
                    worker.take_answer(message)
        finally:
            if worker in self._workers:
                self._workers.remove(worker)
            if not self._workers:
                self._any_worker.clear()
            worker.close()

    def _take_card(self, message: bytes) -> ModelCard:
        self.card = ModelCard.model_validate_json(message[2:])
        RECORDER.model(self.card, refused=bool(message[1]))
        return self.card


class _Worker:
    """One connection to a worker, which answers its batches in the order sent."""

    def __init__(self, socket: Path, writer: asyncio.StreamWriter) -> None:
        self.socket = socket
        self.model_card: ModelCard  # a worker sends it before anything else
        self.unanswered: deque[asyncio.Future[Predictions]] = deque()
        self._writer = writer

    def ask(self, batch: bytes) -> asyncio.Future[Predictions]:
        answer: asyncio.Future[Predictions] = asyncio.get_running_loop().create_future()
        frame = _framed(batch)
        if not self._writer.is_closing():  # uvloop would raise if the worker is lost, but `close` still to come
            self._writer.write(frame)
        self.unanswered.append(answer)  # last: if its batch could not be sent, it would take the next one's answer
        return answer

    def take_answer(self, message: bytes) -> None:
        answer = self.unanswered[0]
        if not answer.cancelled():
            if message[0] == Kind.FAILURE:
                answer.set_exception(InferenceFailed(message[1:].decode()))
            else:
                answer.set_result(Predictions(unpack_predictions(message), self.model_card))
        self.unanswered.popleft()  # last: one whose message cannot be read is left to `close`

    def close(self) -> None:
        self._writer.close()
        for answer in self.unanswered:
            if not answer.done():
                answer.set_exception(WorkerLost)


def _framed(message: bytes) -> bytes:
    return FRAME_LENGTH.pack(len(message)) + message


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    (length,) = FRAME_LENGTH.unpack(await reader.readexactly(FRAME_LENGTH.size))
    return await reader.readexactly(length)
