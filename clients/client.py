"""`Client` and `AsyncClient`: an image goes to the service and its prediction comes back.

    with Client() as client:
        for path, answer in zip(paths, client.predict_many(paths)):
            print(path, answer.label if isinstance(answer, Prediction) else answer)

httpx is imported when a client is made: it takes 0.3 s, most of them for its own command line.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

from clients import protocol
from clients.errors import CifarError, ImageError
from clients.images import ImageInput, batches, batches_of_any, load, load_each
from clients.results import Prediction

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 40.0  # past the service's own deadline of 30 s, so that its answer to a late request arrives
DEFAULT_TOP_K = 3
DEFAULT_BATCH_SIZE = 64
DEFAULT_CONCURRENCY = 4

Answers = list[Prediction | ImageError]
_AHEAD = 2  # batches taken up for each request under way: one slow answer does not idle the others


def _settings(url: str, timeout_s: float, api_key: str | None) -> dict[str, Any]:
    """What both kinds of httpx client are made with."""
    import httpx

    return {
        "base_url": protocol.service_url(url),
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
        "headers": {"X-API-Key": api_key} if api_key else {},
        # As many connections as are asked for, forgotten before uvicorn's 5 s: none is closed under a request.
        "limits": httpx.Limits(keepalive_expiry=4.0),
    }


class Client:
    """A connection to the service at `url`, for `with`; any number of threads may share it.

    `timeout_s` bounds each wait for the service, `retries` how often a request is sent again after a lost connection
    or a status that passes (429, 503, ...), with growing pauses or as `Retry-After` says. `http` is the httpx client
    beneath, for hooks and headers. Raises ValueError for a `url` that is none.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = 2,
        api_key: str | None = None,
        transport: "httpx.BaseTransport | None" = None,
    ) -> None:
        import httpx

        self.url, self.retries = url, retries
        self.http = httpx.Client(transport=transport, **_settings(url, timeout_s, api_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def predict(self, image: ImageInput, *, top_k: int = DEFAULT_TOP_K) -> Prediction:
        """One image (path, encoded bytes or PIL image) → its prediction with the `top_k` likeliest classes.

        Raises ImageError for a file that cannot be read, InvalidImage for what is not an image, and CifarError's
        other children (clients/errors.py) for what else can go wrong.
        """
        return protocol.prediction(self._post([load(image)], top_k))

    def predict_many(
        self,
        images: Iterable[ImageInput],
        *,
        top_k: int = DEFAULT_TOP_K,
        batch_size: int = DEFAULT_BATCH_SIZE,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> Generator[Prediction | ImageError]:
        """A stream of images of any length → for each, in order, its prediction or the ImageError that it met.

        `batch_size` images go in a request and `concurrency` requests are under way; the stream is read about twice
        that far ahead. Raises a CifarError when the service, not an image, is at fault and stays so.
        """
        window: deque[Future[Answers]] = deque()
        pool, wait = ThreadPoolExecutor(concurrency), True  # raises ValueError for none
        try:
            for batch in batches(images, batch_size):
                window.append(pool.submit(self._predict_batch, batch, top_k))
                while window and (window[0].done() or len(window) >= _AHEAD * concurrency):
                    yield from window.popleft().result()
            while window:
                yield from window.popleft().result()
        except KeyboardInterrupt:
            wait = False
            raise
        finally:
            pool.shutdown(wait, cancel_futures=True)

    def _predict_batch(self, batch: list[ImageInput], top_k: int) -> Answers:
        loaded = load_each(batch)
        return _merge(loaded, self._classify(_readable(loaded), top_k))

    def _classify(self, images: list[bytes], top_k: int) -> Answers:
        """A refused request is halved until the image that it was refused for stands alone."""
        if not images:
            return []
        try:
            return protocol.predictions(self._post(images, top_k), len(images))
        except protocol.REFUSALS as refusal:
            if len(images) == 1:
                return [ImageError(refusal.code, refusal.detail)]
        half = len(images) // 2
        return self._classify(images[:half], top_k) + self._classify(images[half:], top_k)

    def _post(self, images: list[bytes], top_k: int) -> "httpx.Response":
        """The successful answer, after as many attempts as are allowed."""
        import httpx

        request = protocol.request(images, top_k)
        attempt = 0
        while True:
            error: CifarError | None
            try:
                response = self.http.post(**request)
                error = protocol.failure(response)
            except httpx.RequestError as lost:
                error = protocol.unreachable(lost, self.url)
            if error is None:
                return response
            time.sleep(protocol.retry_delay_s(error, attempt, self.retries))
            attempt += 1


class AsyncClient:
    """`Client` for asyncio: the same arguments, for `async with`; any number of tasks may share it."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: int = 2,
        api_key: str | None = None,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        import httpx

        self.url, self.retries = url, retries
        self.http = httpx.AsyncClient(transport=transport, **_settings(url, timeout_s, api_key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def predict(self, image: ImageInput, *, top_k: int = DEFAULT_TOP_K) -> Prediction:
        """As Client.predict."""
        return protocol.prediction(await self._post([await asyncio.to_thread(load, image)], top_k))

    async def predict_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        top_k: int = DEFAULT_TOP_K,
        batch_size: int = DEFAULT_BATCH_SIZE,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> AsyncGenerator[Prediction | ImageError]:
        """As Client.predict_many; the stream may be asynchronous too."""
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
        window: deque[asyncio.Task[Answers]] = deque()
        turns = asyncio.Semaphore(concurrency)
        try:
            async for batch in batches_of_any(images, batch_size):
                window.append(asyncio.create_task(self._predict_batch(batch, top_k, turns)))
                while window and (window[0].done() or len(window) >= _AHEAD * concurrency):
                    for answer in await window.popleft():
                        yield answer
            while window:
                for answer in await window.popleft():
                    yield answer
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    async def _predict_batch(self, batch: list[ImageInput], top_k: int, turns: asyncio.Semaphore) -> Answers:
        async with turns:
            loaded = await asyncio.to_thread(load_each, batch)
            return _merge(loaded, await self._classify(_readable(loaded), top_k))

    async def _classify(self, images: list[bytes], top_k: int) -> Answers:
        if not images:
            return []
        try:
            return protocol.predictions(await self._post(images, top_k), len(images))
        except protocol.REFUSALS as refusal:
            if len(images) == 1:
                return [ImageError(refusal.code, refusal.detail)]
        half = len(images) // 2
        return await self._classify(images[:half], top_k) + await self._classify(images[half:], top_k)

    async def _post(self, images: list[bytes], top_k: int) -> "httpx.Response":
        import httpx

        request = protocol.request(images, top_k)
        attempt = 0
        while True:
            error: CifarError | None
            try:
                response = await self.http.post(**request)
                error = protocol.failure(response)
            except httpx.RequestError as lost:
                error = protocol.unreachable(lost, self.url)
            if error is None:
                return response
            await asyncio.sleep(protocol.retry_delay_s(error, attempt, self.retries))
            attempt += 1


def _readable(loaded: list[bytes | ImageError]) -> list[bytes]:
    return [image for image in loaded if isinstance(image, bytes)]


def _merge(loaded: list[bytes | ImageError], answers: Answers) -> Answers:
    """The answers of the images that were sent, and between them the errors of those that could not be."""
    answer = iter(answers)
    return [image if isinstance(image, ImageError) else next(answer) for image in loaded]
