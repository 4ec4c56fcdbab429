"""`Client` and `AsyncClient`: an image goes to the service and its prediction comes back.

    with Client() as client:
        for path, answer in zip(paths, client.predict_many(paths)):
            print(path, answer.label if isinstance(answer, Prediction) else answer)

httpx is imported when a client is made: it takes 0.3 s, most of them for its own command line.
"""

import asyncio
import operator
import os
import ssl
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self, TypeVar

from clients import protocol
from clients.errors import CifarError, DeadlineExceeded, ImageError, NotReady, ServiceTimeout, TooManyRequests
from clients.images import ImageInput, load
from clients.limiter import Limiter
from clients.many import Many
from clients.progress import progress_bar
from clients.results import Answers, Prediction, parse

if TYPE_CHECKING:
    import httpx

DEFAULT_URL = "http://127.0.0.1:8000"

T = TypeVar("T")


class _Service:
    """What both kinds of client are; `http` is the httpx client beneath, for hooks and headers."""

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
        """`timeout_s` bounds each wait for an answer, past the service's own deadline of 30 s; `retries` how often a
        request is sent again after a lost connection or a status that passes (429, 503, ...), with growing pauses or
        as `Retry-After` says; `deadline_s` all of that together. `transport` is httpx's, for tests and proxies.

        Raises ValueError for a `url` that is none, a key that no header can hold, or a proxy of the environment that
        httpx cannot use.
        """
        import httpx

        self.url, self.timeout_s = protocol.without_password(protocol.service_url(url)), timeout_s
        self.deadline_s, self.retries = deadline_s, retries
        key = (api_key or "").strip()
        if not (key.isascii() and key.isprintable()):  # httpx would quote it in its complaint
            raise ValueError("the API key holds other characters than the printable ones of ASCII")
        try:
            self.http = httpx.AsyncClient(
                base_url=url,
                headers={"X-API-Key": key} if key else {},
                timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0)),
                # As many connections as are asked for, forgotten before the 5 s after which many a server closes them
                # under a request (ours takes 75).
                limits=httpx.Limits(keepalive_expiry=4.0),
                transport=transport,
                verify=not url.lower().startswith("http:"),  # to read the certificates that there are takes 0.1 s
            )
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            named = "a proxy" if not isinstance(error, OSError) else "SSL_CERT_FILE or SSL_CERT_DIR"
            raise ValueError(f"{named} of the environment cannot be used: {error}") from None
        self._open()

    def _open(self) -> None:
        """What else a kind of client starts with."""

    async def _predict(self, image: bytes | ImageError, top_k: int) -> Prediction:
        (answer,) = [image] if isinstance(image, ImageError) else await self._ask([image], top_k)
        if isinstance(answer, ImageError):
            raise answer
        return answer

    @contextmanager
    def _many(self, images: object, top_k: int, concurrency: int, progress: bool) -> Iterator[Many]:
        if isinstance(images, (str, bytes)):
            raise TypeError("predict_many takes several images: a single one goes to predict")
        bar = progress_bar(operator.length_hint(images) or None, "images") if progress else nullcontext()
        with bar as advance:
            yield Many(lambda batch, limiter: self._ask(batch, top_k, limiter), concurrency, advance)

    async def _ask(
        self, images: list[bytes], top_k: int, limiter: Limiter | None = None, give_up_at: float | None = None
    ) -> Answers:
        """One request, as often as it takes until `give_up_at` on the monotonic clock. Raises a CifarError."""
        import httpx

        request = protocol.request(images, top_k)
        attempt = forgiven = 0
        give_up_at = give_up_at or time.monotonic() + self.deadline_s
        while True:
            asked_at = time.monotonic()
            error: CifarError | None
            try:
                async with asyncio.timeout(give_up_at - asked_at):
                    response = await self.http.post(**request)
                error = protocol.failure(response)
            except (httpx.RequestError, ssl.SSLError) as lost:  # the latter where TLS fails after its handshake
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
                limiter.refused(asked_at, now, too_slow)
                forgiven += isinstance(error, TooManyRequests)  # perhaps our own doing, so no failure
            await asyncio.sleep(protocol.pause_s(error, attempt, self.retries + forgiven, give_up_at - now))
            attempt += 1
            if limiter and len(images) > (size := limiter.batch_size):
                answers: Answers = []
                for start in range(0, len(images), size):
                    answers += await self._ask(images[start : start + size], top_k, limiter, give_up_at)
                    give_up_at = time.monotonic() + self.deadline_s  # the next has as long: the service does answer
                return answers


class AsyncClient(_Service):
    """Client for asyncio: for `async with`; any number of tasks may share it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
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
        """As Client.predict_many; the stream may be asynchronous too."""
        with self._many(images, top_k, concurrency, progress) as many:
            try:
                async for image in _each(images):
                    lasting = isinstance(image, (str, os.PathLike, bytes))
                    if many.add(image if lasting else await asyncio.to_thread(load, image)):
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


class Client(_Service):
    """A connection to the service at `url`, for `with`; any number of threads may share it."""

    def _open(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name=f"client of {self.url}", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # which cancels what is left in the end
            runner.get_loop().run_forever()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and give up what is under way."""
        if self._thread.is_alive():
            self._run(self.http.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def predict(self, image: ImageInput, *, top_k: int = 3) -> Prediction:
        """One image (path, encoded bytes or PIL image) → its prediction with the `top_k` likeliest classes.

        Raises ImageError for a file that cannot be read, InvalidImage for what is not an image, and CifarError's
        other children (clients/errors.py) for what else can go wrong.
        """
        return self._run(self._predict(load(image), top_k))

    def predict_many(
        self, images: Iterable[ImageInput], *, top_k: int = 3, concurrency: int = 16, progress: bool = False
    ) -> Generator[Prediction | ImageError]:
        """A stream of images of any length → for each, in order, its prediction or the ImageError that it met.

        Small images go many in a request. As many requests are under way as bring the most images a second, at most
        `concurrency`; the stream is read some thousand images ahead. `progress` shows a bar on stderr. Raises a
        CifarError when the service, not an image, is at fault and stays so.
        """
        with self._many(images, top_k, concurrency, progress) as many:
            try:
                for image in images:
                    if many.add(image):
                        yield from self._run(many.send())
                while answers := self._run(many.rest()):
                    yield from answers
            finally:
                if threading.current_thread() is self._thread:  # collected there, with what it was part of
                    self._stopping = self._loop.create_task(many.stop())
                elif self._thread.is_alive():  # else closed before its last answer was taken
                    self._run(many.stop())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            work.close()
            raise RuntimeError("the client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # on Ctrl-C
