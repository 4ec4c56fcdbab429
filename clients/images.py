"""What a caller may give as an image, and its bytes."""

import io
import os
from typing import TYPE_CHECKING, TypeAlias

from clients.errors import ImageError

if TYPE_CHECKING:  # Pillow is imported when a picture comes, not when this package is
    import PIL.Image

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image"

_TURNS = {  # by EXIF orientation: what makes a picture upright, of PIL.Image.Transpose
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm")  # of files that are images

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_TIFF_MODES = ("I", "F")  # grey of 32 bits, and in fractions


def load(image: ImageInput) -> bytes | ImageError:
    """The encoded image: a file's or the caller's bytes as they are, a PIL image upright and losslessly compressed.

    An ImageError `unreadable` where there is none. Raises TypeError for what is no image at all.
    """
    if isinstance(image, bytes):
        return image
    try:
        if isinstance(image, (str, os.PathLike)):
            with open(image, "rb", buffering=0) as file:
                return file.readall()
        return _encode(image)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name, a mode that PNG lacks
        name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else "the PIL image"
        reason = getattr(error, "strerror", None) or str(error)
        return ImageError("unreadable", f"{name} cannot be read: {reason.lower()}")


def weigh(image: ImageInput) -> int:
    """About the bytes that `load` will give, found without reading."""
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return os.stat(image).st_size
        except (OSError, ValueError):
            return 0  # reading it will say what is wrong
    return image.width * image.height * 3 if hasattr(image, "width") else 0


def _encode(image: "PIL.Image.Image") -> bytes:
    import PIL.Image

    if not isinstance(image, PIL.Image.Image):
        raise TypeError(f"an image is a path, bytes or a PIL image, not {type(image).__name__}")
    upright = _upright(image)  # PNG would lose the orientation that a camera's JPEG carries
    if upright.mode not in _PNG_MODES + _TIFF_MODES:
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    buffer = io.BytesIO()
    upright.save(buffer, "TIFF" if upright.mode in _TIFF_MODES else "PNG", compress_level=1)
    return buffer.getvalue()


def _upright(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """As ImageOps.exif_transpose, which raises where the EXIF or another tag in it is damaged."""
    from PIL.ExifTags import Base
    from PIL.Image import Transpose

    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(Base.Orientation, 1))
    except Exception:  # what Pillow's parser meets
        turn = None
    return image.transpose(Transpose[turn]) if turn else image
