"""The images of one `predict_many`: collected into batches, several of which are sent at a time, answered in order."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable

from clients.errors import CifarError, ImageError, InvalidImage, PayloadTooLarge
from clients.images import ImageInput, encoded_size, load
from clients.limiter import Limiter
from clients.results import Answers

BATCH_BYTES = 2**20  # this too completes a batch: as base64 it is far below the service's limit of 25 MiB a request
RAW_BYTES = 256 * 1024  # from about this size on, base64 costs more than a request with only this image, raw
_AHEAD = 2  # batches taken up for each request under way: one slow answer does not idle the others


class Many:
    """Holds a bounded number of images, however many there are.

    `add` each image, and `send` where that returns True; after the last image call `rest` until it returns nothing; in
    any case call `stop` at the end. `ask` sends the given images in one request; `advance` is told how many more images
    have been answered.
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
        """Returns whether the batch is now complete. A file is not read yet; a PIL image is encoded at once, since the
        caller may close or change it next."""
        if not isinstance(image, (str, os.PathLike, ImageError)):
            image = load(image)
        self._batch.append(image)
        self._bytes += encoded_size(image)
        return len(self._batch) >= self._limiter.batch_size or self._bytes >= BATCH_BYTES

    async def send(self) -> Answers:
        """Starts to send the batch and waits until there is room for the next. Returns the answers so far, in order."""
        if self._batch:
            self._under_way.append(asyncio.create_task(self._predict(self._batch)))
            self._batch, self._bytes = [], 0
        answers: Answers = []
        while self._under_way and (self._under_way[0].done() or len(self._under_way) >= _AHEAD * self._limiter.limit):
            try:
                answers += await self._next()
            except CifarError:
                if answers:  # these first; the next call raises the error again
                    break
                raise
        return answers

    async def rest(self) -> Answers:
        """After the last image: the next answers; none where all have been returned."""
        return await self.send() or await self._next()

    async def stop(self) -> None:
        """Cancels what is under way."""
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
        """A request that is refused is halved until the image that it was refused for is alone."""
        try:
            return await self._ask(images, self._limiter) if images else []
        except (InvalidImage, PayloadTooLarge) as refusal:
            if len(images) == 1:
                return [ImageError(refusal.code, refusal.detail)]
        half = len(images) // 2
        return await self._classify(images[:half]) + await self._classify(images[half:])
