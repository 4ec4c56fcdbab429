"""What a caller may give as an image, its bytes, and how a stream of them is cut into batches."""

import io
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from clients.errors import ImageError

if TYPE_CHECKING:  # Pillow is imported when a picture comes, not when this package is
    import PIL.Image

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image"

# Under the service's own limit (25 MiB a body) also after base64, which makes 4 bytes of 3.
MAX_BATCH_BYTES = 6 * 2**20

_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")


def load(image: ImageInput) -> bytes:
    """The encoded image: a file's or the caller's bytes as they are, a PIL image as PNG, upright and without loss.

    Raises ImageError `unreadable`; TypeError for what is no image at all.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        return _read(image)
    return _png(image)


def load_each(images: Iterable[ImageInput]) -> list[bytes | ImageError]:
    """As `load`, with the error in the place of an image that cannot be read."""
    return [_load_or_error(image) for image in images]


class Batcher:
    """Cuts a stream into batches of at most `size` images and MAX_BATCH_BYTES; a larger image is a batch of its own.

    Images are weighed, not read: whoever sends a batch reads its files.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {size}")
        self._size = size
        self._batch: list[ImageInput] = []
        self._bytes = 0

    def add(self, image: ImageInput) -> Iterator[list[ImageInput]]:
        """Take one image; yields the batch that is complete by it, if one is."""
        weight = _weight(image)
        if self._batch and self._bytes + weight > MAX_BATCH_BYTES:
            yield from self.rest()
        self._batch.append(image)
        self._bytes += weight
        if len(self._batch) == self._size:
            yield from self.rest()

    def rest(self) -> Iterator[list[ImageInput]]:
        """Yields what has gathered, if anything has."""
        batch, self._batch, self._bytes = self._batch, [], 0
        if batch:
            yield batch


def batches(images: Iterable[ImageInput], size: int) -> Iterator[list[ImageInput]]:
    """A stream of any length in batches (see Batcher), each as soon as it is complete."""
    if isinstance(images, (str, bytes)):
        raise TypeError("predict_many takes several images: a single one goes to predict")
    batcher = Batcher(size)
    for image in images:
        yield from batcher.add(image)
    yield from batcher.rest()


async def batches_of_any(
    images: Iterable[ImageInput] | AsyncIterable[ImageInput], size: int
) -> AsyncIterator[list[ImageInput]]:
    """As `batches`, of an ordinary or an asynchronous stream."""
    batcher = Batcher(size)
    if isinstance(images, AsyncIterable):
        async for image in images:
            for batch in batcher.add(image):
                yield batch
        for batch in batcher.rest():
            yield batch
    else:
        for batch in batches(images, size):
            yield batch


def _weight(image: ImageInput) -> int:
    """About the bytes that `load` will give."""
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return os.stat(image).st_size
        except (OSError, ValueError):
            return 0  # reading it will say what is wrong
    return image.width * image.height * len(image.getbands()) if hasattr(image, "getbands") else 0


def _load_or_error(image: ImageInput) -> bytes | ImageError:
    try:
        return load(image)
    except ImageError as error:
        return error


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError("unreadable", f"{os.fspath(path)} cannot be read: {reason.lower()}") from None


def _png(image: "PIL.Image.Image") -> bytes:
    import PIL.Image
    import PIL.ImageOps

    if not isinstance(image, PIL.Image.Image):
        raise TypeError(f"an image is a path, bytes or a PIL image, not {type(image).__name__}")
    buffer = io.BytesIO()
    try:
        upright = PIL.ImageOps.exif_transpose(image)  # PNG would lose the orientation that a camera's JPEG carries
        if upright.mode not in _PNG_MODES:
            upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        upright.save(buffer, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise ImageError("unreadable", f"the PIL image cannot be written as PNG: {error}") from None
    return buffer.getvalue()
