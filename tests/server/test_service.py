"""What takes long is done in a thread, and not at all where nobody needs it any more."""

import asyncio

import numpy as np
import pytest

from models.pixels import Pixels
from server.engine import Predictions
from server.errors import InferenceFailed
from server.service import Service
from server.settings import Settings
from tests.integration.test_hostile import jpeg
from tests.server.test_http_api import NeverDone


class Failing(NeverDone):
    batches = 0

    async def infer(self, pixels: Pixels) -> Predictions:
        self.batches += 1
        raise InferenceFailed("the network failed")


def test_of_a_request_that_fails_no_more_is_computed() -> None:
    engine = Failing()

    async def scenario() -> None:
        with pytest.raises(InferenceFailed):
            await Service(Settings(max_batch_size=1), engine).classify(np.zeros((64, 32, 32, 3), np.uint8))

    asyncio.run(scenario())
    assert engine.batches < 4


@pytest.mark.parametrize(("scans", "at_once"), [(0, True), (400, False)])
def test_a_small_jpeg_is_decoded_at_once_unless_it_has_many_scans(scans: int, at_once: bool) -> None:
    picture = jpeg(32, scans)
    assert len(picture) < 8000

    async def scenario() -> None:
        task: asyncio.Task[Pixels] = asyncio.create_task(Service(Settings(), NeverDone()).decode(picture))
        await asyncio.sleep(0)  # it begins, and does what it does in the event loop
        assert task.done() == at_once
        assert (await task).shape == (32, 32, 3)

    asyncio.run(scenario())
