"""The engine on a Ray cluster: batches go to the replicas of Classifier, on any node."""

import asyncio
import logging
import math
import time
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from models.card import ModelCard
from models.pixels import Pixels
from server.engine import Predictions, WorkerLost
from server.errors import InferenceFailed, NotReady
from server.metrics import RECORDER
from server.wire import BATCH_FAILED

_ASK_EVERY_S = 0.5
_ANSWER_WITHIN_S = 2.0
_READY_S = 3.0  # after an answer: a replica that loads another checkpoint is not there for a moment

log = logging.getLogger(__name__)


class RayEngine:
    """Ray picks the replica with the least to do, and finds another for a batch that a lost one had not begun.

    A batch that has no answer after a third of the deadline is sent again: if a machine vanishes with its network, Ray
    itself notices only after some half a minute.
    """

    def __init__(self, replicas: DeploymentHandle[Any], deadline_s: float) -> None:
        self._replicas = replicas
        self._patience_s = deadline_s / 3
        self._replica_count = 1
        self._heard_at = -math.inf
        self.card: ModelCard | None = None
        self.informed = asyncio.Event()

    @property
    def slots(self) -> int:
        return self._replica_count + 1

    @property
    def ready(self) -> bool:
        return time.monotonic() - self._heard_at < _READY_S

    async def infer(self, pixels: Pixels) -> Predictions:
        answer = self._replicas.predict.remote(pixels)
        try:
            async with asyncio.timeout(self._patience_s):
                probabilities, card = await answer
        except TimeoutError:
            answer.cancel()  # type: ignore[no-untyped-call]
            raise WorkerLost from None
        except RayTaskError as error:
            log.error("a batch failed", exc_info=error)
            raise InferenceFailed(BATCH_FAILED) from None
        except (RayError, RayServeException) as error:
            raise WorkerLost from error
        self._heard_at = time.monotonic()
        return Predictions(probabilities, card)

    async def reload(self) -> ModelCard:
        """Returns the card of what is served. The command that deployed it follows the checkpoint by itself."""
        if self.card is None:
            raise NotReady("no model is ready yet: ask again in a moment")
        return self.card

    async def keep_informed(self) -> None:
        """Until cancelled, asks how many replicas there are, and what they serve."""
        while True:
            await self._ask()
            await asyncio.sleep(_ASK_EVERY_S)

    async def _ask(self) -> None:
        try:
            answers = await self._replicas.broadcast("card").results_async(
                timeout_s=_ANSWER_WITHIN_S, return_exceptions=True
            )
        except (TimeoutError, RayError, RayServeException):
            return
        cards = [answer for answer in answers if isinstance(answer, ModelCard)]
        if not cards:
            return
        self._replica_count, self._heard_at = len(cards), time.monotonic()
        if self.card is None or all(card == cards[0] for card in cards):  # else they are changing to another
            self.card = cards[0]
            RECORDER.model(self.card)
        self.informed.set()
