"""What the client's tests share: a service that fails on demand, a folder to evaluate, both clients behind one face."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from clients import AsyncClient, Client, ImageError, ImageInput, Prediction, protocol
from tests.clients.fake_service import FakeService, png


class Ask(Protocol):
    """Either client, made for one call."""

    def one(self, url: str, image: ImageInput, **settings: Any) -> Prediction: ...

    def many(self, url: str, images: Iterable[ImageInput], **options: Any) -> list[Prediction | ImageError]: ...


class _Sync:
    def one(self, url: str, image: ImageInput, **settings: Any) -> Prediction:
        with Client(url, **settings) as client:
            return client.predict(image)

    def many(self, url: str, images: Iterable[ImageInput], **options: Any) -> list[Prediction | ImageError]:
        with Client(url) as client:
            return list(client.predict_many(images, **options))


class _Async:
    def one(self, url: str, image: ImageInput, **settings: Any) -> Prediction:
        async def ask() -> Prediction:
            async with AsyncClient(url, **settings) as client:
                return await client.predict(image)

        return asyncio.run(ask())

    def many(self, url: str, images: Iterable[ImageInput], **options: Any) -> list[Prediction | ImageError]:
        async def ask() -> list[Prediction | ImageError]:
            async with AsyncClient(url) as client:
                return [answer async for answer in client.predict_many(images, **options)]

        return asyncio.run(ask())


@pytest.fixture(params=[_Sync, _Async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Each test that takes it runs with the one client and with the other."""
    client: Ask = request.param()
    return client


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pause between attempts is of 0.01 s; what the service asks for by Retry-After is obeyed as ever."""
    monkeypatch.setattr(protocol, "_FIRST_PAUSE_S", 0.01)


def class_ids(answers: Sequence[Prediction | ImageError]) -> list[int | str]:
    """The class of each prediction, the code of each error."""
    return [answer.class_id if isinstance(answer, Prediction) else answer.code for answer in answers]


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: FakeService) -> FakeService:
    """data/test has 5 circles, of which one looks square and one is damaged, and 4 squares, one of them hidden."""
    service.classes = ["circle", "square"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_URL", service.url)
    for name, content in {
        "test/circle/0.png": png(0),
        "test/circle/1.PNG": png(0),
        "test/circle/2.png": png(1),
        "test/circle/3.jpeg": png(0),
        "test/circle/4.png": b"text",
        "test/square/0.png": png(1),
        "test/square/1.png": png(1),
        "test/square/2.webp": png(1),
        "test/square/.hidden.png": png(1),
        "test/square/notes.txt": b"",
        "train/circle/0.png": png(1),
    }.items():
        path = Path("data", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return service


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: FakeService) -> FakeService:
    """The working directory has a circle, a square and a text; the service is CIFAR_URL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_URL", service.url)
    Path("circle.png").write_bytes(png(0))
    Path("square.png").write_bytes(png(1))
    Path("text.png").write_bytes(b"text")
    return service
