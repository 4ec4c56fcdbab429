"""A picture that takes longer to decode than a thread costs is decoded in one: others are served meanwhile."""

import asyncio

import pytest

from models.pixels import Pixels
from server.service import Service
from server.settings import Settings
from tests.integration.test_hostile import jpeg
from tests.server.test_http_api import NeverDone


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
