"""What a caller may give as an image, and its bytes."""

import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from clients.errors import ImageError

if TYPE_CHECKING:  # Pillow is imported when a picture comes, not when this package is
    import PIL.Image

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image"

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm")  # of files that are images

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_TIFF_MODES = ("I", "I;16B", "F")  # grey of 32 bits, of 16 whose high byte comes first, and in fractions


def load(image: "ImageInput | ImageError") -> bytes | ImageError:
    """The encoded image: a file's or the caller's bytes as they are, a PIL image losslessly compressed.

    An ImageError `unreadable` where there is none; what this has given may be given again. Raises TypeError for what is
    no image at all.
    """
    if isinstance(image, (bytes, ImageError)):
        return image
    return _read(image) if isinstance(image, (str, os.PathLike)) else _encode(image)


def weigh(image: str | os.PathLike[str] | bytes | ImageError) -> int:
    """The bytes that `load` will give, found without reading."""
    if isinstance(image, (bytes, ImageError)):
        return len(image) if isinstance(image, bytes) else 0
    try:
        return os.stat(image).st_size
    except (OSError, ValueError):
        return 0  # reading it will say what is wrong


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
    except Exception as error:  # Pillow answers damage with whatever its parsers meet: SyntaxError, struct.error, ...
        return _unreadable("the PIL image", error)


def _unreadable(name: str, error: Exception) -> ImageError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ImageError("unreadable", f"{name} cannot be read: {reason.lower()}")


def _compress(image: "PIL.Image.Image") -> bytes:
    import PIL.Image
    from PIL.ExifTags import Base

    image.load()
    exif = PIL.Image.Exif()  # of its orientation, which the service heeds, and of nothing that may be damaged
    with suppress(Exception):  # what Pillow's parser meets
        if (turned := image.getexif()[Base.Orientation]) in range(2, 9):
            exif[Base.Orientation] = int(turned)
    if image.mode not in _PNG_MODES + _TIFF_MODES:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if image.mode in _TIFF_MODES else "PNG", compress_level=1, exif=exif)
    return buffer.getvalue()
