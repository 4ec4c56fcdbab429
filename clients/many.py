"""The stream of one `predict_many`: gathered into batches, asked for several at a time, answered in order."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable

from clients.errors import CifarError, ImageError, InvalidImage, PayloadTooLarge
from clients.images import ImageInput, load, weigh
from clients.limiter import Limiter
from clients.results import Answers

BATCH_BYTES = 2**20  # complete a batch too: as base64 they are far below the service's own limit of 25 MiB a request
RAW_BYTES = 256 * 1024  # from about here base64 costs more than a request of its own does: such an image goes as it is
_AHEAD = 2  # batches taken up for each request under way: one slow answer does not idle the others


class Many:
    """Holds a bounded number of images, however long their stream.

    `add` each image and `send` where it says so; take the `rest` at the stream's end; `stop` in any case. `ask` is one
    request of as many images as it is given, `advance` hears how many were answered.
    """

    def __init__(
        self,
        ask: Callable[[list[bytes], Limiter], Awaitable[Answers]],
        concurrency: int,
        advance: Callable[[int], None] | None,
    ) -> None:
        self._ask, self._advance = ask, advance
        self._limiter = Limiter(concurrency)
        self._batch: list[ImageInput | ImageError] = []
        self._bytes = 0
        self._under_way: deque[asyncio.Task[Answers]] = deque()

    def add(self, image: "ImageInput | ImageError") -> bool:
        """Whether a batch is complete by it. Files are weighed here, not read; a PIL image is encoded, for the stream
        may close it next, or show another picture in it."""
        if not isinstance(image, (str, os.PathLike, ImageError)):
            image = load(image)
        self._batch.append(image)
        self._bytes += weigh(image)
        return len(self._batch) >= self._limiter.batch_size or self._bytes >= BATCH_BYTES

    async def send(self) -> Answers:
        """Starts on the batch that has gathered; returns what is answered by the time that there is room for more."""
        if self._batch:
            self._under_way.append(asyncio.create_task(self._predict(self._batch)))
            self._batch, self._bytes = [], 0
        answers: Answers = []
        while self._under_way and (self._under_way[0].done() or len(self._under_way) >= _AHEAD * self._limiter.limit):
            try:
                answers += await self._next()
            except CifarError:
                if answers:  # they are given first; the next call comes upon the failure again
                    break
                raise
        return answers

    async def rest(self) -> Answers:
        """At the stream's end: answers, until there are none."""
        return await self.send() or await self._next()

    async def stop(self) -> None:
        """Gives up what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _next(self) -> Answers:
        if not self._under_way:
            return []
        answers = await self._under_way[0]
        self._under_way.popleft()
        if self._advance:
            self._advance(len(answers))
        return answers

    async def _predict(self, batch: "list[ImageInput | ImageError]") -> Answers:
        async with self._limiter:
            loaded = await asyncio.to_thread(lambda: [load(image) for image in batch])
            small = [image for image in loaded if isinstance(image, bytes) and len(image) < RAW_BYTES]
            packed = iter(await self._classify(small))
            answers: Answers = []
            for image in loaded:
                if isinstance(image, ImageError):
                    answers.append(image)
                else:
                    answers += [next(packed)] if len(image) < RAW_BYTES else await self._classify([image])
            return answers

    async def _classify(self, images: list[bytes]) -> Answers:
        """A refused request is halved until the image that it was refused for stands alone."""
        try:
            return await self._ask(images, self._limiter) if images else []
        except (InvalidImage, PayloadTooLarge) as refusal:
            if len(images) == 1:
                return [ImageError(refusal.code, refusal.detail)]
        half = len(images) // 2
        return await self._classify(images[:half]) + await self._classify(images[half:])
