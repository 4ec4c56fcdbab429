"""What may be given as an image, and the bytes that are sent for it."""

import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from clients.errors import ImageError

if TYPE_CHECKING:  # Pillow is imported when a picture comes, not when this package is
    import PIL.Image

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image"

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm")  # the files taken from folders

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_TIFF_MODES = ("I", "I;16B", "F")  # grey: 32-bit integers, 16-bit big-endian, floats


def load(image: "ImageInput | ImageError") -> bytes | ImageError:
    """The encoded image: a file's or the caller's bytes unchanged, a PIL image losslessly compressed.

    Returns an ImageError `unreadable` where that fails. What this has returned may be passed again. Raises TypeError
    for an argument of another type.
    """
    if isinstance(image, (bytes, ImageError)):
        return image
    return _read(image) if isinstance(image, (str, os.PathLike)) else _encode(image)


def encoded_size(image: str | os.PathLike[str] | bytes | ImageError) -> int:
    """How many bytes `load` will return, found without reading the file; 0 where there is an error."""
    if isinstance(image, (bytes, ImageError)):
        return len(image) if isinstance(image, bytes) else 0
    try:
        return os.stat(image).st_size
    except (OSError, ValueError):
        return 0  # `load` will say why


def is_to_be_read(path: str | os.PathLike[str]) -> bool:
    """Whether it is a file; or a broken link or nothing, whose error shows when it is read. A pipe would block."""
    return os.path.isfile(path) or not os.path.exists(path)


def _read(path: str | os.PathLike[str]) -> bytes | ImageError:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        return _unreadable(os.fspath(path), error)


def _encode(image: "PIL.Image.Image") -> bytes | ImageError:
    import PIL.Image

    if not isinstance(image, PIL.Image.Image):
        raise TypeError(f"an image is a path, bytes or a PIL image, not {type(image).__name__}")
    try:
        return _compress(image)
    except Exception as error:  # a damaged image makes Pillow's parsers raise anything: SyntaxError, struct.error, ...
        return _unreadable("the PIL image", error)


def _unreadable(name: str, error: Exception) -> ImageError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ImageError("unreadable", f"{name} cannot be read: {reason.lower()}")


def _compress(image: "PIL.Image.Image") -> bytes:
    import PIL.Image
    from PIL.ExifTags import Base

    image.load()
    exif = PIL.Image.Exif()  # with the orientation, which the service applies, and no other tag: it may be damaged
    with suppress(Exception):  # damaged Exif makes Pillow's parser raise anything
        if (orientation := image.getexif()[Base.Orientation]) in range(2, 9):
            exif[Base.Orientation] = int(orientation)
    if image.mode not in _PNG_MODES + _TIFF_MODES:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if image.mode in _TIFF_MODES else "PNG", compress_level=1, exif=exif)
    return buffer.getvalue()
