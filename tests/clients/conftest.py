"""Fixtures of the client's tests: a service that fails on demand, and both clients behind one face."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import pytest

from clients import AsyncClient, Client, ImageError, ImageInput, Prediction, protocol
from tests.clients.fake_service import FakeService


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
