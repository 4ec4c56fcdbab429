"""The clients against a cifar-serve that holds few images, and so refuses what is too much for it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import AsyncClient, Client, ImageError, Prediction
from clients.many import RAW_BYTES
from tests.integration.running import HTTP, RunningService, copy_tutorial_net, running_service
from tests.pictures import draw_shape, encode

PICTURES = [encode(draw_shape(("circle", "square")[number % 2], number)) for number in range(40)]
QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    copy_tutorial_net(folder / "cifar_net.pth")
    with running_service(folder, "--max-waiting-images", "16") as service:
        yield service


def refused(service: RunningService) -> int:
    """Requests that it has answered 429."""
    lines = HTTP.get(f"{service.url}/metrics").text.splitlines()
    found = (line for line in lines if line.startswith("cifar_requests_total") and 'status="429"' in line)
    return int(sum(float(line.split()[-1]) for line in found))


def test_too_many_requests_become_fewer_until_all_are_answered(service: RunningService) -> None:
    with Client(service.url, retries=0) as client:
        answers = list(client.predict_many(PICTURES * 100))
    labels = [answer.label for answer in answers if isinstance(answer, Prediction)]
    assert labels == labels[:40] * 100
    assert 0 < refused(service) < 200


def words_and_numbers(answer: Prediction | ImageError) -> tuple[list[object], list[float]]:
    """All of a prediction: what must be equal in another one, and the numbers, which may differ by rounding."""
    assert isinstance(answer, Prediction)
    ranked = [(each.label, each.class_id) for each in answer.ranked]
    words = [answer.label, answer.class_id, answer.model, answer.version, answer.uncertain, ranked]
    return words, [answer.confidence, *(each.probability for each in answer.ranked)]


def test_packed_or_raw_alone_or_among_many_sync_or_async_an_image_has_one_prediction(service: RunningService) -> None:
    large = PICTURES[0] + bytes(RAW_BYTES)  # what follows a PNG's end is ignored
    with Client(service.url) as client:
        alone = client.predict(PICTURES[0])
        packed, raw, bad, other = client.predict_many([PICTURES[0], large, b"text", PICTURES[1]])

    async def ask() -> tuple[Prediction, list[Prediction | ImageError]]:
        async with AsyncClient(service.url) as client:
            return await client.predict(PICTURES[0]), [answer async for answer in client.predict_many(PICTURES[:2])]

    alone_too, [first, second] = asyncio.run(ask())
    for answer, expected in ((alone_too, alone), (first, alone), (packed, alone), (raw, alone), (second, other)):
        (words, numbers), (expected_words, expected_numbers) = map(words_and_numbers, (answer, expected))
        assert words == expected_words
        assert numbers == pytest.approx(expected_numbers, abs=1e-3), "batches of other sizes round otherwise"
    assert isinstance(bad, ImageError)
    assert bad.code == "not_an_image"
    assert alone.top(1)[0].probability == alone.confidence


def test_the_quickstart_is_short_and_runs(service: RunningService, tmp_path: Path) -> None:
    assert len(QUICKSTART.read_text().splitlines()) <= 32
    environment = {**os.environ, "CIFAR_URL": service.url, "PYTHONPATH": str(QUICKSTART.parents[1])}
    done = subprocess.run(
        [sys.executable, QUICKSTART], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ship, says cifar_net ")
    assert "{'ship': 100, 'unreadable': 1}" in done.stdout
    assert "not_an_image: " in done.stdout
