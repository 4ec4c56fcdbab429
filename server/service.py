"""What the service does, without HTTP: encoded images in, their probabilities or refusals out."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from models.card import ModelCard
from models.machine import cores
from models.pixels import ImageError, Pixels, decode
from server.batcher import Batcher
from server.engine import Engine, Predictions
from server.errors import NotReady, image_refused
from server.settings import Settings
from server.wire import Probabilities

# Up to these limits a picture decodes in some 100 µs, about what a thread costs; above, it would block the event loop.
# Pixels count too: 34 bytes of WebP can be 64 million.
_DECODE_INLINE_BYTES = 8 * 1024
_DECODE_INLINE_PIXELS = 256 * 256
_DECODE_INLINE_SCANS = 20  # of a progressive JPEG: each goes over the whole picture, and can be 10 bytes


@dataclass(frozen=True, slots=True)
class Classified:
    """For each image, in the order given: its probabilities (float32 [C]), or why there are none. All by one model."""

    images: list[Probabilities | ImageError]
    card: ModelCard
    batch_size: int  # images in their batch, other requests' included; in the largest one if there were several


class Service:
    """Decodes, batches and infers."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.model_name = settings.model_name
        self._engine = engine
        self._batcher = Batcher(engine, settings.max_batch_size, settings.max_waiting_images)
        # About one thread per core in all processes together: decoding a picture at the limit can take 1 GB.
        threads = -(-cores() // settings.http_process_count())
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._decoding = 0  # images that wait for a decoder thread, or are in one

    @property
    def ready(self) -> bool:
        """Whether a request would be answered at once."""
        return self._engine.ready

    def check_ready(self) -> None:
        """Raises NotReady if a request would have to wait for a worker."""
        if not self.ready:
            raise NotReady("no worker is ready: one is starting")

    @property
    def card(self) -> ModelCard:
        """The card of the model that answers, or answered last. Raises NotReady before there is one."""
        if self._engine.card is None:
            raise NotReady("no model is ready yet: ask again in a moment")
        return self._engine.card

    def model_info(self, card: ModelCard) -> dict[str, str]:
        """The member `model` of every answer: the model's name, and the version that `card` is of."""
        return {"name": self.model_name, "version": card.version}

    async def reload(self) -> ModelCard:
        """Serves the checkpoint as it is on disk now; returns its card. Raises CheckpointRefused, NotReady."""
        return await self._engine.reload()

    def check_room(self) -> None:
        """Raises QueueFull if as many images wait as may."""
        self._batcher.check_room(self._decoding)

    async def classify(self, images: list[bytes] | Pixels) -> Classified:
        """Encoded images, or pixels of the size that the model takes, uint8 [N, H, W, 3] → Classified.

        If cancelled, what has not started is dropped. Raises QueueFull, NotReady, InferenceFailed.
        """
        self.check_room()  # others may have come while the body arrived
        step = self._batcher.max_batch_size
        if len(images) <= step:  # most requests: no tasks, nothing to put together
            return await self._classify_batch(images)
        while True:
            batches = (images[start : start + step] for start in range(0, len(images), step))
            tasks = [asyncio.ensure_future(self._classify_batch(batch)) for batch in batches]
            try:
                parts = await asyncio.gather(*tasks)
            finally:
                for task in tasks:  # the others, where one has failed
                    task.cancel()
            if len({part.card.version for part in parts}) == 1:  # else the model changed: no answer mixes two
                return Classified(
                    [image for part in parts for image in part.images],
                    parts[0].card,
                    max(part.batch_size for part in parts),
                )

    async def decode(self, image: bytes) -> Pixels:
        """An encoded image → uint8 [H, W, 3], as the model takes it. Raises NotReady or what image_refused gives."""
        (decoded,) = await self._decode([image])
        if isinstance(decoded, ImageError):
            raise image_refused(decoded)
        return decoded

    async def probe(self, pixels: Pixels) -> Predictions:
        """Up to max_batch_size pictures, uint8 [N, H, W, 3] → their predictions.

        They bypass the queue, and are counted in no metric of images. Raises InferenceFailed.
        """
        return await self._batcher.infer_batch(pixels)

    async def _classify_batch(self, images: list[bytes] | Pixels) -> Classified:
        decoded = await self._decode(images) if isinstance(images, list) else list(images)
        pixels = [image for image in decoded if not isinstance(image, ImageError)]
        if not pixels:
            return Classified([image for image in decoded if isinstance(image, ImageError)], self.card, 0)
        predictions = await self._batcher.infer(pixels)
        rows = iter(predictions.probabilities)
        classified = [image if isinstance(image, ImageError) else next(rows) for image in decoded]
        return Classified(classified, predictions.card, predictions.batch_size)

    async def _decode(self, images: list[bytes]) -> list[Pixels | ImageError]:
        """Decodes one small picture at once, anything else in a thread. Raises NotReady."""
        size, max_pixels = self.card.input_size, self.settings.max_image_pixels
        if len(images) == 1 and _seems_small(images[0]):
            decoded = _decode(images[0], size, min(_DECODE_INLINE_PIXELS, max_pixels))
            if not (isinstance(decoded, ImageError) and decoded.code == "too_many_pixels"):
                return [decoded]
        abandoned = threading.Event()

        def decode_all() -> list[Pixels | ImageError]:
            return [_decode(image, size, max_pixels) for image in images if not abandoned.is_set()]

        self._decoding += len(images)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, decode_all)
        finally:
            self._decoding -= len(images)
            abandoned.set()  # after the deadline nobody waits for the images that are left


def _seems_small(image: bytes) -> bool:
    return len(image) <= _DECODE_INLINE_BYTES and image.count(b"\xff\xda") <= _DECODE_INLINE_SCANS


def _decode(image: bytes, size: int, max_pixels: int) -> Pixels | ImageError:
    try:
        return decode(image, size, max_pixels)
    except ImageError as error:
        return error
