"""`Client` and `AsyncClient` send images to the service and return its predictions.

    with Client() as client:
        for path, answer in zip(paths, client.predict_many(paths)):
            print(path, answer.label if isinstance(answer, Prediction) else answer)

httpx is imported only when a client is made: that takes 0.3 s, most of it for httpx's own command line.
"""

import asyncio
import operator
import os
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Self

from clients import protocol
from clients.background import Background
from clients.errors import CifarError, DeadlineExceeded, ImageError, NotReady, ServiceTimeout, TooManyRequests
from clients.images import ImageInput, load
from clients.limiter import Limiter
from clients.many import Many
from clients.progress import progress_bar
from clients.results import Answers, Prediction, parse

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"


class _BaseClient:
    """What both clients share. `http` is the httpx client that they use, for hooks and headers."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 40.0,
        deadline_s: float = 120.0,
        retries: int = 2,
        transport: "httpx.AsyncBaseTransport | None" = None,
    ) -> None:
        """`timeout_s` limits each wait for an answer, by default to more than the service's own deadline of 30 s;
        `retries` is how often a request is sent again after a lost connection or a temporary status (429, 503, ...),
        after growing pauses or as `Retry-After` says; `deadline_s` limits all of that together. `transport` is httpx's,
        for tests and proxies.

        Raises ValueError for a `url` that is not an http(s) address, a key that does not fit into a header, or a proxy
        or certificates in the environment that cannot be used.
        """
        import httpx

        self.url, self.timeout_s = protocol.without_password(protocol.service_url(url)), timeout_s
        self.deadline_s, self.retries = deadline_s, retries
        key = (api_key or "").strip()
        if not (key.isascii() and key.isprintable()):  # httpx would quote the key in its error
            raise ValueError("the API key contains characters other than printable ASCII")
        try:
            self.http = httpx.AsyncClient(
                base_url=url,
                headers={"X-API-Key": key} if key else {},
                timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
                # No limit on their number. Idle ones are dropped before many servers close them, after 5 s (ours: 75):
                # a request that is sent just then would be lost.
                limits=httpx.Limits(keepalive_expiry=4.0),
                transport=transport,
                verify=not url.lower().startswith("http:"),  # without TLS it saves 0.1 s of reading certificates
            )
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            cause = "SSL_CERT_FILE or SSL_CERT_DIR" if isinstance(error, OSError) else "a proxy"
            raise ValueError(f"{cause} in the environment cannot be used: {error}") from None
        self._open()

    def _open(self) -> None:
        """Starts what else a client needs."""

    async def _predict(self, image: bytes | ImageError, top_k: int) -> Prediction:
        answer = image if isinstance(image, ImageError) else (await self._ask([image], top_k))[0]
        if isinstance(answer, ImageError):
            raise answer
        return answer

    @contextmanager
    def _many(self, images: object, top_k: int, concurrency: int, progress: bool) -> Iterator[Many]:
        if isinstance(images, (str, bytes)):
            raise TypeError("predict_many takes several images: pass a single one to predict")
        bar = progress_bar(operator.length_hint(images) or None, "images") if progress else nullcontext()
        with bar as advance:
            yield Many(lambda batch, limiter: self._ask(batch, top_k, limiter), concurrency, advance)

    async def _ask(
        self, images: list[bytes], top_k: int, limiter: Limiter | None = None, give_up_at: float | None = None
    ) -> Answers:
        """Sends one request, again after temporary failures, until `give_up_at` (time.monotonic). Raises CifarError."""
        import httpx

        request = protocol.request(images, top_k)
        attempt = forgiven = 0
        give_up_at = give_up_at or time.monotonic() + self.deadline_s
        while True:
            sent_at = time.monotonic()
            error: CifarError | None
            try:
                async with asyncio.timeout(give_up_at - sent_at):
                    response = await self.http.post(**request)
                error = protocol.failure(response)
            except (httpx.RequestError, ssl.SSLError) as lost:  # SSLError where TLS fails after its handshake
                error = protocol.unreachable(lost, self.url, self.timeout_s)
            except TimeoutError:
                error = ServiceTimeout(f"the service at {self.url} did not answer within {self.deadline_s:g} s in all")
            now = time.monotonic()
            if error is None:
                if limiter:
                    limiter.answered(len(images), now)
                return parse(response.content, len(images))
            too_slow = isinstance(error, (DeadlineExceeded, ServiceTimeout))
            if limiter and (too_slow or isinstance(error, (TooManyRequests, NotReady))):
                limiter.refused(sent_at, now, too_slow)
                forgiven += isinstance(error, TooManyRequests)  # our own load may be the cause: it uses up no retry
            await asyncio.sleep(protocol.pause_s(error, attempt, self.retries + forgiven, give_up_at - now))
            attempt += 1
            if limiter and len(images) > (size := limiter.batch_size):  # it has been lowered: several smaller requests
                answers: Answers = []
                for start in range(0, len(images), size):
                    answers += await self._ask(images[start : start + size], top_k, limiter, give_up_at)
                    give_up_at = time.monotonic() + self.deadline_s  # a full one for the next: the service does answer
                return answers


class AsyncClient(_BaseClient):
    """The client for asyncio, to be used by `async with`; any number of tasks may share it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self.http.aclose()

    async def predict(self, image: ImageInput, *, top_k: int = 3) -> Prediction:
        """As Client.predict."""
        loaded = image if isinstance(image, bytes) else await asyncio.to_thread(load, image)
        return await self._predict(loaded, top_k)

    async def predict_many(
        self,
        images: Iterable[ImageInput] | AsyncIterable[ImageInput],
        *,
        top_k: int = 3,
        concurrency: int = 16,
        progress: bool = False,
    ) -> AsyncGenerator[Prediction | ImageError]:
        """As Client.predict_many; `images` may be an asynchronous iterable too."""
        with self._many(images, top_k, concurrency, progress) as many:
            try:
                async for image in _each(images):
                    quick = isinstance(image, (str, os.PathLike, bytes))  # to encode a PIL image would block the loop
                    if many.add(image if quick else await asyncio.to_thread(load, image)):
                        for answer in await many.send():
                            yield answer
                while answers := await many.rest():
                    for answer in answers:
                        yield answer
            finally:
                await many.stop()


async def _each(images: Iterable[ImageInput] | AsyncIterable[ImageInput]) -> AsyncIterator[ImageInput]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


class Client(_BaseClient):
    """The client of the service at `url`, to be used by `with`; any number of threads may share it."""

    def _open(self) -> None:
        self._background = Background(f"client of {self.url}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections, and gives up requests under way: other threads' calls raise RuntimeError."""
        self._background.close(self.http.aclose)

    def predict(self, image: ImageInput, *, top_k: int = 3) -> Prediction:
        """One image (path, encoded bytes or PIL image) → its prediction with the `top_k` likeliest classes.

        Raises ImageError for a file that cannot be read, InvalidImage where it is not an image, other subclasses of
        CifarError (see clients/errors.py) for all other failures, and TypeError for an argument of another type.
        """
        return self._background.run(self._predict(load(image), top_k))

    def predict_many(
        self, images: Iterable[ImageInput], *, top_k: int = 3, concurrency: int = 16, progress: bool = False
    ) -> Generator[Prediction | ImageError]:
        """Any number of images → for each, in order, its prediction or the ImageError that says why it has none.

        Small images share a request. As many requests are sent in parallel as bring the most images a second, at most
        `concurrency`; up to some thousand images are read ahead. `progress` shows a bar on stderr. Raises CifarError
        where the service, not an image, is at fault and retries do not help.
        """
        with self._many(images, top_k, concurrency, progress) as many:
            try:
                for image in images:
                    if many.add(image):
                        yield from self._background.run(many.send())
                while answers := self._background.run(many.rest()):
                    yield from answers
            finally:
                self._background.finish(many.stop())
